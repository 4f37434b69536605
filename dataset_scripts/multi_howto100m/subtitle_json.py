"""Stream `how2_{lang}.json`: one JSON object of 10-20 GB, `{video_id: {"text": [...], "start": [...], "end": [...]}}`.

This code only looks for places where one video ends and the next begins; strict parsers decide what is valid. The file
is cut there into blocks of whole videos, and a block is parsed by Arrow's JSON reader straight into columns. What that
reader refuses (NaN among the texts, lone surrogates, anything odd) is parsed again by `json`. A cut inside a video
leaves a block that no parser takes, so it is noticed. Either way rows come out in the order of the file, and whatever
was repaired or skipped is counted in the report.
"""

import io
import json
import math
import os
import re
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from polyvid.modeling.errors_mmp import PolyvidError

SUBTITLES = pa.schema(
    [
        ("video_id", pa.string()),
        ("text", pa.list_(pa.string())),
        ("start", pa.list_(pa.float64())),  # seconds
        ("end", pa.list_(pa.float64())),
    ]
)

COLUMNS = ("text", "start", "end")

BLOCK_BYTES = 4 << 20
MAX_VIDEO_BYTES = 64 << 20

WHITESPACE = b" \t\n\r"  # of JSON, which knows no form feed
SPACE = rb"[ \t\n\r]*"

NEXT_VIDEO = re.compile(rb'\]%\}%,%("[^"\\]*")%:%\{(?=%"(?:text|start|end)"%:)'.replace(b"%", SPACE))
"""The seam between two videos. A caption cannot imitate it: none of its four quotes is escaped, so if the first one
closed a caption, the second would open the next, the third close that, and the bare word behind it is no JSON."""

FIRST_VIDEO = re.compile(rb'%("[^"\\]*")%:%\{'.replace(b"%", SPACE))

AFTER_OBJECT = re.compile(rb'\}[ \t\n\r]*(?:[^ \t\n\r,}\]{]|\{(?!"video_id":))')
"""Something behind an object that JSON does not allow there. Arrow would take it for a document of its own."""


class SubtitleFileError(PolyvidError):
    """The file cannot be read any further; the message names file and byte offset."""


class RepairReport:
    """Counts, by reason, of what was repaired or skipped in one file, with the videos concerned."""

    def __init__(self, source: str) -> None:
        self.source, self.videos_read, self.videos_written, self.subtitles_written = source, 0, 0, 0
        self.reasons: dict[str, dict[str, Any]] = {}

    def repaired(self, reason: str, video_id: str, subtitles: int = 1) -> None:
        """Count subtitles that were changed or dropped; the calls for one video come one after the other."""
        entry = self.reasons.setdefault(reason, {"subtitles": 0, "video_ids": []})
        entry["subtitles"] += subtitles
        if entry["video_ids"][-1:] != [video_id]:
            entry["video_ids"].append(video_id)

    def skipped(self, reason: str, video_id: str, subtitles: int = 0) -> None:
        """Count a video that gives no row. `videos_read` is `videos_written` plus all that were skipped."""
        entry = self.reasons.setdefault(reason, {"subtitles": 0, "video_ids": []})
        entry["subtitles"] += subtitles
        entry["video_ids"].append(video_id)

    def to_dict(self) -> dict[str, Any]:
        reasons = {reason: {"videos": len(entry["video_ids"]), **entry} for reason, entry in self.reasons.items()}
        return {**vars(self), "reasons": reasons}

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} in {len(entry['video_ids'])}" for reason, entry in self.reasons.items())
        return f"{self.source}: {self.videos_written} of {self.videos_read} videos; {reasons or 'nothing to repair'}"


def read_subtitles(path: str | os.PathLike, report: RepairReport) -> Iterator[pa.Table]:
    """Tables of `SUBTITLES`, a few megabytes each, in the order of the file.

    A subtitle is dropped when its text is null, NaN or blank, when a time is missing or not finite, or when it ends
    before it starts. A negative start becomes 0, subtitles are sorted by start, and half of a surrogate pair becomes
    U+FFFD. A video is skipped when it is not an object of three arrays or names one of them twice, when its arrays
    differ in length (nothing says which subtitle has which time), when its id came before, or when no subtitle is left.
    Other keys of a video are ignored.

    Raises:
        SubtitleFileError: when the file is truncated, or not a JSON object of videos.
    """
    known = _KnownIds()
    for table, count in _parsed(Path(path), known, report):
        report.videos_read += count
        report.videos_written += len(table)
        report.subtitles_written += pc.sum(pc.list_value_length(table["text"])).as_py() or 0
        if len(table):
            yield table


def _parsed(path: Path, known: "_KnownIds", report: RepairReport) -> Iterator[tuple[pa.Table, int]]:
    """Per block its usable rows, and how many videos it holds."""
    waiting, start = b"", 0
    for block, offset, is_last in _blocks(path):
        if waiting:
            block, offset = waiting + block, start
        body = block if is_last else block[: block.rindex(b",")]
        try:
            table = _parse_fast(body)
            count = len(table)
            table = _repair_table(table, known, report)
        except (pa.ArrowInvalid, UnicodeError):
            try:
                pairs = _parse_any(body, path, offset)
            except _UnfinishedBlock as error:
                # The cut was no seam but lay inside a video, or the file ends there.
                if is_last or len(block) > MAX_VIDEO_BYTES:
                    raise SubtitleFileError(str(error)) from None
                waiting, start = block, offset
                continue
            count = len(pairs)
            videos = [(_without_surrogates(video_id)[0], value) for video_id, value in pairs]
            new = known.add([video_id for video_id, _ in videos])
            rows = [row for pair, is_new in zip(videos, new, strict=True) if (row := _repair(*pair, is_new, report))]
            table = pa.Table.from_pylist(rows, schema=SUBTITLES)
        waiting = b""
        yield table, count


def _blocks(path: Path) -> Iterator[tuple[bytes, int, bool]]:
    """Bytes of whole videos, `"id": {...}, "id": {...},`, their offset in the file, and whether they are the last.

    All but the last block end with the comma before the next one.
    """
    with open(path, "rb") as file:
        buffer = file.read(BLOCK_BYTES)
        opening = re.match(rb"(?:\xef\xbb\xbf)?" + SPACE + rb"\{", buffer)
        if not opening:
            found = buffer[:20].decode("utf-8", "replace") or "nothing"
            raise SubtitleFileError(f"{path}, byte 0: expected a JSON object of videos, found {found!r}.")
        buffer, offset, searched = buffer[opening.end() :], opening.end(), 0
        while more := file.read(BLOCK_BYTES):
            buffer += more
            if seam := _last_seam(buffer, searched):
                cut = seam.start(1)
                yield buffer[:cut], offset, False
                buffer, offset, searched = buffer[cut:], offset + cut, 0
            elif len(buffer) > MAX_VIDEO_BYTES:
                raise SubtitleFileError(
                    f"{path}, byte {offset}: no end of a video within {MAX_VIDEO_BYTES >> 20} MB. "
                    'Expected {"video_id": {"text": [...], "start": [...], "end": [...]}, ...}.'
                )
            else:
                searched = max(0, len(buffer) - 4096)  # a seam may lie across two reads
        last = buffer.rstrip(WHITESPACE)
        if not last.endswith(b"}"):
            raise SubtitleFileError(
                f"{path}, byte {offset + len(last)}: the file ends inside a video; it is truncated."
            )
        if last[:-1].strip(WHITESPACE):
            yield last[:-1], offset, True


def _last_seam(buffer: bytes, searched: int) -> re.Match | None:
    near_end = max(searched, len(buffer) - (BLOCK_BYTES >> 3))
    for begin in (near_end, searched):
        if seams := list(NEXT_VIDEO.finditer(buffer, begin)):
            return seams[-1]
    return None


def _parse_fast(block: bytes) -> pa.Table:
    """The block by Arrow's reader, as one JSON document per video.

    Raises:
        pa.ArrowInvalid: when the block is not exactly that, whether or not it is JSON.
    """
    first = FIRST_VIDEO.match(block)
    if first is None:
        raise pa.ArrowInvalid("the block does not begin with a video")
    parts = NEXT_VIDEO.split(block)  # what is between the seams, and after each the id that stands in it
    seams = len(parts) // 2
    parts[1::2] = [b']}\n{"video_id":%b,' % video_id for video_id in parts[1::2]]
    parts[0] = b'{"video_id":%b,%b' % (first[1], parts[0][first.end() :])
    lines = b"".join(parts)
    if AFTER_OBJECT.search(lines):
        raise pa.ArrowInvalid("something follows an object")
    table = pa.json.read_json(
        io.BytesIO(lines),
        # One thread: languages are converted in parallel processes.
        read_options=pa.json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=pa.json.ParseOptions(explicit_schema=SUBTITLES, unexpected_field_behavior="ignore"),
    )
    if len(table) != seams + 1 or table["video_id"].null_count:
        raise pa.ArrowInvalid("not one document per video")
    table.validate(full=True)  # the JSON reader passes bytes that are not UTF-8
    return table.select(SUBTITLES.names)


class _Object(list[tuple[str, object]]):
    """A JSON object as its pairs: unlike a dict it shows keys that appear twice, and it is no JSON array."""


class _UnfinishedBlock(Exception):
    """The block ends inside a video."""


def _parse_any(block: bytes, path: Path, offset: int) -> _Object:
    """The block by Python's own parser, which takes NaN and lone surrogates. Invalid UTF-8 becomes the latter."""
    text = block.decode("utf-8", "surrogateescape")
    try:
        # Numbers as floats: an integer may have more digits than Python converts, and none needs to be exact.
        return json.loads("{" + text + "}", object_pairs_hook=_Object, parse_int=float)
    except json.JSONDecodeError as error:
        at = offset + len(text[: max(0, error.pos - 1)].encode("utf-8", "surrogateescape"))
        if error.pos > len(text):
            message = f"{path}, byte {at}: the file ends inside a video; it is truncated."
            raise _UnfinishedBlock(message) from None
        raise SubtitleFileError(f"{path}, byte {at}: not JSON ({error.msg}).") from None
    except RecursionError:
        raise SubtitleFileError(f"{path}, byte {offset}: nested too deeply for a subtitle file.") from None


class _KnownIds:
    """The video ids met so far, as sorted 64-bit hashes: 10 MB for a million of them, where a set takes 140."""

    def __init__(self) -> None:
        self._hashes = np.empty(0, dtype=np.uint64)

    def add(self, video_ids: list[str]) -> np.ndarray:
        """For each id, whether it comes for the first time."""
        keys = [video_id.encode("utf-8", "surrogatepass") for video_id in video_ids]
        hashes = np.array([int.from_bytes(blake2b(key, digest_size=8).digest(), "little") for key in keys], np.uint64)
        _, first = np.unique(hashes, return_index=True)
        new = np.zeros(len(hashes), dtype=bool)
        places = np.searchsorted(self._hashes, hashes[first])
        new[first] = np.searchsorted(self._hashes, hashes[first], side="right") == places
        fresh = np.sort(hashes[new])
        self._hashes = np.insert(self._hashes, np.searchsorted(self._hashes, fresh), fresh)
        return new


def _repair_table(table: pa.Table, known: _KnownIds, report: RepairReport) -> pa.Table:
    """Rows without fault pass as columns; the few others go through `_repair`."""
    video_ids = table["video_id"].to_pylist()
    new = known.add(video_ids)
    parts, start = [], 0
    for row in np.flatnonzero(_has_fault(table) | ~new).tolist():
        parts.append(table.slice(start, row - start))
        (value,) = table.slice(row, 1).to_pylist()
        repaired = _repair(video_ids[row], _Object((key, value[key]) for key in COLUMNS), new[row], report)
        parts.append(pa.Table.from_pylist([repaired] if repaired else [], schema=SUBTITLES))
        start = row + 1
    return pa.concat_tables([*parts, table.slice(start)])


def _has_fault(table: pa.Table) -> np.ndarray:
    """For every row, whether anything in it needs a repair."""
    columns = [table[name].combine_chunks() for name in COLUMNS]
    lengths = np.stack([pc.fill_null(pc.list_value_length(column), -1).to_numpy() for column in columns])
    fault = (lengths[0] < 1) | (lengths != lengths[0]).any(axis=0)
    # The row of each subtitle, faulty rows left out.
    rows = np.repeat(np.arange(len(table)), np.where(fault, 0, lengths[0]))
    if fault.any():
        keep = pa.array(~fault)
        columns = [column.filter(keep) for column in columns]
    text, start, end = (column.flatten() for column in columns)
    blank = pc.fill_null(pc.or_(pc.equal(pc.binary_length(text), 0), pc.utf8_is_space(text)), True)
    start, end = (pc.fill_null(times, math.nan).to_numpy() for times in (start, end))
    wrong = blank.to_numpy(zero_copy_only=False) | ~((start >= 0) & (end >= start) & (end < math.inf))
    wrong[1:] |= (start[1:] < start[:-1]) & (rows[1:] == rows[:-1])
    fault[rows[wrong]] = True
    return fault


def _repair(video_id: str, value: object, is_new: bool, report: RepairReport) -> dict[str, Any] | None:
    """A row of `SUBTITLES` from the pairs of one JSON object, or None where nothing can be used."""
    if not is_new:
        report.skipped("duplicate_video_id", video_id)
        return None
    arrays = [pair for pair in value if pair[0] in COLUMNS] if isinstance(value, _Object) else []
    found = dict(arrays)
    texts, starts, ends = (found.get(name) for name in COLUMNS)
    if len(arrays) != 3 or not (_is_array(texts) and _is_array(starts) and _is_array(ends)):
        report.skipped("malformed_video", video_id)
        return None
    if not len(texts) == len(starts) == len(ends):
        report.skipped("length_mismatch", video_id, max(len(texts), len(starts), len(ends)))
        return None
    kept = []
    for text, start, end in zip(texts, starts, ends, strict=True):
        if not isinstance(text, str):
            report.repaired("null_text", video_id)
        elif not text.strip():
            report.repaired("empty_text", video_id)
        elif not (_is_time(start) and _is_time(end)):
            report.repaired("missing_time", video_id)
        elif end < start:
            report.repaired("end_before_start", video_id)
        else:
            if start < 0:
                report.repaired("negative_time", video_id)
                start, end = 0.0, max(end, 0.0)
            text, replaced = _without_surrogates(text)
            if replaced:
                report.repaired("lone_surrogate", video_id)
            kept.append((float(start), float(end), text))
    if any(later[0] < earlier[0] for earlier, later in zip(kept, kept[1:], strict=False)):
        report.repaired("unsorted", video_id, len(kept))
        kept.sort(key=lambda subtitle: subtitle[0])
    if not kept:
        report.skipped("no_subtitles", video_id)
        return None
    starts, ends, texts = zip(*kept, strict=True)
    return {"video_id": video_id, "text": texts, "start": starts, "end": ends}


def _is_array(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list) and not isinstance(value, _Object)


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, float) and math.isfinite(value)  # every number is read as a float, and `true` is none


def _without_surrogates(text: str) -> tuple[str, bool]:
    try:
        text.encode("utf-8")
        return text, False
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), True
