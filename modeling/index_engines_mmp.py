"""What searches a [`VideoIndex`]: the exact engine, and how engines of installed packages are found."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Protocol

import torch

from .errors_mmp import PolyvidError
from .index_rows_mmp import Condition, VideoRows
from .index_vectors_mmp import StoredVectors

logger = logging.getLogger(__name__)

ENTRY_POINTS = "polyvid.index_engines"
"""The group of entry points under which a package declares its engines: `name = "package.module:EngineClass"`."""
EXTRA = "polyvid[search]"
OF_EXTRA = ("faiss", "lance")
NOTHING_LEFT = "No video would be left in the index: delete it instead."


class Engine(Protocol):
    """What [`VideoIndex`] asks of an engine.

    An engine is made from an exact one by `from_exact(engine, **options)`, and restored from a file by
    `from_tensors(tensors, options)`, which raises a `PolyvidError` for tensors that it could not have written. One that
    keeps the vectors itself also has `vectors` and `rows`, as [`ExactEngine`] does, whose methods it can inherit; where
    a database keeps them, both are None. An engine may meet the classes of this module twice, from the package and from
    a model's remote code, so it must not test for them with `isinstance`.
    """

    name: str

    @property
    def vectors(self) -> StoredVectors | None: ...

    @property
    def rows(self) -> VideoRows | None: ...

    def __len__(self) -> int: ...

    @property
    def embed_dim(self) -> int: ...

    @property
    def kinds(self) -> dict[str, type]:
        """What a search can filter by: `str` or `float` for each column."""

    @property
    def options(self) -> dict[str, Any]:
        """What `from_tensors` needs besides the tensors; can be written as JSON."""

    def nearest(self, queries: torch.Tensor, k: int, filters: Sequence[Condition]) -> list[list[dict[str, Any]]]:
        """The hits of each query, best first; `queries` are (queries, embed_dim), float32, of length 1."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What the file of the index holds."""

    def add(self, part: ExactEngine) -> None:
        """Adds the rows of `part`, of the same width, storage and kind, in place of those that their videos had.

        Raises:
            PolyvidError: for metadata that the engine cannot take.
        """

    def remove(self, video_ids: Collection[str]) -> None:
        """Removes all rows of these videos.

        Raises:
            PolyvidError: for a video that is not there, or if nothing would be left. Then nothing is removed.
        """


class ExactEngine:
    """Compares a query with every vector. Needs nothing but torch."""

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
        return self.rows.kinds

    @property
    def options(self) -> dict[str, Any]:
        return {}

    def nearest(self, queries: torch.Tensor, k: int, filters: Sequence[Condition]) -> list[list[dict[str, Any]]]:
        """The hits of each query, best first; `queries` are (queries, embed_dim), float32, of length 1."""
        scores, rows = self._nearest_rows(queries, k, self.rows.allowed(filters))
        return [
            [self.rows.hit(row, score) for row, score in zip(*pair, strict=True) if score > -torch.inf]
            for pair in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _nearest_rows(
        self, queries: torch.Tensor, k: int, allowed: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.vectors.scan(queries, k, allowed)

    @classmethod
    def from_exact(cls, engine: ExactEngine) -> ExactEngine:
        return cls(engine.vectors, engine.rows)

    def add(self, part: ExactEngine) -> None:
        before, kept = len(self), self.rows.rows_without(part.rows.video_ids)
        self._append(part)
        if len(kept) < before:
            self._keep(torch.cat([kept, torch.arange(before, len(self))]))

    def remove(self, video_ids: Collection[str]) -> None:
        check_present(video_ids, self.rows.video_ids)
        kept = self.rows.rows_without(video_ids)
        if len(kept) == 0:
            raise PolyvidError(NOTHING_LEFT)
        if len(kept) < len(self):
            self._keep(kept)

    def _append(self, part: ExactEngine) -> None:
        """Puts the rows of `part` after those that are here."""
        rows = VideoRows.cat([self.rows, part.rows])
        if self.rows.columns or part.rows.columns:
            rows = rows.with_metadata(self.rows.metadata() | part.rows.metadata())
        self.vectors, self.rows = StoredVectors.cat([self.vectors, part.vectors]), rows

    def _keep(self, rows: torch.Tensor) -> None:
        """Keeps these rows only, (kept,) int64 in order."""
        self.vectors, self.rows = self.vectors.kept(rows), self.rows.kept(rows)

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.vectors.tensors() | self.rows.tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> ExactEngine:
        """
        Raises:
            PolyvidError: for tensors that do not fit one another, and for offsets or codes out of range.
        """
        vectors, rows = StoredVectors.from_tensors(tensors), VideoRows.from_tensors(tensors)
        if len(vectors) != len(rows):
            raise PolyvidError(f"it has {len(vectors)} vectors for {len(rows)} rows")
        return cls(vectors, rows)


def check_present(video_ids: Iterable[str], present: Iterable[str]) -> None:
    """
    Raises:
        PolyvidError: for a video that is not among those that are present.
    """
    if missing := sorted(set(video_ids).difference(present)):
        raise PolyvidError(f"Video {missing[0]!r} is not in the index.")


def engine_class(name: str, without: str | None = None) -> Any:
    """An engine class by name: `"exact"`, or one that an installed package declares as an entry point.

    Args:
        name: of the engine.
        without: the engine to take, with a warning, where `name` is not installed; None raises instead.

    Raises:
        PolyvidError: no installed package has an engine of this name.
        ImportError: a package has it, or `polyvid[search]` would, but what it needs is not installed.
    """
    if name == ExactEngine.name:
        return ExactEngine
    declared = entry_points(group=ENTRY_POINTS)
    try:
        if name in declared.names:
            return declared[name].load()
        if name not in OF_EXTRA and without is None:
            known = " ".join(["auto", ExactEngine.name, *sorted({*OF_EXTRA, *declared.names})])
            raise PolyvidError(f"Unknown engine {name!r}: choose from {known}.")
        reason = "no installed package brings it"
    except ImportError as error:
        reason = str(error)
    install = f"pip install '{EXTRA}'" if name in OF_EXTRA else "the package that made this index"
    if without is None:
        raise ImportError(f"Engine {name!r} needs {install} ({reason}).")
    logger.warning(f"Searching with engine {without!r}: {name!r} needs {install} ({reason}).")
    return engine_class(without)


def engine_factory(name: str, options: Mapping[str, Any], without: str | None = None) -> Callable[..., Engine]:
    """The function that makes this engine from an exact one.

    Raises:
        PolyvidError: for an unknown engine, and for options that it does not have or lacks.
        ImportError: as for `engine_class`.
    """
    create: Callable[..., Engine] = engine_class(name, without).from_exact
    try:
        inspect.signature(create).bind(None, **options)
    except TypeError as error:
        raise PolyvidError(f"Engine {name!r}: {error}.") from error
    return create
