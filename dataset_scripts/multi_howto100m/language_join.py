"""Join the subtitles of several languages by video id, in bounded memory and one pass over each file.

Every file lists the videos in its own order, so rows are first spilled to disk, cut into partitions by the hash of
the video id; a partition, small enough for memory, is then joined across languages.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from polyvid.dataset_scripts.multi_howto100m.subtitle_json import SUBTITLES
from polyvid.dataset_scripts.schema import shard_of

SPILL_BYTES = 32 << 20
COLUMNS = SUBTITLES.names[1:]


def join_languages(
    languages: Mapping[str, Iterable[pa.Table]], folder: str | os.PathLike, num_partitions: int
) -> Iterator[pa.Table]:
    """One row per video that any language has: `video_id` and per language a struct `{text, start, end}`.

    A language that lacks the video has empty lists there. Needs disk space in `folder` (about a quarter of the JSON)
    and memory for one partition of all languages; `num_partitions` is a power of two.
    """
    for language, tables in languages.items():
        _spill(tables, Path(folder) / language, num_partitions)
    # Plain files, not memory maps, whose pages would count as this process's memory.
    readers = {language: pa.ipc.open_file(pa.OSFile(str(Path(folder) / language))) for language in languages}
    # Bit-reversed, so that for every smaller power of two the partitions of one shard come one after the other and
    # a writer of shards gets long runs of rows for the same shard.
    width = num_partitions.bit_length() - 1
    for partition in sorted(range(num_partitions), key=lambda number: f"{number:0{width}b}"[::-1]):
        tables = {}
        for language, reader in readers.items():
            batches = range(partition, reader.num_record_batches, num_partitions)
            tables[language] = pa.Table.from_batches([reader.get_batch(batch) for batch in batches], SUBTITLES)
        if joined := _join(tables):
            yield joined


def _spill(tables: Iterable[pa.Table], path: Path, num_partitions: int) -> None:
    """Write the rows to an Arrow file; batch b holds rows of the partition b % num_partitions (maybe none)."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(path, SUBTITLES, options=options) as writer:
        for table in _gather(tables):
            partitions = np.array([shard_of(video_id, num_partitions) for video_id in table["video_id"].to_pylist()])
            (batch,) = table.take(pa.array(np.argsort(partitions, kind="stable"))).combine_chunks().to_batches()
            start = 0
            for count in np.bincount(partitions, minlength=num_partitions).tolist():
                writer.write_batch(batch.slice(start, count))
                start += count


def _gather(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(part.nbytes for part in waiting) > SPILL_BYTES:
            gathered, waiting = pa.concat_tables(waiting), []
            yield gathered.combine_chunks()
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _join(tables: Mapping[str, pa.Table]) -> pa.Table | None:
    ids = {language: table["video_id"].to_pylist() for language, table in tables.items()}
    union = list(dict.fromkeys(video_id for language_ids in ids.values() for video_id in language_ids))
    if not union:
        return None
    empty = pa.Table.from_pylist([dict.fromkeys(COLUMNS, []) | {"video_id": ""}], schema=SUBTITLES)
    columns = [pa.array(union, pa.string())]
    for language, table in tables.items():
        row_of = {video_id: row for row, video_id in enumerate(ids[language])}
        rows = pa.array([row_of.get(video_id, len(table)) for video_id in union])
        taken = pa.concat_tables([table, empty]).combine_chunks().take(rows).combine_chunks()
        arrays = [taken[name].chunk(0) for name in COLUMNS]
        columns.append(pa.StructArray.from_arrays(arrays, fields=[SUBTITLES.field(name) for name in COLUMNS]))
    return pa.table(columns, names=["video_id", *tables])
