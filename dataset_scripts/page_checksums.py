"""Whether the pages of a Parquet file have checksums; pyarrow verifies those there are, but does not say so.

Metadata of Parquet are structs in Thrift's compact protocol (https://github.com/apache/parquet-format,
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md). They are read here because a flipped
bit can take the checksum away from a page, and because pyarrow ends the interpreter for some damaged entries.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

from polyvid.modeling.errors_mmp import PolyvidError

MAGIC = b"PAR1"
SHORTEST = 12  # bytes: this mark twice, and the length of the footer
ROW_GROUPS, COLUMNS, METADATA = 4, 1, 3  # fields of FileMetaData, RowGroup and ColumnChunk
TOTAL_COMPRESSED_SIZE, DATA_PAGE_OFFSET, DICTIONARY_PAGE_OFFSET = 7, 9, 11  # of ColumnMetaData
COMPRESSED_PAGE_SIZE, CRC = 3, 4  # of PageHeader
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12  # types
DEEPEST = 16  # structs within structs; the metadata of Parquet have 6


class _Damaged(ValueError):
    """What is wrong with the bytes."""


def pages_have_checksums(path: str | os.PathLike[str]) -> bool:
    """Whether all pages of a file have a checksum, or none has.

    Raises:
        OSError: if it cannot be opened.
        PolyvidError: if only some have one, as a writer gives one to all or to none, or if the metadata are damaged.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < SHORTEST:
                raise _Damaged("it is too short for Parquet")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found = set(_checksums(data))
        if len(found) == 2:
            raise _Damaged("some of its pages have a checksum and others have none")
    except _Damaged as error:
        raise PolyvidError(f"{os.fspath(path)} is damaged ({error}): delete it and make it again.") from None
    return False not in found


def _checksums(data: mmap.mmap) -> Iterator[bool]:
    """Whether each page has a checksum."""
    length = int.from_bytes(data[-8:-4], "little")
    end = len(data) - 8
    if data[-4:] != MAGIC or length > end - 4:
        raise _Damaged("it has no footer")
    footer, _ = _read_struct(data[end - length : end], 0)
    for group in _field(footer, ROW_GROUPS, LIST):
        for column in _field(group, COLUMNS, LIST):
            chunk = _field(column, METADATA, STRUCT)
            offsets = [name for name in (DATA_PAGE_OFFSET, DICTIONARY_PAGE_OFFSET) if name in chunk]
            starts = [_field(chunk, name, I64) for name in offsets]
            at = min((start for start in starts if start), default=0)  # 0: there is no such page
            last = at + _field(chunk, TOTAL_COMPRESSED_SIZE, I64)
            if at == last:  # a column without rows
                continue
            if not 4 <= at <= last <= end - length:
                raise _Damaged("a column lies outside of the file")
            while at < last:
                header, after = _read_struct(data, at)
                # A reader skips a field of another type than it expects, and so does not see this checksum.
                yield CRC in header and header[CRC][0] == I32
                size = _field(header, COMPRESSED_PAGE_SIZE, I32)
                if not 0 <= size <= last - after:
                    raise _Damaged("a page lies outside of its column")
                at = after + size


def _field(found: Any, number: int, kind: int) -> Any:
    if not isinstance(found, dict) or found.get(number, (0, None))[0] != kind:
        raise _Damaged("its metadata lack an entry")
    return found[number][1]


def _read_struct(data: Any, at: int, depth: int = 0) -> tuple[dict[int, tuple[int, Any]], int]:
    """{field: (type, value)} of a struct, and where it ends.

    Raises:
        _Damaged: for bytes that are no struct.
    """
    if depth > DEEPEST:
        raise _Damaged("its metadata are nested too deeply")
    found: dict[int, tuple[int, Any]] = {}
    field = 0
    try:
        while head := data[at]:
            at += 1
            if head >> 4:
                field += head >> 4
            else:
                field, at = _read_number(data, at)
            value, at = _read_value(data, at, head & 0xF, depth)
            found[field] = head & 0xF, value
    except (IndexError, struct.error):
        raise _Damaged("its metadata are cut off") from None
    return found, at + 1


def _read_value(data: Any, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value of a field, of a type of the compact protocol."""
    if kind in (TRUE, FALSE):
        return kind == TRUE, at
    if kind == BYTE:
        return data[at], at + 1
    if kind in (I16, I32, I64):
        return _read_number(data, at)
    if kind == DOUBLE:
        return struct.unpack("<d", data[at : at + 8])[0], at + 8
    if kind == BINARY:
        length, at = _read_varint(data, at)
        if length > len(data) - at:
            raise _Damaged("its metadata are cut off")
        return None, at + length  # texts are not looked at
    if kind in (LIST, SET):
        return _read_list(data, at, depth)
    if kind == STRUCT:
        return _read_struct(data, at, depth + 1)
    raise _Damaged(f"its metadata have an entry of type {kind}, which Parquet does not know")


def _read_list(data: Any, at: int, depth: int) -> tuple[list[Any], int]:
    head = data[at]
    count, at = head >> 4, at + 1
    if count == 15:
        count, at = _read_varint(data, at)
    if count > len(data) - at:  # an item has a byte at least
        raise _Damaged("its metadata are cut off")
    items = []
    for _ in range(count):
        kind = head & 0xF
        item, at = (data[at] == TRUE, at + 1) if kind in (TRUE, FALSE) else _read_value(data, at, kind, depth)
        items.append(item)
    return items, at


def _read_number(data: Any, at: int) -> tuple[int, int]:
    """A signed integer: zigzag."""
    value, at = _read_varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _read_varint(data: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise _Damaged("its metadata have a number that is too long")
