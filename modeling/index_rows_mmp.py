"""What stands beside the vectors of a [`VideoIndex`]: ids, seconds, metadata; and the filters over them."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .errors_mmp import PolyvidError

RESERVED = {"video_id", "score", "start", "end"}


class Texts(Sequence):
    """Strings as one buffer of UTF-8 and where each begins: a million ids load at once and cost no Python objects."""

    def __init__(self, utf8: torch.Tensor, offsets: torch.Tensor):
        self.utf8, self.offsets = utf8, offsets
        self._bytes, self._starts = memoryview(utf8.numpy()), memoryview(offsets.numpy())  # read fastest so

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        encoded = [text.encode("utf-8") for text in texts]
        utf8 = torch.tensor(bytearray(b"".join(encoded)), dtype=torch.uint8)
        return cls(utf8, torch.tensor([0, *map(len, encoded)]).cumsum(0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return bytes(self._bytes[self._starts[index] : self._starts[index + 1]]).decode("utf-8")


@dataclass(frozen=True)
class Condition:
    """Of one column: one of `values`, or where that is None `low <= x <= high`, an end that is None being open."""

    column: str
    values: tuple | None
    low: object = None
    high: object = None


def conditions(
    kinds: Mapping[str, type], lang: str | None, where: Mapping[str, object] | None, seconds: tuple | None
) -> list[Condition]:
    """The filters of a search, checked against the index's columns.

    Args:
        kinds: `str` or `float` for each metadata column; `start` and `end` too if the rows are moments.
        lang: short for `where={"language": lang}`.
        where: `{column: value}`, `{column: [one, of, these]}` or `{column: (low, high)}`; both ends belong to the range
            and None leaves one open. Texts compare as texts, so dates should be ISO: `("2019-01-01", None)`.
        seconds: (a, b): only moments between second a and second b of their video.

    Raises:
        PolyvidError: for a column the index does not have, and values of another kind than the column's.
    """
    wanted = dict(where or {}) | ({} if lang is None else {"language": lang})
    found = []
    if seconds is not None:
        if "start" not in kinds:
            raise PolyvidError("This index holds whole videos: to search by seconds, build it with moment_seconds.")
        found += [Condition("start", None, seconds[0]), Condition("end", None, None, seconds[1])]
    for column, value in wanted.items():
        if column not in kinds or column in RESERVED:
            known = " ".join(sorted(kinds.keys() - RESERVED)) or "none"
            raise PolyvidError(f"The index has no metadata {column!r} to filter by; it has: {known}.")
        is_range = isinstance(value, tuple)
        if is_range and len(value) != 2:
            raise PolyvidError(f"A range of {column!r} is a pair (low, high), got {value!r}.")
        values = tuple(value) if isinstance(value, list | set | frozenset) else (value,)
        found.append(Condition(column, None, *value) if is_range else Condition(column, values))
    for condition in found:
        ends = [end for end in (condition.low, condition.high) if end is not None]
        for value in ends if condition.values is None else condition.values:
            if _kind(value) is not kinds[condition.column]:
                kind = "texts" if kinds[condition.column] is str else "numbers"
                raise PolyvidError(f"Metadata {condition.column!r} holds {kind}, which {value!r} is not.")
    return found


def _kind(value: object) -> type | None:
    return str if isinstance(value, str) else float if isinstance(value, int | float) else None


@dataclass(frozen=True)
class Column:
    """Metadata of the videos: its different values, sorted, as JSON; and for each video which (-1: unknown)."""

    values: Texts
    codes: torch.Tensor

    @classmethod
    def of(cls, name: str, values: Sequence) -> Column:
        known = [value for value in values if value is not None and value == value]  # NaN is unknown, too
        kinds = {_kind(value) for value in known}
        if len(kinds) != 1 or None in kinds:
            raise PolyvidError(f"Metadata {name!r} must be numbers or texts, and the same for all videos that have it.")
        ordered = sorted(set(known))
        code = {value: i for i, value in enumerate(ordered)}
        texts = Texts.of(json.dumps(value, ensure_ascii=False) for value in ordered)
        return cls(texts, torch.tensor([code.get(value, -1) for value in values], dtype=torch.int32))

    @property
    def kind(self) -> type:
        return _kind(json.loads(self.values[0]))

    def __getitem__(self, video: int) -> str | float | None:
        code = int(self.codes[video])
        return None if code < 0 else json.loads(self.values[code])

    def allowed(self, condition: Condition) -> torch.Tensor:
        """(videos,) bool."""
        if condition.values is None:
            first = 0 if condition.low is None else bisect_left(self.values, condition.low, key=json.loads)
            last = len(self.values)
            last = last if condition.high is None else bisect_right(self.values, condition.high, key=json.loads)
            return (self.codes >= first) & (self.codes < last)
        codes = [bisect_left(self.values, value, key=json.loads) for value in condition.values]
        right = [
            code
            for code, value in zip(codes, condition.values, strict=True)
            if code < len(self.values) and json.loads(self.values[code]) == value
        ]
        return torch.isin(self.codes, torch.tensor(right, dtype=torch.int32))


class VideoRows:
    """Row i of an index: a video, or a moment of one.

    Args:
        video_ids: of the videos.
        columns: their metadata.
        videos, spans: for moments: (rows,) int32, the video of each row, and (rows, 2) int32, its first second and the
            second it ends before. None where each row is a whole video.
    """

    def __init__(
        self,
        video_ids: Texts,
        columns: dict[str, Column],
        videos: torch.Tensor | None = None,
        spans: torch.Tensor | None = None,
    ):
        self.video_ids, self.columns, self.videos, self.spans = video_ids, columns, videos, spans

    def __len__(self) -> int:
        return len(self.video_ids if self.videos is None else self.videos)

    def with_metadata(self, metadata: Mapping[str, Mapping[str, object]]) -> VideoRows:
        """The same rows with `{video_id: {column: number or text}}`; what is missing or None is unknown.

        Raises:
            PolyvidError: for a column of mixed kinds or called like a part of a hit.
        """
        names = sorted({name for known in metadata.values() for name in known})
        if taken := RESERVED.intersection(names):
            raise PolyvidError(f"Metadata cannot be called {min(taken)!r}: a hit has that already.")
        known = [metadata.get(video_id, {}) for video_id in self.video_ids]
        columns = {name: [row.get(name) for row in known] for name in names}
        # Of a part of a collection, a column may say nothing.
        columns = {
            name: Column.of(name, values) for name, values in columns.items() if any(v is not None for v in values)
        }
        return VideoRows(self.video_ids, columns, self.videos, self.spans)

    @property
    def kinds(self) -> dict[str, type]:
        times = {} if self.spans is None else {"start": float, "end": float}
        return {name: column.kind for name, column in self.columns.items()} | times

    def allowed(self, filters: Sequence[Condition]) -> torch.Tensor | None:
        """(rows,) bool: which rows meet all conditions; None without conditions."""
        if not filters:
            return None
        allowed = torch.ones(len(self), dtype=torch.bool)
        for condition in filters:
            if condition.column == "start":
                allowed &= self.spans[:, 0] >= (0 if condition.low is None else condition.low)
            elif condition.column == "end":
                if condition.high is not None:
                    allowed &= self.spans[:, 1] <= condition.high
            else:
                of_videos = self.columns[condition.column].allowed(condition)
                allowed &= of_videos if self.videos is None else of_videos[self.videos.long()]
        return allowed

    def hit(self, row: int, score: float) -> dict:
        """What a search returns for a row."""
        video = row if self.videos is None else int(self.videos[row])
        hit = {"video_id": self.video_ids[video], "score": score}
        if self.spans is not None:
            hit["start"], hit["end"] = self.spans[row].tolist()
        if self.columns:
            hit["metadata"] = {name: column[video] for name, column in self.columns.items()}
        return hit

    @classmethod
    def cat(cls, parts: Sequence[VideoRows]) -> VideoRows:
        """The rows of all parts, in order, without metadata."""
        video_ids = Texts.of(video_id for part in parts for video_id in part.video_ids)
        if parts[0].videos is None:
            return cls(video_ids, {})
        first = torch.tensor([0, *(len(part.video_ids) for part in parts)]).cumsum(0).tolist()
        videos = [part.videos + offset for part, offset in zip(parts, first, strict=False)]
        return cls(video_ids, {}, torch.cat(videos), torch.cat([part.spans for part in parts]))

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it as named tensors, as the file holds them."""
        found = {"video_ids.utf8": self.video_ids.utf8, "video_ids.offsets": self.video_ids.offsets}
        if self.videos is not None:
            found |= {"videos": self.videos, "spans": self.spans}
        for name, column in self.columns.items():
            found[f"metadata.{name}.utf8"] = column.values.utf8
            found[f"metadata.{name}.offsets"] = column.values.offsets
            found[f"metadata.{name}.codes"] = column.codes
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> VideoRows:
        def texts(name: str) -> Texts:
            return Texts(tensors[f"{name}.utf8"], tensors[f"{name}.offsets"])

        names = [name[len("metadata.") : -len(".codes")] for name in tensors if name.endswith(".codes")]
        columns = {name: Column(texts(f"metadata.{name}"), tensors[f"metadata.{name}.codes"]) for name in sorted(names)}
        return cls(texts("video_ids"), columns, tensors.get("videos"), tensors.get("spans"))
