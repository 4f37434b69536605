"""Dual encoders that sentence-transformers loads: models of texts and images, and text towers for others' images.

A text tower was taught to embed other languages like a dual encoder's English, as M-CLIP and
`sentence-transformers/clip-ViT-B-32-multilingual-v1` were; the dual encoder sees the images.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.dual_encoders.frames import FrameRule
from polyvid.train.dual_encoders.models import DualEncoder

PAIR = "+"
"""Between the names of a text tower and of what sees the images; no Hub id has it."""


class SentenceDualEncoder(DualEncoder):
    """A folder or Hub id of sentence-transformers whose model takes texts and images.

    Its own prompts for queries and documents apply. Like `DualEncoder`, it embeds a video as the mean of its frames.

    Raises:
        ImportError: without sentence-transformers.
        PolyvidError: for a model that takes no images.
    """

    def _load(self) -> None:
        self.model = open_model(self.name, self.device)
        if "image" not in self.model.modalities:
            raise PolyvidError(
                f"{self.name} reads texts and sees no images. If it was taught to embed texts like a dual encoder, "
                f"pass both, such as {self.name}{PAIR}openai/clip-vit-base-patch32."
            )
        self.family = "sentence-transformers"

    def _texts(self, texts: list[str]) -> Tensor:
        return embed_queries(self.model, texts)

    def _video(self, frames: list[np.ndarray]) -> Tensor:
        images = [Image.fromarray(frame) for frame in frames]
        embeds: Tensor = self.model.encode_document(images, convert_to_tensor=True, show_progress_bar=False)
        return normalize(embeds.float(), dim=-1).mean(0)


class PairedDualEncoder(DualEncoder):
    """A text tower of sentence-transformers, and a dual encoder into whose space it embeds.

    Args:
        name: of the text tower.
        seeing: embeds the videos.
        frames, prompt, device: as for `DualEncoder`.

    Raises:
        ImportError: without sentence-transformers.
        PolyvidError: if texts and videos are embedded in different numbers of dimensions.
    """

    def __init__(self, name: str, seeing: DualEncoder, frames: FrameRule, prompt: str, device: str | None = None):
        self._seeing = seeing
        super().__init__(name, frames, prompt, device)

    def _load(self) -> None:
        self.model = open_model(self.name, self.device)
        self.family = f"{self.name}{PAIR}{self._seeing.name}"
        widths = [len(embedder._texts(["a dog"])[0]) for embedder in (self, self._seeing)]
        if widths[0] != widths[1]:
            raise PolyvidError(
                f"{self.name} embeds texts in {widths[0]} dimensions and {self._seeing.name} images in {widths[1]}: "
                "they do not belong together."
            )

    def _texts(self, texts: list[str]) -> Tensor:
        return embed_queries(self.model, texts)

    def _video(self, frames: list[np.ndarray]) -> Tensor:
        return self._seeing._video(frames)


def open_model(name: str, device: torch.device) -> Any:
    """A model of sentence-transformers, in evaluation mode; code that comes with it is not run.

    Raises:
        ImportError: without the library.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            f"{name} is a model of sentence-transformers: pip install 'polyvid[sentence-transformers]'."
        ) from error
    return SentenceTransformer(name, device=str(device), model_kwargs={"use_safetensors": True}).eval()


def embed_queries(model: Any, texts: list[str]) -> Tensor:
    """(texts, dim), with the model's own prompt for queries, if it has one."""
    embeds: Tensor = model.encode_query(texts, convert_to_tensor=True, show_progress_bar=False)
    return embeds
