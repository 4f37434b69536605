"""Whether the pages of a Parquet file have checksums; pyarrow verifies those there are, but does not say so.

The header of a page is a struct in Thrift's compact protocol. Its first fields are the page's type, its two sizes and,
if there is one, its checksum (https://github.com/apache/parquet-format, `PageHeader`).
"""

from pathlib import Path

import pyarrow.parquet as pq

INTEGER = 5  # Thrift's type i32
CHECKSUM = 4  # the field's number
LONGEST_HEADER = 32  # bytes that hold the first four fields


def has_checksums(path: Path, metadata: pq.FileMetaData) -> bool:
    """Whether the first page of every column chunk has a checksum; a writer gives one to all pages or to none."""
    with open(path, "rb") as file:
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(column)
                file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
                if chunk.num_values and not _has_checksum(file.read(LONGEST_HEADER)):
                    return False
    return True


def _has_checksum(header: bytes) -> bool:
    field, at = 0, 0
    while at < len(header):
        field, kind, at = field + (header[at] >> 4), header[at] & 0xF, at + 1
        if field >= CHECKSUM or kind != INTEGER:
            return field == CHECKSUM and kind == INTEGER
        while at < len(header) and header[at] & 0x80:  # the last byte of a number has no high bit
            at += 1
        at += 1
    return False
