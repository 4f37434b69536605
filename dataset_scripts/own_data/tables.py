"""Tables to rows: `metadata.csv`, `.jsonl` and `.parquet`, each row with the words that say where it stands."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polyvid.modeling.errors_mmp import PolyvidError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of the table in a folder of videos, as the Hub's VideoFolder has them."""

MOST_COLUMNS = 1000
"""More are no table of captions; a language each would be 1,000 languages."""


@dataclass(frozen=True)
class Table:
    """Rows as they were written.

    Attributes:
        name: of the file or dataset, for messages.
        columns: in their order.
        rows: where each row stands ("line 3"), and its values by column. Texts of a CSV file stay texts.
        split: of all rows, where the place of the table says it.
    """

    name: str
    columns: list[str]
    rows: list[tuple[str, dict[str, Any]]]
    split: str | None = None


def find_table(folder: Path) -> Path | None:
    """The metadata file of a folder, or None.

    Raises:
        PolyvidError: if there are several.
    """
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise PolyvidError(f"{folder} has both {found[0].name} and {found[1].name}: keep one.")
    return found[0] if found else None


def has_table(folder: Path) -> bool:
    """Whether there is a metadata file in a folder or directly below it."""
    return any(any(folder.glob(pattern)) for name in METADATA for pattern in (name, f"*/{name}"))


def read_table(file: Path, split: str | None = None) -> Table:
    """Read a table of one of the three kinds.

    Raises:
        PolyvidError: if it cannot be read or holds no rows; names the line.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    try:
        rows = list(readers[file.suffix](file))
    except UnicodeDecodeError as error:
        raise PolyvidError(
            f"{file} is not UTF-8 ({error.reason} at byte {error.start} of what was read): save it as UTF-8."
        ) from None
    if not rows:
        raise PolyvidError(f"{file} holds no rows.")
    for where, row in rows:
        for name, value in row.items():
            if wrong := _wrong_text(value) or _wrong_text(name):
                raise PolyvidError(f"{file}, {where}, column {name!r}: {wrong}.")
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    _check_count(file, len(columns))
    return Table(str(file), columns, rows, split)


def _check_count(file: Path, columns: int) -> None:
    if columns > MOST_COLUMNS:
        raise PolyvidError(f"{file} has {columns:,} columns: at most {MOST_COLUMNS:,} are read.")


def _wrong_text(value: Any) -> str | None:
    """Why a text, or one within a list or an object, cannot be used: files and tokenizers cannot take it."""
    if isinstance(value, str):
        if "\0" in value:
            return "it holds a NUL character"
        if any("\ud800" <= character <= "\udfff" for character in value):
            return "it is not valid Unicode: it holds half of a surrogate pair"
        return None
    values = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return next(filter(None, map(_wrong_text, values)), None)


def _read_csv(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader, where = csv.DictReader(lines, strict=True), "line 1"
        try:
            columns = list(reader.fieldnames or [])
            if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
                raise PolyvidError(f"{file} has the one column {columns[0]!r}: separate columns by commas.")
            _check_count(file, len(columns))
            if twice := {name for name in columns if columns.count(name) > 1}:
                raise PolyvidError(f"{file} has the column {min(twice)!r} twice.")
            while True:
                where = f"line {reader.line_num + 1}"
                row = next(reader, None)
                if row is None:
                    return
                if None in row or None in row.values():
                    count = len([value for value in row.values() if isinstance(value, str)]) + len(row.get(None, []))
                    raise PolyvidError(
                        f"{file}, {where}: {count} values for {len(columns)} columns. A text with commas, quotes or "
                        'line breaks stands in double quotes, and a quote in it is written "".'
                    )
                yield where, dict(row)
        except csv.Error as error:
            raise PolyvidError(f"{file}, {where}: not valid CSV ({error}).") from None


def _read_json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(file, encoding="utf-8-sig", newline="\n") as lines:  # captions may hold U+2028 and the like
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise PolyvidError(f"{file}, line {number}: not valid JSON ({error}).") from None
            if not isinstance(row, dict):
                raise PolyvidError(f'{file}, line {number}: expected {{"file_name": ..., "caption": ...}}.')
            yield f"line {number}", row


def _read_parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        _check_count(file, len(pq.read_schema(file).names))
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise PolyvidError(f"{file} is not a whole Parquet file ({error}).") from None
    try:
        rows = table.to_pylist()
    except (pa.ArrowException, OverflowError) as error:  # such as a date that is none
        raise PolyvidError(f"{file} holds a value that cannot be read ({error}): leave out its column.") from None
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row
