"""Checks one file by the checksums of its own format, as far as it has any."""

import base64
import binascii
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors import SafetensorError, safe_open

from polyvid.dataset_scripts.building import open_and_look, refuse_damage
from polyvid.modeling import VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.index_file_mmp import FORMAT, read_index_file

State = Literal["whole", "no checksum", "damaged"]
CAUSES = (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError)  # of pyarrow
# What zipfile raises for records whose headers are damaged, besides BadZipFile.
BAD_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Finding:
    """What is known about one file, or about one that is missing.

    Attributes:
        path: of the file.
        state: `"whole"`: all that is read from it agrees with checksums; `"no checksum"`: it can be read, but a changed
            byte could go unnoticed; `"damaged"`: it is not what was written, or is missing.
        note: what was verified, or what exactly is damaged.
    """

    path: Path
    state: State
    note: str


def check_file(path: Path) -> Finding | None:
    """Check one file by the checksums of its format; None if it is of no format that this package writes.

    Raises:
        OSError: if it cannot be read, for other reasons than its content.
    """
    check = FORMATS.get(path.suffix)
    if check is None:
        return None
    try:
        state, note = check(path)
    except PolyvidError as error:
        return Finding(path, "damaged", str(error))
    except UnicodeEncodeError:
        return Finding(path, "damaged", "its name is not UTF-8, which the readers of this format need: rename it")
    return Finding(path, state, note)


def check_parquet(path: Path) -> tuple[State, str]:
    """Footer, numbers of rows, and the checksum of every page; memory for one column of a row group.

    Raises:
        PolyvidError: names the row groups and columns that are damaged.
    """
    file, have_checksums = open_and_look(path)
    with file, refuse_damage(path):
        metadata, damaged = file.metadata, list(_damaged_columns(file))
        if damaged:
            raise PolyvidError("; ".join(damaged))
        rows = sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        if rows != metadata.num_rows:
            raise PolyvidError(f"its footer counts {metadata.num_rows:,} rows, its row groups {rows:,}")
        if (names := _names_of_arrow(metadata)) not in (None, file.schema_arrow.names, _names(metadata)):
            raise PolyvidError(f"its footer names the columns twice: {_names(metadata)} and {names}")
        about = f"{rows:,} rows in {metadata.num_row_groups} row groups"
        if not have_checksums:
            return "no checksum", f"{about}; its pages have no checksums"
        return "whole", f"{about}, checksums of all pages"


def _damaged_columns(file: pq.ParquetFile) -> Iterator[str]:
    for group in range(file.num_row_groups):
        expected = file.metadata.row_group(group).num_rows
        for name in dict.fromkeys(_names(file.metadata)):
            where = f"row group {group}, column {name!r}"
            try:
                table = file.read_row_group(group, columns=[name])
                table.validate(full=True)
            except CAUSES as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                yield f"{where}: {' '.join(str(error).split()).rstrip('.')}"
                continue
            if table.num_rows != expected or table.num_columns != 1:
                yield f"{where}: {table.num_rows:,} rows where the footer counts {expected:,}"


def _names(metadata: pq.FileMetaData) -> list[str]:
    """The columns; one that is nested has several leaves."""
    return list(dict.fromkeys(metadata.schema.column(leaf).path.split(".")[0] for leaf in range(metadata.num_columns)))


def _names_of_arrow(metadata: pq.FileMetaData) -> list[str] | None:
    """The columns as Arrow's own copy of the schema names them, if the file has one.

    Raises:
        PolyvidError: if the copy is damaged.
    """
    copy = (metadata.metadata or {}).get(b"ARROW:schema")
    try:
        return (
            None if copy is None else pa.ipc.read_schema(pa.BufferReader(base64.b64decode(copy, validate=True))).names
        )
    except (binascii.Error, *CAUSES) as error:
        raise PolyvidError(f"Arrow's schema in its footer cannot be read ({error})") from error


def check_safetensors(path: Path) -> tuple[State, str]:
    """An index by the checksum of each tensor, and offsets and codes by their ranges; weights by header and size.

    Raises:
        PolyvidError: names the tensor that is damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata, names = opened.metadata() or {}, set(opened.keys())
    except SafetensorError as error:
        raise PolyvidError(f"its header does not fit its size, or is damaged ({error})") from error
    if FORMAT not in metadata:
        return "no checksum", f"{len(names):,} tensors; header and size fit, but the format has no checksums"
    if "video_embeds" in names:
        index = VideoIndex.load(path)
        about = f"index of {len(index):,} rows, engine {index.engine.name}"
    else:  # a database has them, perhaps on another machine, which is not asked
        address = read_index_file(path)[1]["options"]
        about = f"index whose rows are in {address.get('uri')!r}, table {address.get('table')!r}"
    if '"digests"' not in metadata[FORMAT]:
        return "no checksum", f"{about}; an older version wrote it, without checksums"
    return "whole", f"{about}, checksums of {len(names)} tensors"


def check_zip(path: Path) -> tuple[State, str]:
    """A file of torch.save or NumPy by the checksum of each record; nothing is unpickled.

    Raises:
        PolyvidError: names the record that is damaged.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            if file.read(1) != b"\x80":  # pickles begin so, as torch.save wrote them before 1.6
                raise PolyvidError("it is cut off, or no zip archive")
        return "no checksum", "a pickle, which has no checksums"
    try:
        with zipfile.ZipFile(path) as archive:
            bad, count = archive.testzip(), len(archive.namelist())
    except BAD_ZIP as error:
        raise PolyvidError(f"its records cannot be read ({error})") from error
    if bad is not None:
        raise PolyvidError(f"record {bad!r} does not match its checksum")
    return "whole", f"checksums of {count} records"


def check_json(path: Path) -> tuple[State, str]:
    """Whether it is JSON, or a line of JSON each.

    Raises:
        PolyvidError: names the line.
    """
    number = 0
    try:
        text = path.read_bytes().decode("utf-8")
        for one in text.splitlines() if path.suffix == ".jsonl" else [text]:
            number += 1
            json.loads(one)
    except UnicodeDecodeError as error:
        raise PolyvidError(f"it is not UTF-8 (byte {error.start:,})") from error
    except (ValueError, RecursionError) as error:
        where = f"line {number}: " if path.suffix == ".jsonl" else ""
        raise PolyvidError(f"{where}it is not JSON ({error})") from error
    return "no checksum", "JSON"


def check_yaml(path: Path) -> tuple[State, str]:
    """Whether it is YAML.

    Raises:
        PolyvidError: if it is not.
    """
    try:
        yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise PolyvidError(f"it is not YAML ({' '.join(str(error).split())})") from error
    return "no checksum", "YAML"


FORMATS: dict[str, Callable[[Path], tuple[State, str]]] = {
    ".parquet": check_parquet,
    ".safetensors": check_safetensors,
    ".pt": check_zip,
    ".npz": check_zip,
    ".json": check_json,
    ".jsonl": check_json,
    ".yaml": check_yaml,
}
