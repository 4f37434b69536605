"""A model as an embedding function of LanceDB: its tables embed videos when they are added, and queries by themselves.

Importing this registers it as "polyvid", which a process needs that opens such a table.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from lancedb.embeddings import EmbeddingFunction, register
from pydantic import PrivateAttr
from torch.nn import functional as F

from polyvid.modeling import MMPModel, MMPProcessor


@register("polyvid")
class PolyvidEmbeddings(EmbeddingFunction):
    """Embeddings of one space for texts and videos, normalised: the nearest by any metric has the highest cosine.

    Make it with `PolyvidEmbeddings.create(name=...)`; LanceDB keeps these arguments in the table.

    Args:
        name: a model, its folder or its id on the Hub.
        revision: of the repository.
        device: for the model and the networks with which it sees videos.
        source: what the source column holds: `"video"`, paths, addresses or the bytes of files; or `"text"`.
    """

    name: str
    revision: str | None = None
    device: str = "cpu"
    source: Literal["video", "text"] = "video"
    _loaded: tuple[MMPModel, MMPProcessor] | None = PrivateAttr(None)

    def ndims(self) -> int:
        return int(self._load()[0].config.embed_dim)

    def compute_query_embeddings(self, query: Any, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        """Of a text; or of a video, if it is not a string: a `Path`, bytes, or features (seconds, width).

        Raises:
            PolyvidError: for an empty text, or a video that cannot be read.
        """
        return self._embed([query], "text" if isinstance(query, str) else "video")

    def compute_source_embeddings(self, inputs: Any, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        """Of the rows of the source column.

        Raises:
            PolyvidError: for a row that cannot be embedded; names it.
        """
        return self._embed(list(self.sanitize_input(inputs)), self.source)

    # No service is asked: what fails once fails again, and the error is not to be wrapped.

    def compute_query_embeddings_with_retry(self, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        return self.compute_query_embeddings(*args, **kwargs)

    def compute_source_embeddings_with_retry(self, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        return self.compute_source_embeddings(*args, **kwargs)

    def _embed(self, rows: Sequence[Any], kind: str) -> list[np.ndarray]:
        model, processor = self._load()
        encode = model.encode_texts if kind == "text" else model.encode_videos
        return list(F.normalize(encode(rows, processor), dim=-1).numpy())

    def _load(self) -> tuple[MMPModel, MMPProcessor]:
        if self._loaded is None:
            model = MMPModel.from_pretrained(self.name, revision=self.revision or "main").to(self.device)
            self._loaded = model, MMPProcessor.from_pretrained(self.name, revision=self.revision or "main")
        return self._loaded
