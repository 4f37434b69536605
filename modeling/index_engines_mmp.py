"""What searches a [`VideoIndex`]: the exact engine, and how the others are found."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

import torch
from transformers.utils import logging

from .errors_mmp import PolyvidError
from .index_rows_mmp import Condition, VideoRows
from .index_vectors_mmp import StoredVectors

logger = logging.get_logger(__name__)


class ExactEngine:
    """Compares a query with every vector. Needs nothing but torch.

    Every engine of [`VideoIndex`] has these members; other packages bring more. Each is made from an exact one,
    `from_exact(engine, **options)`, and made again from a file, `from_tensors(tensors, options)`.
    """

    name = "exact"

    def __init__(self, vectors: StoredVectors, rows: VideoRows):
        self.vectors, self.rows = vectors, rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def embed_dim(self) -> int:
        return self.vectors.data.shape[1]

    @property
    def kinds(self) -> dict[str, type]:
        """What there is to filter by: `str` or `float` for each column."""
        return self.rows.kinds

    @property
    def options(self) -> dict:
        """What `from_tensors` needs besides the tensors; can be written as JSON."""
        return {}

    def nearest(self, queries: torch.Tensor, k: int, filters: Sequence[Condition]) -> list[list[dict]]:
        """The hits of each query, best first; `queries` are (queries, embed_dim), float32, of length 1."""
        scores, rows = self._nearest_rows(queries, k, self.rows.allowed(filters))
        return [
            [self.rows.hit(row, score) for row, score in zip(*pair, strict=True) if score > -torch.inf]
            for pair in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _nearest_rows(self, queries, k, allowed) -> tuple[torch.Tensor, torch.Tensor]:
        return self.vectors.scan(queries, k, allowed)

    @classmethod
    def from_exact(cls, engine: ExactEngine) -> ExactEngine:
        return cls(engine.vectors, engine.rows)

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.vectors.tensors() | self.rows.tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], options: Mapping) -> ExactEngine:
        return cls(StoredVectors.from_tensors(tensors), VideoRows.from_tensors(tensors))


def engine_class(name: str, without: str | None = None):
    """An engine by name. Those that need more than torch are in the installed package, where this code may not be."""
    if name == "exact":
        return ExactEngine
    try:
        engines = importlib.import_module("polyvid.train.search.engines").ENGINES
        if name not in engines:
            raise PolyvidError(f"Unknown engine {name!r}: choose from {' '.join(['auto', 'exact', *engines])}.")
        return engines[name].check()
    except ImportError as error:
        if without is None:
            raise ImportError(f"Engine {name!r} needs pip install 'polyvid[search]' ({error}).") from error
        logger.warning(f"Searching exactly, without engine {name!r}: pip install 'polyvid[search]' ({error}).")
        return engine_class(without)
