"""Checks a folder: every file by itself, and what files say of each other (checksums, shards, numbers of rows)."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from polyvid.dataset_scripts.building import count_rows, shard_name
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.checksums import NAME, read_checksums, sha256_of
from polyvid.train.verifying.formats import Finding, check_file

SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-(?P<count>\d{5})\.parquet")
TABLE = ".lance"


def verify_path(path: Path) -> Iterator[Finding]:
    """Check a file, or all files of a folder and of the folders in it. Hidden ones are work in progress: left out.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        OSError: if something cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is nothing at {path}: check the path.")
    if path.is_file():
        sums = {name: digest for name, digest in _checksums(path.parent).items() if name == path.name}
        yield from _check_files([path], sums)
    elif path.suffix == TABLE:
        yield _check_table(path)
    else:
        for parent, folders, files in os.walk(path):
            folder = Path(parent)
            tables = sorted(name for name in folders if name.endswith(TABLE))
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in tables)
            yield from (_check_table(folder / name) for name in tables)
            yield from _check_folder(folder, sorted(name for name in files if not name.startswith(".")))


def _check_folder(folder: Path, names: list[str]) -> Iterator[Finding]:
    try:
        sums = read_checksums(folder)
    except PolyvidError as error:
        yield Finding(folder / NAME, "damaged", str(error))
        sums = {}
    yield from (Finding(folder / name, "damaged", "it is missing") for name in sorted(sums.keys() - set(names)))
    yield from _check_files([folder / name for name in names if name != NAME], sums)
    yield from _missing_shards(folder, names)
    yield from _other_numbers_of_rows(folder, names)


def _checksums(folder: Path) -> dict[str, str]:
    try:
        return read_checksums(folder)
    except PolyvidError:  # says so when the folder is verified
        return {}


def _check_files(paths: list[Path], sums: dict[str, str]) -> Iterator[Finding]:
    for path in paths:
        try:
            found = check_file(path)
            if path.name in sums:
                found = _compared(path, sums[path.name], found)
        except FileNotFoundError:
            found = Finding(path, "no checksum", "it is gone: another command replaces or removes files here")
        if found is not None:
            yield found


def _compared(path: Path, expected: str, found: Finding | None) -> Finding:
    if sha256_of(path) == expected:
        return found if found is not None and found.state != "no checksum" else Finding(path, "whole", f"as in {NAME}")
    where = f" ({found.note})" if found is not None and found.state == "damaged" else ""
    return Finding(path, "damaged", f"it does not match its checksum in {NAME}{where}")


def _missing_shards(folder: Path, names: list[str]) -> Iterator[Finding]:
    shards = [match for match in map(SHARD.fullmatch, names) if match]
    for split, count in sorted({(match["split"], match["count"]) for match in shards}):
        expected = {shard_name(split, index, int(count)) for index in range(int(count))}
        yield from (Finding(folder / name, "damaged", "it is missing") for name in sorted(expected - set(names)))


def _other_numbers_of_rows(folder: Path, names: list[str]) -> Iterator[Finding]:
    """A config of a built dataset must have as many rows as its report says were written."""
    report = folder.parent / "reports" / f"{folder.name}.json"
    if not report.is_file() or not any(map(SHARD.fullmatch, names)):
        return
    try:
        recorded, found = json.loads(report.read_text(encoding="utf-8")).get("rows"), count_rows(folder)
    except (OSError, ValueError, AttributeError):  # the shards' and the report's own lines say so
        return
    if recorded not in (None, found):
        yield Finding(folder, "damaged", f"it has the rows {found} where {report} says {recorded} were written")


def _check_table(table: Path) -> Finding:
    """A LanceDB table, whose files have no checksums: whether all of its rows can be read."""
    try:
        import lancedb
    except ImportError as error:
        return Finding(table, "no checksum", f"a LanceDB table, not read: pip install 'polyvid[search]' ({error})")
    try:
        rows = lancedb.connect(str(table.parent)).open_table(table.stem)
        found = sum(batch.num_rows for batch in rows.search().select(rows.schema.names).to_batches())
        if found != (expected := rows.count_rows()):
            return Finding(table, "damaged", f"{found:,} of {expected:,} rows can be read")
    except BaseException as error:  # whatever LanceDB raises for what it reads; a panic of Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return Finding(table, "damaged", f"LanceDB cannot read it ({' '.join(str(error).split())[:200]})")
    return Finding(table, "no checksum", f"a LanceDB table, which has none; all {found:,} rows can be read")
