"""One builder file, two uses: a loading script for datasets 3.6, a converter to Parquet for every version.

datasets >= 4 refuses to run scripts, so what users load from the Hub is the Parquet that `write_dataset` makes from
the same builder class. Shards are named as the Hub expects, appear whole or not at all, and hold a video in the same
shard number everywhere (`shard_of`), so that datasets with one video per row join shard by shard.
"""

import importlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import datasets.builder
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ArrowBasedBuilder, BuilderConfig, DatasetBuilder, DownloadManager, Features
from tqdm import tqdm

from polyvid.dataset_scripts.locking import locked
from polyvid.dataset_scripts.page_checksums import pages_have_checksums
from polyvid.dataset_scripts.schema import ALIASES, shard_of
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.paths_mmp import check_local_path

BUFFER_BYTES = 32 << 20
"""Rows waiting to be written, over all shards. A row group is at most this large, which bounds readers' memory too."""


_patching = Lock()


OF_EVERY_CONFIG = [field.name for field in fields(BuilderConfig)]
"""What datasets itself asks of a config: no options of a dataset."""


class LocalBuilder:
    """Mixin for builders that read local files only.

    While a builder is made, datasets patches `open` and the like in its module, so that they also read remote files,
    and for that it puts a lock file next to the package: into `site-packages`, where it does not belong and may not
    write. Builders of this package need no patch. The same file as a loading script is left to datasets.
    """

    BUILDER_CONFIG_CLASS: type[BuilderConfig]

    def __init__(self, *args: Any, **kwargs: Any):
        if kwargs.get("data_dir") is not None:
            check_local_path(Path(kwargs["data_dir"]), "folder of official files")
        if not type(self).__module__.startswith("polyvid."):
            super().__init__(*args, **kwargs)
            return
        with _patching:
            patch = datasets.builder.extend_dataset_builder_for_streaming
            datasets.builder.extend_dataset_builder_for_streaming = lambda builder: None
            try:
                super().__init__(*args, **kwargs)
            except ValueError as error:
                if not str(error).startswith(("BuilderConfig", "Config name is missing")):
                    raise
                if option := re.search(r"doesn't have a '(.*)' key", str(error)):
                    known = [
                        field.name for field in fields(self.BUILDER_CONFIG_CLASS) if field.name not in OF_EVERY_CONFIG
                    ]
                    choice = f"choose from {' '.join(known)}" if known else "there are none"
                    name = self.__module__.split(".")[-1]
                    raise PolyvidError(f"{name} has no option {option[1]!r}: {choice}.") from error
                raise PolyvidError(str(error)) from error  # an unknown config; datasets names those there are
            except TypeError as error:
                if "unexpected keyword argument" not in str(error):
                    raise
                raise PolyvidError(f"{self.__module__.split('.')[-1]} has no such option: {error}.") from error
            finally:
                datasets.builder.extend_dataset_builder_for_streaming = patch


class AliasedConfigs(LocalBuilder):
    """Mixin for builders whose configs are languages: `"cz"` and `"CS"` open the config `"cs"`."""

    BUILDER_CONFIGS: list[BuilderConfig]

    def __init__(self, *args: Any, config_name: str | None = None, **kwargs: Any):
        if config_name is not None:
            config_name = ALIASES.get(config_name.lower(), config_name)
            known = {config.name.lower(): config.name for config in self.BUILDER_CONFIGS}
            config_name = known.get(config_name.lower(), config_name)
        super().__init__(*args, config_name=config_name, **kwargs)


def shard_name(split: str, index: int, num_shards: int) -> str:
    """`train-00003-of-00016.parquet`: the name by which the Hub finds splits and orders shards."""
    return f"{split}-{index:05d}-of-{num_shards:05d}.parquet"


def find_shards(folder: str | os.PathLike[str], split: str = "train") -> list[Path]:
    """The shards of a split, in order.

    Raises:
        FileNotFoundError: when there is no such folder, when it holds none, or when one of them is missing.
    """
    check_local_path(Path(folder), "folder of shards")
    shards = sorted(Path(folder).glob(f"{split}-*-of-*.parquet"))
    if not shards:
        raise FileNotFoundError(f"No {split}-*-of-*.parquet in {folder}: choose a folder of finished shards.")
    num_shards = int(shards[0].stem.rsplit("-", 1)[1])
    expected = [shard_name(split, index, num_shards) for index in range(num_shards)]
    if missing := sorted(set(expected) - {shard.name for shard in shards}):
        raise FileNotFoundError(f"{folder} lacks {len(missing)} of {num_shards} shards, the first is {missing[0]}.")
    if len(shards) != num_shards:
        raise FileNotFoundError(f"{folder} holds shards of two builds (not all are -of-{num_shards:05d}): remove one.")
    return shards


def find_splits(folder: str | os.PathLike[str]) -> list[str]:
    """The splits that a folder holds shards of; `["train"]` if there are none, for `find_shards` to say so."""
    return sorted({path.name.rsplit("-", 3)[0] for path in Path(folder).glob("*-*-of-*.parquet")}) or ["train"]


def all_shards(folder: str | os.PathLike[str]) -> list[Path]:
    """The shards of all splits. Features alone are one split; joined with captions they are of several.

    Raises:
        FileNotFoundError: as `find_shards`.
    """
    return [shard for split in find_splits(folder) for shard in find_shards(folder, split)]


def count_rows(folder: str | os.PathLike[str]) -> dict[str, int]:
    """Split -> number of rows of a folder of shards, from the footers of all of them; no row is read.

    Raises:
        FileNotFoundError: when there is no shard, or one is missing.
        PolyvidError: when a shard is cut off or is no Parquet; names it.
    """
    return {split: sum(map(_rows_of_shard, find_shards(folder, split))) for split in find_splits(folder)}


def _rows_of_shard(shard: Path) -> int:
    try:
        return pq.read_metadata(shard).num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise PolyvidError(f"{shard} is not a whole Parquet file ({error}).") from error


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path next to `path`, renamed to `path` when the block succeeds and removed when it fails.

    Raises:
        OSError: what the block raises; names `path` where the system does not say which file it could not write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.incomplete")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, f"{os.strerror(error.errno)}, so nothing was written", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: object) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def parquet_writer(path: str | os.PathLike, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with the settings that read fastest here.

    No dictionaries: hardly any value repeats, and without them subtitles are smaller and read 1.5 times as fast.
    Large binary columns, which hold features, are not compressed: zstd saves 7 % and reads far slower. Every page has a
    checksum, which `open_shard` and `read_shard` verify.
    """
    empty = io.BytesIO()
    pq.write_metadata(schema, empty)
    leaves = pq.read_metadata(empty).schema
    compression = {}
    for leaf in (leaves.column(index) for index in range(len(leaves))):
        root = schema.field(leaf.path.split(".")[0]).type
        compression[leaf.path] = "none" if root == pa.large_binary() else "zstd"
    return pq.ParquetWriter(path, schema, compression=compression, use_dictionary=False, write_page_checksum=True)


@contextmanager
def refuse_damage(path: str | os.PathLike[str]) -> Iterator[None]:
    """While the block reads a shard: what is wrong with the file's bytes becomes an error that names the file.

    Raises:
        PolyvidError: if a page differs from its checksum, or the file is no Parquet file, or one that was cut.
    """
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's: no such file, no permission
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise PolyvidError(f"{path} is damaged ({reason}): delete it and make it again.") from error


def open_shard(path: str | os.PathLike[str], memory_map: bool = False) -> pq.ParquetFile:
    """Open a shard whose pages are verified when they are read; read them within `refuse_damage`.

    The footer has no checksum, so its numbers of rows must agree, and all pages must have a checksum or none.

    Raises:
        PolyvidError: if the file is no whole Parquet file.
    """
    return open_and_look(path, memory_map)[0]


def open_and_look(path: str | os.PathLike[str], memory_map: bool = False) -> tuple[pq.ParquetFile, bool]:
    """As `open_shard`, which looks at every page once, and whether its pages have checksums."""
    with refuse_damage(path):
        file = pq.ParquetFile(path, memory_map=memory_map, page_checksum_verification=True)
        with ExitStack() as stack:
            stack.callback(file.close)
            groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
            if file.metadata.num_rows != sum(group.num_rows for group in groups):
                raise PolyvidError(f"{path} is damaged (its numbers of rows disagree): delete it and make it again.")
            have_checksums = pages_have_checksums(path)
            stack.pop_all()
        return file, have_checksums


def read_shard(path: str | os.PathLike[str], columns: list[str] | None = None) -> pa.Table:
    """Read a shard, or some of its columns, and verify its checksums.

    Raises:
        PolyvidError: if the file is damaged, or lacks one of the columns.
    """
    with open_shard(path) as file, refuse_damage(path):
        if missing := sorted(set(columns or ()) - set(file.schema_arrow.names)):
            raise PolyvidError(f"{path} has no column {missing[0]!r}; it has {' '.join(file.schema_arrow.names)}.")
        table = file.read(columns)
        if table.num_rows != file.metadata.num_rows:
            raise PolyvidError(f"{path} is damaged (its numbers of rows disagree): delete it and make it again.")
        table.validate(full=True)
        return table


def write_shard(tables: Iterable[pa.Table], path: str | os.PathLike, schema: pa.Schema) -> int:
    """Write one shard, a row group per table, and return its number of rows. It exists only when it is complete."""
    with atomic_path(path) as temporary, parquet_writer(temporary, schema) as writer:
        return sum(_write_row_group(writer, table.cast(schema)) for table in tables)


def _write_row_group(writer: pq.ParquetWriter, table: pa.Table) -> int:
    writer.write_table(table, row_group_size=max(1, table.num_rows))
    return table.num_rows


class ShardedWriter:
    """Writes one split, each row to the shard `shard_of(row["video_id"], num_shards)`, in the order of arrival.

    Memory is bounded by `buffer_bytes`, whatever the number of shards. The caller makes the folder appear when it is
    complete, as `write_dataset` does.

    The Arrow schema is written without datasets' own metadata: 5.x would put types there that 3.6 cannot read, and for
    the plain types used here both infer the same features.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        features: Features,
        split: str = "train",
        num_shards: int = 1,
        buffer_bytes: int = BUFFER_BYTES,
    ):
        self.schema = features.arrow_schema.remove_metadata()
        self.num_shards, self.buffer_bytes = num_shards, buffer_bytes
        self.num_rows = 0
        self._paths = [Path(folder) / shard_name(split, index, num_shards) for index in range(num_shards)]
        self._tables: list[list[pa.Table]] = [[] for _ in range(num_shards)]
        self._bytes = [0] * num_shards

    def __enter__(self) -> "ShardedWriter":
        self._writers = [parquet_writer(path, self.schema) for path in self._paths]
        return self

    def write(self, table: pa.Table) -> None:
        table = table.cast(self.schema)
        self.num_rows += table.num_rows
        if self.num_shards == 1:
            self._add(0, table)
        else:
            shards = np.array([shard_of(video_id, self.num_shards) for video_id in table["video_id"].to_pylist()])
            order = np.argsort(shards, kind="stable")
            table = table.combine_chunks().take(pa.array(order))
            for shard, count in zip(*np.unique(shards, return_counts=True), strict=True):
                self._add(int(shard), table.slice(int(np.searchsorted(shards[order], shard)), int(count)))
        while sum(self._bytes) > self.buffer_bytes:
            self._flush(int(np.argmax(self._bytes)))

    def _add(self, shard: int, table: pa.Table) -> None:
        self._tables[shard].append(table)
        self._bytes[shard] += table.nbytes

    def _flush(self, shard: int) -> None:
        if self._tables[shard]:
            _write_row_group(self._writers[shard], pa.concat_tables(self._tables[shard]))
        self._tables[shard], self._bytes[shard] = [], 0

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            for shard in range(self.num_shards):
                self._flush(shard)
        for writer in self._writers:
            writer.close()


def known_datasets() -> list[str]:
    """The folders of `dataset_scripts/` that hold a dataset."""
    return sorted(path.name for path in Path(__file__).parent.iterdir() if (path / f"{path.name}.py").is_file())


def load_builder(name: str) -> type[DatasetBuilder]:
    """The builder class of `dataset_scripts/<name>/<name>.py`.

    Raises:
        PolyvidError: when there is no such dataset; the message lists the known ones.
    """
    names = known_datasets()
    if name not in names:
        raise PolyvidError(f"Unknown dataset {name!r}: choose from {' '.join(names)}.")
    module = importlib.import_module(f"polyvid.dataset_scripts.{name}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, DatasetBuilder) and value.__module__ == module.__name__
    )


def write_dataset(
    builder: DatasetBuilder,
    output_dir: str | os.PathLike[str],
    num_shards: int | None = None,
    buffer_bytes: int = BUFFER_BYTES,
) -> dict[str, int]:
    """Convert one config of a builder to `output_dir/<config>/<split>-?????-of-?????.parquet`.

    Rows go from the raw files to the shards without an Arrow copy in between. The folder of the config appears when it
    is complete; a failure leaves nothing behind. A builder may say how many shards each split gets
    (`default_num_shards`, else 1), and have a `report`, a JSON-able dict of what it repaired or skipped.
    `output_dir/reports/<config>.json` holds that report and the number of rows of each split.

    Returns:
        the number of rows of each split.

    Raises:
        LockedError: when another process writes to `output_dir`.
        OSError: when the disk is full, or `output_dir` cannot be written to.
    """
    with locked(output_dir, "polyvid build"):
        return convert_config(builder, output_dir, num_shards, buffer_bytes)


def convert_config(
    builder: DatasetBuilder,
    output_dir: str | os.PathLike[str],
    num_shards: int | None = None,
    buffer_bytes: int = BUFFER_BYTES,
) -> dict[str, int]:
    """`write_dataset` for a process whose parent holds the lock of `output_dir`."""
    shards: int = num_shards if num_shards else getattr(builder, "default_num_shards", 1)
    folder = Path(output_dir) / builder.config.name
    temporary = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
    rows = {}
    try:
        temporary.mkdir(parents=True)
        builder.scratch_dir = temporary  # so that the next run removes what a killed one left there
        # The builder's own generators, not `as_streaming_dataset`, which needs torch and its 180 MB.
        for generator in builder._split_generators(DownloadManager(dataset_name=builder.name)):
            split = str(generator.name)
            with ShardedWriter(temporary, builder.info.features, split, shards, buffer_bytes) as writer:
                progress = tqdm(desc=f"{builder.config.name}/{split}", unit=" rows", unit_scale=True)
                for table in _tables(builder, generator.gen_kwargs, writer.schema):
                    writer.write(table)
                    progress.update(table.num_rows)
                progress.close()
            rows[split] = writer.num_rows
        report = {"rows": rows, "options": options_of(builder)} | getattr(builder, "report", {})
        with atomic_path(Path(output_dir) / "reports" / f"{builder.config.name}.json") as staged:
            staged.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # now that nothing needs space any more
        os.replace(temporary, folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f"Could not write {folder} ({error}). Nothing was left: free space and run again.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return rows


def options_of(builder: DatasetBuilder) -> dict[str, Any]:
    """The options a builder was made with, as they are recorded in the report: all but where the files were."""
    options = {key: value for key, value in builder.config_kwargs.items() if key != "data_dir"}
    return json.loads(json.dumps(options, default=str))


def _tables(builder: DatasetBuilder, arguments: dict, schema: pa.Schema) -> Iterator[pa.Table]:
    if isinstance(builder, ArrowBasedBuilder):
        yield from (table for _, table in builder._generate_tables(**arguments))
        return
    examples = builder._generate_examples(**arguments)
    while batch := [example for _, example in islice(examples, 1000)]:
        yield pa.Table.from_pylist(batch, schema=schema)
