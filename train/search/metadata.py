"""The metadata of a collection: the table that `polyvid index` reads, and the filters that `polyvid search` takes."""

from pathlib import Path
from typing import Any

from polyvid.modeling.errors_mmp import PolyvidError

SUFFIXES = (".csv", ".jsonl", ".parquet")


def read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    """`{video_id: {column: value}}` of a table; dates become ISO texts.

    Raises:
        PolyvidError: for another kind of file, one without `video_id` or that cannot be read, and for a video that
            appears twice.
        FileNotFoundError: there is no such file.
    """
    import pyarrow as pa  # a search without a table does not need it
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    if path.suffix not in SUFFIXES:
        raise PolyvidError(f"Metadata in {path}: it must be one of {' '.join(SUFFIXES)}.")
    if not path.exists():
        raise FileNotFoundError(f"No metadata at {path}.")
    try:
        readers = (pa.csv.read_csv, pa.json.read_json, pa.parquet.read_table)
        rows = readers[SUFFIXES.index(path.suffix)](str(path))
    except pa.ArrowInvalid as error:
        raise PolyvidError(f"Metadata in {path} cannot be read: {error}") from error
    if "video_id" not in rows.column_names:
        raise PolyvidError(f"Metadata in {path} has no column video_id; it has {' '.join(rows.column_names)}.")
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows.to_pylist(), 1):
        video_id = str(row.pop("video_id"))
        if video_id in found:
            raise PolyvidError(
                f"Metadata in {path}: video {video_id!r} appears twice, the second time in row {number}."
            )
        found[video_id] = {k: v.isoformat() if hasattr(v, "isoformat") else v for k, v in row.items()}
    return found


def parse_where(filters: list[str], kinds: dict[str, type]) -> dict[str, object]:
    """Filters such as `["category=sport,music", "duration=10.."]`, as the `where` of `VideoIndex.search`.

    Args:
        filters: as they were typed.
        kinds: of the index's columns; values of a `float` column become numbers.

    Raises:
        PolyvidError: for a filter that is not `column=...`, and for a text where the index has numbers.
    """
    found: dict[str, object] = {}
    for text in filters:
        column, equals, value = text.partition("=")
        if not equals:
            raise PolyvidError(f"--where {text}: write column=value, column=one,of,these or column=low..high.")
        kind = kinds.get(column, str)
        if ".." in value:
            found[column] = parse_range(f"--where {column}", value, kind)
        else:
            found[column] = [_value(f"--where {column}", part, kind) for part in value.split(",")]
    return found


def parse_range(name: str, text: str, kind: type) -> tuple[Any, Any]:
    """`"10..60"` as (10.0, 60.0); an end that is left out is None. `name` is the option, for errors.

    Raises:
        PolyvidError: for a text without `..`, and for an end that is not a `kind`.
    """
    low, dots, high = text.partition("..")
    if not dots:
        raise PolyvidError(f"{name} {text}: write low..high; either may be left out.")
    return _value(name, low, kind) if low else None, _value(name, high, kind) if high else None


def _value(name: str, text: str, kind: type) -> str | float:
    try:
        value: str | float = kind(text)
        return value
    except ValueError:
        raise PolyvidError(f"{name}: {text!r} is not a number.") from None
