"""The engine `"faiss"` of `VideoIndex`: approximate search on one machine, for more than a million rows.

Of 100,000 vectors of 256 dimensions on one core, faiss's inverted file (int8) took 3 s to build and found all of the
exact ten at 3,009 queries a second; usearch's graph (int8) took 20 s and found 0.979 of them at 2,160, both re-ranked
by exact comparisons with 100 candidates or fewer. tests/benchmarks/search.py measures it.

The entry point `faiss` of `polyvid.index_engines` names this module; importing it imports faiss (extra `search`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
import torch
from tqdm import tqdm

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.index_engines_mmp import ExactEngine
from polyvid.modeling.index_rows_mmp import VideoRows, stored
from polyvid.modeling.index_vectors_mmp import StoredVectors

CODES = {"float16": ("SQfp16", 1), "int8": ("SQ8", 4), "binary": ("RaBitQ", 40)}
"""What the approximate search compares: faiss's name, and how many candidates it takes for each hit asked for."""
EXACT_ROWS = 50_000
"""A filter that leaves at most these rows is searched exactly: it is as fast, and finds all."""
ADD_ROWS = 16_384
MIN_PROBES = 32
REBUILT_FROM = 0.25
"""Rows added and removed, as a share of all, from which the cells are learned anew: they were learned from others."""


class FaissEngine(ExactEngine):
    """An inverted file of faiss over small codes in memory; its candidates are re-ranked by the stored vectors.

    K-means assigns the vectors to cells, and a search compares a query with those of the nearest `probes` cells. The
    fewer rows the filters leave, the more cells it looks into; if only a few rows are left, it compares all of them.
    """

    name = "faiss"

    def __init__(self, vectors: StoredVectors, rows: VideoRows, cells: Any, codes: str, probes: int, changed: int = 0):
        super().__init__(vectors, rows)
        self.cells, self.codes, self.probes = cells, codes, probes
        self.changed = changed  # rows added and removed since the cells were learned

    @classmethod
    def from_exact(
        cls, engine: ExactEngine, codes: str = "int8", cells: int | None = None, probes: int | None = None
    ) -> FaissEngine:
        """
        Args:
            codes: `"float16"`, `"int8"` or `"binary"` (RaBitQ): 2, 1 or 1/8 bytes of memory for each of embed_dim.
                `"binary"` is for when memory is short: more candidates must be re-ranked from the file.
            cells: default 2 · √rows.
            probes: cells to look into, default a tenth of them; more cells find more and take longer.

        Raises:
            PolyvidError: for unknown codes, or numbers below 1.
        """
        if codes not in CODES:
            raise PolyvidError(f"Unknown codes {codes!r}: choose from {' '.join(CODES)}.")
        if any(number is not None and number < 1 for number in (cells, probes)):
            raise PolyvidError(f"cells and probes must be at least 1, got {cells} and {probes}.")
        vectors, rows = engine.vectors, len(engine)
        # faiss wants 39 vectors for each cell to learn from.
        cells = cells or max(1, min(int(2 * math.sqrt(rows)), rows // 39))
        name = f"IVF{cells},{CODES[codes][0]}"
        index = faiss.index_factory(engine.embed_dim, name, faiss.METRIC_INNER_PRODUCT)
        sample = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[: 40 * cells].sort().values
        index.train(vectors[sample].numpy())
        for start in tqdm(range(0, rows, ADD_ROWS), desc="faiss", unit=" blocks", disable=rows < 10 * ADD_ROWS):
            index.add(vectors[start : start + ADD_ROWS].numpy())
        return cls(vectors, engine.rows, index, codes, probes or max(MIN_PROBES, cells // 10))

    @property
    def options(self) -> dict[str, Any]:
        return {"codes": self.codes, "probes": self.probes} | ({"changed": self.changed} if self.changed else {})

    def _append(self, part: ExactEngine) -> None:
        before = len(self)
        super()._append(part)
        for start in range(before, len(self), ADD_ROWS):
            self.cells.add(self.vectors[start : start + ADD_ROWS].numpy())
        self._count_changes(len(part))

    def _keep(self, rows: torch.Tensor) -> None:
        before = len(self)
        super()._keep(rows)
        # faiss keeps the numbers of the rows that are left, which here are their new positions.
        gone = np.ones(before, bool)
        gone[rows.numpy()] = False
        self.cells.remove_ids(np.flatnonzero(gone))
        position = np.cumsum(~gone) - 1
        lists = self.cells.invlists
        for cell in range(self.cells.nlist):
            if size := lists.list_size(cell):
                numbers = faiss.rev_swig_ptr(lists.get_ids(cell), size)
                numbers[:] = position[numbers]
        self._count_changes(before - len(rows))

    def _count_changes(self, rows: int) -> None:
        self.changed += rows
        if self.changed > REBUILT_FROM * len(self):
            anew = self.from_exact(self, self.codes)
            self.cells, self.probes, self.changed = anew.cells, anew.probes, 0

    def _nearest_rows(
        self, queries: torch.Tensor, k: int, allowed: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        left = len(self) if allowed is None else int(allowed.sum())
        if allowed is not None and left <= EXACT_ROWS:
            return super()._nearest_rows(queries, k, allowed)
        kinds = faiss.IVFRaBitQSearchParameters if self.codes == "binary" else faiss.SearchParametersIVF
        wanted = min(len(self), k * CODES[self.codes][1])
        probes = max(self.probes, 2 * wanted * self.cells.nlist / len(self))  # cells enough to hold what is wanted
        arguments = {"nprobe": min(self.cells.nlist, math.ceil(probes * len(self) / left))}
        if allowed is not None:
            arguments["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed.numpy(), bitorder="little"))
        _, candidates = self.cells.search(queries.numpy(), wanted, params=kinds(**arguments))
        return self.vectors.rerank(queries, torch.from_numpy(candidates), k)

    def tensors(self) -> dict[str, torch.Tensor]:
        return super().tensors() | {"faiss": torch.from_numpy(faiss.serialize_index(self.cells))}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], options: Mapping[str, Any]) -> FaissEngine:
        """
        Raises:
            PolyvidError: for options or cells that do not fit the vectors, or that this class does not write.
        """
        exact = ExactEngine.from_tensors(tensors, {})
        codes, probes, changed = options.get("codes"), options.get("probes", 0), options.get("changed", 0)
        known = isinstance(probes, int) and probes >= 1 and isinstance(changed, int) and changed >= 0
        if codes not in CODES or not known or options.keys() - {"changed"} != {"codes", "probes"}:
            raise PolyvidError(f"its faiss options are {dict(options)}")
        try:
            # Read-only: cells may name a file that holds them, which faiss would open to write; they are refused below.
            payload = stored(tensors, "faiss", torch.uint8, (None,)).numpy()
            with _memory_limit(len(payload)):
                cells = faiss.deserialize_index(payload, faiss.IO_FLAG_READ_ONLY)
        except (RuntimeError, MemoryError) as error:
            reason = (str(error).strip().splitlines() or ["it asks for too much memory"])[-1]
            raise PolyvidError(f"faiss cannot read its cells: {reason}") from error
        if not _are_own(cells, codes) or (cells.ntotal, cells.d) != (len(exact), exact.embed_dim):
            raise PolyvidError(f"its faiss cells do not hold its {len(exact)} vectors")
        _refuse_other_rows(cells, len(exact))
        return cls(exact.vectors, exact.rows, cells, codes, probes, changed)


@contextmanager
def _memory_limit(size: int) -> Iterator[None]:
    """While the block reads `size` bytes: faiss makes room for no list that they cannot hold, whatever they promise."""
    names = [name for name in ("vector_byte", "loop") if hasattr(faiss, f"set_deserialization_{name}_limit")]  # new
    before = {name: getattr(faiss, f"get_deserialization_{name}_limit")() for name in names}
    try:
        for name in names:
            getattr(faiss, f"set_deserialization_{name}_limit")(size + 64)
        yield
    finally:
        for name in names:
            getattr(faiss, f"set_deserialization_{name}_limit")(before[name])


def _are_own(cells: Any, codes: str) -> bool:
    """Whether the cells are of the kind and sizes that `from_exact` makes: faiss searches others, but not as safely."""
    kind = faiss.IndexIVFRaBitQ if codes == "binary" else faiss.IndexIVFScalarQuantizer
    if not isinstance(cells, kind) or cells.metric_type != faiss.METRIC_INNER_PRODUCT or not cells.is_trained:
        return False
    centres, lists = faiss.downcast_index(cells.quantizer), faiss.downcast_InvertedLists(cells.invlists)
    if not isinstance(centres, faiss.IndexFlat) or not isinstance(lists, faiss.ArrayInvertedLists):
        return False
    fits = (centres.d, centres.ntotal, lists.nlist) == (cells.d, cells.nlist, cells.nlist)
    fits = fits and centres.codes.size() == 4 * cells.d * cells.nlist and lists.code_size == cells.code_size
    if codes == "binary":
        return fits and cells.rabitq.d == cells.d and cells.rabitq.code_size == cells.code_size
    of_codes = {"int8": (faiss.ScalarQuantizer.QT_8bit, 1, 2), "float16": (faiss.ScalarQuantizer.QT_fp16, 2, 0)}
    learned = (cells.sq.qtype, cells.sq.code_size // cells.d, cells.sq.trained.size() // cells.d)
    return fits and cells.sq.d == cells.d and cells.sq.code_size == cells.code_size and learned == of_codes[codes]


def _refuse_other_rows(cells: Any, rows: int) -> None:
    """Every row must be in one cell: a search looks up its vector by the number that faiss returns.

    Raises:
        PolyvidError: if a row is missing, or a number is out of range.
    """
    found = np.zeros(rows, bool)
    for cell in range(cells.nlist):
        if size := cells.invlists.list_size(cell):
            numbers = faiss.rev_swig_ptr(cells.invlists.get_ids(cell), size)
            if numbers.min() < 0 or numbers.max() >= rows:
                raise PolyvidError("the rows of its faiss cells are out of range")
            found[numbers] = True
    if not found.all():
        raise PolyvidError(f"its faiss cells do not hold its {rows} vectors")
