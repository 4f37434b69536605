"""Engines of `VideoIndex` for collections that are too large to compare a query with every vector; extra `search`.

`faiss` is the approximate engine of one machine. Of 100,000 vectors of 256 dimensions on one core, its inverted file
(int8) took 3 s to build and found all of the exact ten at 3,009 queries a second; usearch's graph (int8) took 20 s and
found 0.979 of them at 2,160, both re-ranked by exact comparisons with 100 candidates or fewer.

`lance` is the engine for those who outgrow one machine. With 20,000 vectors and filters over two columns, in the form
that runs without a server, LanceDB answered 95 queries a second (76 filtered), Milvus Lite 26 (33), and Qdrant's local
mode 43 (2), which is a stand-in in Python without the server's indexes. LanceDB embedded is the engine itself: the same
code and the same files serve a folder, an object store (`s3://`, `gs://`, `az://`) that any number of machines search
without a server between them, and its cloud (`db://`), which splits a query over machines; of these only the folder was
within reach of the tests. It keeps float16, re-ranks from it, and compares texts, so that filters mean what they mean
locally. tests/benchmarks/search.py measures both engines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.index_engines_mmp import ExactEngine
from polyvid.modeling.index_rows_mmp import Condition, VideoRows
from polyvid.modeling.index_vectors_mmp import StoredVectors

CODES = {"float16": ("SQfp16", 1), "int8": ("SQ8", 4), "binary": ("RaBitQ", 40)}
"""What the approximate search compares: faiss's name, and how many candidates it takes for each hit asked for."""
EXACT_ROWS = 50_000
"""A filter that leaves at most these rows is searched exactly: it is as fast, and finds all."""
ADD_ROWS = 16_384
MIN_PROBES = 32


class FaissEngine(ExactEngine):
    """An inverted file of faiss over small codes in memory; its candidates are re-ranked by the stored vectors.

    Vectors are dealt to cells by k-means, and a search compares with those of the nearest `probes` cells. With filters
    it takes as many more cells as they leave fewer rows, and where they leave few, all that are left.
    """

    name = "faiss"

    def __init__(self, vectors: StoredVectors, rows: VideoRows, cells: Any, codes: str, probes: int):
        super().__init__(vectors, rows)
        self.cells, self.codes, self.probes = cells, codes, probes

    @classmethod
    def check(cls) -> type[FaissEngine]:
        """Raises an ImportError where faiss is not installed."""
        import faiss  # noqa: F401

        return cls

    @classmethod
    def from_exact(
        cls, engine: ExactEngine, codes: str = "int8", cells: int | None = None, probes: int | None = None
    ) -> FaissEngine:
        """
        Args:
            codes: `"float16"`, `"int8"` or `"binary"` (RaBitQ): 2, 1 or 1/8 bytes of memory for each of embed_dim.
                `"binary"` is for when memory is short: more candidates must be re-ranked from the file.
            cells: default 2 · √rows.
            probes: cells looked into, default a tenth of them: more find more and take longer.

        Raises:
            PolyvidError: for unknown codes, or numbers below 1.
        """
        import faiss

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
    def options(self) -> dict:
        return {"codes": self.codes, "probes": self.probes}

    def _nearest_rows(self, queries, k, allowed):
        import faiss

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
        import faiss

        return super().tensors() | {"faiss": torch.from_numpy(faiss.serialize_index(self.cells))}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], options: Mapping) -> FaissEngine:
        import faiss

        exact = ExactEngine.from_tensors(tensors, {})
        return cls(exact.vectors, exact.rows, faiss.deserialize_index(tensors["faiss"].numpy()), **options)


class LanceEngine:
    """A LanceDB table: vectors, ids and metadata are there, and nothing is here but its address."""

    name = "lance"
    INDEXES = {"float16": "IVF_FLAT", "int8": "IVF_SQ", "binary": "IVF_RQ"}
    INDEX_ROWS = 10_000
    """Below these LanceDB compares with every vector."""

    def __init__(self, uri: str, table: str, codes: str, probes: int):
        import lancedb

        self.uri, self.table, self.codes, self.probes = str(uri), table, codes, probes
        self._table = lancedb.connect(self.uri).open_table(table)

    @classmethod
    def check(cls) -> type[LanceEngine]:
        """Raises an ImportError where LanceDB is not installed."""
        import lancedb  # noqa: F401

        return cls

    @classmethod
    def from_exact(
        cls,
        engine: ExactEngine,
        uri: str,
        table: str = "videos",
        codes: str = "int8",
        probes: int | None = None,
    ) -> LanceEngine:
        """Writes the rows into a table; those it has already (by video and second) are replaced, so that a run that was
        stopped is finished by doing it again, and one collection after the other adds to a table.

        Args:
            uri: a folder, `s3://bucket/path`, `gs://`, `az://`, or `db://name` with LANCEDB_API_KEY in the environment.
            table: made if it is not there.
            codes: as for [`FaissEngine`]. LanceDB re-ranks from float16 (float32 if that is stored).
            probes: default a fifth of the √rows cells, which costs little here: most of a query's time is elsewhere.

        Raises:
            PolyvidError: for a table of another width or other columns.
        """
        import lancedb

        if codes not in cls.INDEXES:
            raise PolyvidError(f"Unknown codes {codes!r}: choose from {' '.join(cls.INDEXES)}.")
        schema = _schema(engine)
        connection = lancedb.connect(str(uri))
        try:
            opened = connection.open_table(table)
        except (ValueError, FileNotFoundError):  # there is none
            opened = connection.create_table(table, schema=schema)
        if opened.schema != schema:
            raise PolyvidError(
                f"Table {table!r} in {uri} has other columns or another width: {_short(opened.schema)}, this index has "
                f"{_short(schema)}. Take another table."
            )
        is_new = opened.count_rows() == 0
        batches = tqdm(
            _batches(engine, schema), "lance", math.ceil(len(engine) / ADD_ROWS), disable=len(engine) < 10 * ADD_ROWS
        )
        for batch in batches:
            if is_new:
                opened.add(batch)
            else:
                opened.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(batch)
        cells = int(math.sqrt(rows := opened.count_rows()))
        if opened.list_indices():
            opened.optimize()
        elif rows >= cls.INDEX_ROWS:
            opened.create_index(
                metric="cosine",
                vector_column_name="vector",
                index_type=cls.INDEXES[codes],
                num_partitions=cells,
                sample_rate=64,  # of its default 256 vectors a cell and 50 iterations: a third of the time
                max_iterations=20,
            )
        return cls(uri, table, codes, probes or max(MIN_PROBES, cells // 5))

    def __len__(self) -> int:
        return self._table.count_rows()

    @property
    def embed_dim(self) -> int:
        return self._table.schema.field("vector").type.list_size

    @property
    def kinds(self) -> dict[str, type]:
        fields = {field.name: str if field.type == pa.string() else float for field in self._table.schema}
        return {name: kind for name, kind in fields.items() if name not in ("key", "vector", "video_id")}

    @property
    def options(self) -> dict:
        return {"uri": self.uri, "table": self.table, "codes": self.codes, "probes": self.probes}

    def nearest(self, queries: torch.Tensor, k: int, filters: Sequence[Condition]) -> list[list[dict]]:
        columns = [name for name in self._table.schema.names if name not in ("key", "vector")]
        found = []
        for query in queries.numpy():
            search = self._table.search(query, vector_column_name="vector").distance_type("cosine").limit(k)
            search = search.select([*columns, "_distance"]).nprobes(self.probes).refine_factor(CODES[self.codes][1])
            if filters:
                search = search.where(" AND ".join(map(_sql, filters)), prefilter=True)
            found.append([_hit(row) for row in search.to_list()])
        return found

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], options: Mapping) -> LanceEngine:
        return cls(**options)


ENGINES = {engine.name: engine for engine in (FaissEngine, LanceEngine)}


def _schema(engine: ExactEngine) -> pa.Schema:
    width = pa.float32() if engine.vectors.storage == "float32" else pa.float16()
    fields = [("key", pa.string()), ("video_id", pa.string()), ("vector", pa.list_(width, engine.embed_dim))]
    if engine.rows.spans is not None:
        fields += [("start", pa.int32()), ("end", pa.int32())]
    for name, column in engine.rows.columns.items():
        if name in ("key", "vector") or name.startswith("_"):
            raise PolyvidError(f"Metadata cannot be called {name!r} in a LanceDB table.")
        fields.append((name, pa.string() if column.kind is str else pa.float64()))
    return pa.schema(fields)


def _short(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _batches(engine: ExactEngine, schema: pa.Schema) -> Iterator[pa.Table]:
    for start in range(0, len(engine), ADD_ROWS):
        rows = range(start, min(start + ADD_ROWS, len(engine)))
        vectors = engine.vectors[rows.start : rows.stop].flatten().numpy()
        hits = [engine.rows.hit(row, 0.0) for row in rows]
        columns = {
            "key": [f"{hit['video_id']}@{hit['start']}" if "start" in hit else hit["video_id"] for hit in hits],
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors).cast(schema.field("vector").type.value_type), engine.embed_dim
            ),
        }
        for name in schema.names:
            if name not in columns:
                columns[name] = [hit.get(name, hit.get("metadata", {}).get(name)) for hit in hits]
        yield pa.table(columns, schema=schema)


def _sql(condition: Condition) -> str:
    def literal(value: object) -> str:
        if condition.column in ("start", "end"):  # whole seconds
            return str(math.ceil(value) if value is condition.low else math.floor(value))
        return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(float(value))

    name = f"`{condition.column}`"
    if condition.values is not None:
        return f"{name} IN ({', '.join(map(literal, condition.values))})" if condition.values else "false"
    low = [] if condition.low is None else [f"{name} >= {literal(condition.low)}"]
    high = [] if condition.high is None else [f"{name} <= {literal(condition.high)}"]
    return " AND ".join(low + high) or "true"


def _hit(row: dict) -> dict:
    hit = {"video_id": row.pop("video_id"), "score": 1.0 - row.pop("_distance")}
    hit |= {name: row.pop(name) for name in ("start", "end") if name in row}
    return hit | ({"metadata": row} if row else {})
