"""What scoring needs of a model: embeddings of texts and of videos. MMP models and dual encoders have it."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Embedder(Protocol):
    """Embeds many texts or videos, in the order of the input, as float32 on the CPU."""

    def encode_texts(self, texts: Sequence[str], processor: Any, *, progress: Any = ...) -> Tensor:
        """(texts, dim)."""

    def encode_videos(
        self, videos: Sequence[Any], processor: Any, *, names: Sequence[object] | None = ..., progress: Any = ...
    ) -> Tensor:
        """(videos, dim); an MMP model takes features, a dual encoder video files."""
