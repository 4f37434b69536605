"""Moments of a video: the windows that an index holds of it, and which hits of a search are different moments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import log2
from typing import Any

import torch

from .errors_mmp import PolyvidError
from .index_corrections_mmp import nearest_rescored
from .index_engines_mmp import Engine
from .index_rows_mmp import Condition

LONGER = 0.015
"""Cosine that a window gains for each doubling of its length: see "Moments" in tests/benchmarks/RESULTS.md."""


def window_lengths(moment_seconds: int | Sequence[int] | None) -> tuple[int, ...]:
    """The lengths of an index's windows in seconds, from the shortest; none for an index of whole videos.

    Raises:
        PolyvidError: for a length below 1, or one that is given twice.
    """
    if moment_seconds is None:
        return ()
    lengths = (moment_seconds,) if isinstance(moment_seconds, int) else tuple(moment_seconds)
    if not lengths or any(not isinstance(length, int) or length < 1 for length in lengths):
        raise PolyvidError(f"moment_seconds must be at least 1, got {moment_seconds}.")
    if len(set(lengths)) < len(lengths):
        raise PolyvidError(f"moment_seconds must be different lengths, got {moment_seconds}.")
    return tuple(sorted(lengths))


def windows(seconds: int, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """The (first second, end) of each window of a video, in order of length, then of time.

    With one length, a window begins at each second. With several, those of length L begin every L // 4 seconds: a
    moment of that length then shares at least 7/9 of the seconds that it and the nearest window cover together. A
    window ends with the video. A video that is shorter than a window is one window, once.

    Args:
        seconds: of the video, at least 1.
        lengths: as from `window_lengths`; without one, the video is one window.

    >>> windows(6, [4])
    [(0, 4), (1, 5), (2, 6)]
    >>> windows(9, [4, 8, 16])[-3:]
    [(0, 8), (1, 9), (0, 9)]
    """
    found: dict[tuple[int, int], None] = {}
    for length in lengths or (seconds,):
        step = max(1, length // 4) if len(lengths) > 1 else 1
        last = max(0, seconds - length)
        for start in [*range(0, last, step), last]:
            found[start, min(start + length, seconds)] = None
    return list(found)


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two spans of time, the measure by which moments are compared."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, shared) / (max(one[1], other[1]) - min(one[0], other[0]))


def different_moments(hits: Iterable[dict[str, Any]], max_overlap: float) -> Iterator[dict[str, Any]]:
    """Non-maximum suppression: hits from the best on, without those that overlap a better one of their video by more.

    Args:
        hits: best first, with `start` and `end`.
        max_overlap: 0 leaves no two hits that share a second; see `overlap`.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    for hit in hits:
        span, better = (hit["start"], hit["end"]), spans.setdefault(hit["video_id"], [])
        if all(overlap(span, other) <= max_overlap for other in better):
            better.append(span)
            yield hit


def _best_of_each_video(hits: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for hit in hits:
        if hit["video_id"] not in seen:
            seen.add(hit["video_id"])
            yield hit


class LongerPreferred:
    """An engine whose hits are ranked by cosine + `LONGER` for each doubling of a window's length, exactly as if all
    rows had been scored.

    A short window lies within one scene more often than a long one, and so its cosine is the highest of several windows
    of that scene by a little; but the long one covers more of the scene. Beyond the paper.

    Args:
        engine: finds by cosine.
        lengths: of its windows in seconds, from the shortest, whose hits keep their cosine.
    """

    def __init__(self, engine: Engine, lengths: Sequence[int]):
        self.engine, self.rows = engine, engine.rows
        self.shortest, self.most = lengths[0], LONGER * log2(lengths[-1] / lengths[0])

    def nearest(self, queries: torch.Tensor, k: int, filters: Sequence[Condition]) -> list[list[dict[str, Any]]]:
        """The hits of each query, best first; as `Engine.nearest`."""

        def prefer(hits: list[dict[str, Any]]) -> list[dict[str, Any]]:
            doublings = [log2(max(1.0, (hit["end"] - hit["start"]) / self.shortest)) for hit in hits]
            return [hit | {"score": hit["score"] + LONGER * n} for hit, n in zip(hits, doublings, strict=True)]

        return nearest_rescored(self.engine, queries, k, filters, prefer, self.most)


def nearest_moments(
    engine: Engine,
    queries: torch.Tensor,
    k: int,
    filters: Sequence[Condition],
    one_per_video: bool,
    max_overlap: float,
) -> list[list[dict[str, Any]]]:
    """The nearest `k` different moments: asks the engine for more until so many are among them.

    Args:
        engine, queries, k, filters: as for `Engine.nearest`.
        one_per_video, max_overlap: as for [`VideoIndex.search`].
    """
    if one_per_video and engine.rows is not None:  # a database does not say how many videos it holds
        k = min(k, len(engine.rows.video_ids))
    best: list[list[dict[str, Any]]] = [[] for _ in queries]
    short, wanted = list(range(len(queries))), k
    while short:
        still_short = []
        for query, hits in zip(short, engine.nearest(queries[short], wanted, filters), strict=True):
            kept = _best_of_each_video(hits) if one_per_video else different_moments(hits, max_overlap)
            best[query] = list(islice(kept, k))
            if len(best[query]) < k and len(hits) == wanted:
                still_short.append(query)
        short, wanted = still_short, 4 * wanted
    return best
