"""What a [`VideoIndex`] knows of each vector: video id, seconds, metadata; and the filters over them."""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch

from .errors_mmp import PolyvidError

RESERVED = {"video_id", "score", "start", "end"}


class Texts(Sequence[str]):
    """Strings as one buffer of UTF-8 and the offset of each: a million ids load at once, without Python objects."""

    def __init__(self, utf8: torch.Tensor, offsets: torch.Tensor):
        self.utf8, self.offsets = utf8, offsets
        self._bytes, self._starts = utf8.numpy().data, offsets.numpy().data  # memoryviews: the fastest to read

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """
        Raises:
            PolyvidError: for a text that UTF-8 cannot hold.
        """
        encoded = [encoded_utf8(text) for text in texts]
        utf8 = torch.tensor(bytearray(b"".join(encoded)), dtype=torch.uint8)
        return cls(utf8, torch.tensor([0, *map(len, encoded)]).cumsum(0))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], name: str) -> Texts:
        """The texts that a file holds under `{name}.utf8` and `{name}.offsets`.

        Raises:
            PolyvidError: for offsets out of range or order, or within a character, and for bytes that are no UTF-8.
        """
        utf8 = stored(tensors, f"{name}.utf8", torch.uint8, (None,))
        offsets = stored(tensors, f"{name}.offsets", torch.int64, (None,))
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(utf8) or not (offsets.diff() >= 0).all():
            raise PolyvidError(f"the offsets of {name!r} are out of range")
        starts = offsets[offsets < len(utf8)]
        try:
            str(utf8.numpy().data, "utf-8")
        except UnicodeDecodeError:
            raise PolyvidError(f"the texts of {name!r} are not UTF-8") from None
        if (utf8[starts] & 0xC0 == 0x80).any():  # a byte that continues a character
            raise PolyvidError(f"the offsets of {name!r} are out of range")
        return cls(utf8, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"There is no text {index}: there are {len(self)}.")
        return str(self._bytes[self._starts[position] : self._starts[position + 1]], "utf-8")


def encoded_utf8(text: str) -> bytes:
    """
    Raises:
        PolyvidError: for half of a surrogate pair, which is no character; file names that are not UTF-8 have such.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PolyvidError(f"{text!r} is not valid Unicode: see its character {error.start}.") from None


def stored(
    tensors: Mapping[str, torch.Tensor], name: str, dtype: torch.dtype, shape: tuple[int | None, ...]
) -> torch.Tensor:
    """A tensor of a file.

    Raises:
        PolyvidError: if it is missing or not of this type and shape, where None is any length.
    """
    if name not in tensors:
        raise PolyvidError(f"it has no {name!r}")
    found = tensors[name]
    fits = len(shape) == found.ndim and all(n is None or n == m for n, m in zip(shape, found.shape, strict=True))
    if found.dtype != dtype or not fits:
        raise PolyvidError(f"{name!r} is {found.dtype} {tuple(found.shape)}")
    return found


@dataclass(frozen=True)
class Condition:
    """On one column: x is one of `values`; or, if that is None, `low <= x <= high`, where None leaves an end open."""

    column: str
    values: tuple[Any, ...] | None
    low: Any = None
    high: Any = None


def conditions(
    kinds: Mapping[str, type],
    lang: str | None,
    where: Mapping[str, object] | None,
    seconds: tuple[float | None, float | None] | None,
) -> list[Condition]:
    """The filters of a search, checked against the index's columns.

    Args:
        kinds: `str` or `float` for each metadata column; `start` and `end` too if the rows are moments.
        lang: short for `where={"language": lang}`.
        where: `{column: value}`, `{column: [one, of, these]}` or `{column: (low, high)}`. A range includes both ends;
            None leaves one open. Texts compare as texts, so dates should be ISO: `("2019-01-01", None)`.
        seconds: (a, b): only moments between second a and second b of their video.

    Raises:
        PolyvidError: for a column the index does not have, and values of another kind than the column's.
    """
    wanted = dict(where or {}) | ({} if lang is None else {"language": lang})
    found: list[Condition] = []
    if seconds is not None:
        if "start" not in kinds:
            raise PolyvidError("This index holds whole videos: to search by seconds, build it with moment_seconds.")
        found += [Condition("start", None, seconds[0]), Condition("end", None, None, seconds[1])]
    for column, value in wanted.items():
        if column not in kinds or column in RESERVED:
            known = " ".join(sorted(kinds.keys() - RESERVED)) or "none"
            raise PolyvidError(f"The index has no metadata {column!r} to filter by; it has: {known}.")
        if isinstance(value, tuple):
            if len(value) != 2:
                raise PolyvidError(f"A range of {column!r} is a pair (low, high), got {value!r}.")
            found.append(Condition(column, None, *value))
        else:
            found.append(Condition(column, tuple(value) if isinstance(value, list | set | frozenset) else (value,)))
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
    def of(cls, name: str, values: Sequence[Any]) -> Column:
        known = [value for value in values if value is not None and value == value]  # NaN is unknown, too
        kinds = {_kind(value) for value in known}
        if len(kinds) != 1 or None in kinds:
            raise PolyvidError(f"Metadata {name!r} must be numbers or texts, and the same for all videos that have it.")
        ordered = sorted(set(known))
        code = {value: i for i, value in enumerate(ordered)}
        texts = Texts.of(json.dumps(value, ensure_ascii=False) for value in ordered)
        return cls(texts, torch.tensor([code.get(value, -1) for value in values], dtype=torch.int32))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], name: str, videos: int) -> Column:
        """
        Raises:
            PolyvidError: for offsets or codes out of range, and for values that `of` does not write.
        """
        values = Texts.from_tensors(tensors, f"metadata.{name}")
        codes = stored(tensors, f"metadata.{name}.codes", torch.int32, (videos,))
        if len(values) == 0 or codes.min() < -1 or codes.max() >= len(values):
            raise PolyvidError(f"the codes of metadata {name!r} are out of range")
        try:
            parsed = [json.loads(value) for value in values]
        except (ValueError, RecursionError):
            parsed = [None]
        kinds = {_kind(value) for value in parsed}
        if len(kinds) != 1 or None in kinds:
            raise PolyvidError(f"the values of metadata {name!r} are neither numbers nor texts")
        if not all(a < b for a, b in itertools.pairwise(parsed)):
            raise PolyvidError(f"the values of metadata {name!r} are not in order")
        return cls(values, codes)

    @property
    def kind(self) -> type:
        return str if isinstance(json.loads(self.values[0]), str) else float

    def __getitem__(self, video: int) -> str | float | None:
        code = int(self.codes[video])
        value: str | float | None = None if code < 0 else json.loads(self.values[code])
        return value

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
            one after its last. None if each row is a whole video.
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
            PolyvidError: for a column of mixed kinds, or with the name of a part of a hit.
        """
        names = sorted({name for known in metadata.values() for name in known})
        if taken := RESERVED.intersection(names):
            raise PolyvidError(f"Metadata cannot be called {min(taken)!r}: a hit has a part of that name.")
        known = [metadata.get(video_id, {}) for video_id in self.video_ids]
        values = {name: [row.get(name) for row in known] for name in names}
        # All values of a column may be unknown.
        columns = {name: Column.of(name, of) for name, of in values.items() if any(value is not None for value in of)}
        return VideoRows(self.video_ids, columns, self.videos, self.spans)

    def has_several_lengths(self) -> bool:
        """Whether some moments of one video begin at the same second."""
        if self.videos is None or self.spans is None:
            return False
        begins = torch.stack([self.videos, self.spans[:, 0]], dim=1)
        return len(begins.unique(dim=0)) < len(begins)

    def metadata(self) -> dict[str, dict[str, Any]]:
        """`{video_id: {column: number or text}}`, as `with_metadata` takes it."""
        columns = self.columns.items()
        return {name: {key: column[i] for key, column in columns} for i, name in enumerate(self.video_ids)}

    def rows_without(self, video_ids: Iterable[str]) -> torch.Tensor:
        """(kept,) int64: the rows of all other videos."""
        gone = set(video_ids)
        kept = torch.tensor([name not in gone for name in self.video_ids], dtype=torch.bool)
        return (kept if self.videos is None else kept[self.videos.long()]).nonzero()[:, 0]

    def kept(self, rows: torch.Tensor) -> VideoRows:
        """Some of the rows, (kept,) int64 in order, with the videos that they belong to and their metadata."""
        videos = rows if self.videos is None else self.videos[rows].long().unique()
        texts = Texts.of(self.video_ids[i] for i in videos.tolist())
        columns = {name: Column(column.values, column.codes[videos]) for name, column in self.columns.items()}
        columns = {name: column for name, column in columns.items() if (column.codes >= 0).any()}
        if self.videos is None or self.spans is None:
            return VideoRows(texts, columns)
        return VideoRows(texts, columns, torch.searchsorted(videos, self.videos[rows].long()).int(), self.spans[rows])

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
            if self.spans is not None and condition.column == "start":
                allowed &= self.spans[:, 0] >= (0 if condition.low is None else condition.low)
            elif self.spans is not None and condition.column == "end":
                if condition.high is not None:
                    allowed &= self.spans[:, 1] <= condition.high
            else:
                of_videos = self.columns[condition.column].allowed(condition)
                allowed &= of_videos if self.videos is None else of_videos[self.videos.long()]
        return allowed

    def hit(self, row: int, score: float) -> dict[str, Any]:
        """What a search returns for a row."""
        video = row if self.videos is None else int(self.videos[row])
        hit: dict[str, Any] = {"video_id": self.video_ids[video], "score": score}
        if self.spans is not None:
            hit["start"], hit["end"] = self.spans[row].tolist()
        if self.columns:
            hit["metadata"] = {name: column[video] for name, column in self.columns.items()}
        return hit

    @classmethod
    def cat(cls, parts: Sequence[VideoRows]) -> VideoRows:
        """The rows of all parts, in order, without metadata."""
        video_ids = Texts.of(video_id for part in parts for video_id in part.video_ids)
        first = torch.tensor([0, *(len(part.video_ids) for part in parts)]).cumsum(0).tolist()
        videos = [part.videos + n for part, n in zip(parts, first, strict=False) if part.videos is not None]
        spans = [part.spans for part in parts if part.spans is not None]
        return cls(video_ids, {}, torch.cat(videos), torch.cat(spans)) if videos else cls(video_ids, {})

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it as named tensors, as the file holds them."""
        found = {"video_ids.utf8": self.video_ids.utf8, "video_ids.offsets": self.video_ids.offsets}
        if self.videos is not None and self.spans is not None:
            found |= {"videos": self.videos, "spans": self.spans}
        for name, column in self.columns.items():
            found[f"metadata.{name}.utf8"] = column.values.utf8
            found[f"metadata.{name}.offsets"] = column.values.offsets
            found[f"metadata.{name}.codes"] = column.codes
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> VideoRows:
        """
        Raises:
            PolyvidError: for tensors that do not fit one another, and for offsets, codes, videos and seconds out of
                range.
        """
        video_ids = Texts.from_tensors(tensors, "video_ids")
        if len(video_ids) == 0:
            raise PolyvidError("it has no videos")
        names = {name[len("metadata.") :].rpartition(".")[0] for name in tensors if name.startswith("metadata.")}
        columns = {name: Column.from_tensors(tensors, name, len(video_ids)) for name in sorted(names)}
        if "videos" not in tensors and "spans" not in tensors:
            return cls(video_ids, columns)
        videos = stored(tensors, "videos", torch.int32, (None,))
        spans = stored(tensors, "spans", torch.int32, (len(videos), 2))
        if len(videos) == 0 or videos.min() < 0 or videos.max() >= len(video_ids):
            raise PolyvidError("the videos of its moments are out of range")
        if spans.min() < 0 or not (spans[:, 0] < spans[:, 1]).all():
            raise PolyvidError("the seconds of its moments are out of range")
        return cls(video_ids, columns, videos, spans)
