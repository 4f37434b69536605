"""Which frames of a video a dual encoder sees, by a named rule."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.video_reading_mmp import timed_frames

RULE = re.compile(r"([1-9]\d{0,3}) (uniform|a second)")


@dataclass(frozen=True)
class FrameRule:
    """`"8 uniform"`: the frame shown in the middle of each of eight equal parts of a video. `"1 a second"`: likewise
    in the middle of each part of a second; the last part may be shorter.

    Attributes:
        count: 1 to 9,999.
        per_second: whether that many a second, else a video.
    """

    count: int
    per_second: bool

    @classmethod
    def parse(cls, text: str) -> "FrameRule":
        """
        Raises:
            PolyvidError: for another wording.

        >>> FrameRule.parse("8 uniform")
        FrameRule(count=8, per_second=False)
        """
        match = RULE.fullmatch(text)
        if match is None:
            raise PolyvidError(f"Frames are chosen by a rule such as '8 uniform' or '1 a second', not {text!r}.")
        return cls(int(match[1]), match[2] == "a second")

    def __str__(self) -> str:
        return f"{self.count} {'a second' if self.per_second else 'uniform'}"

    def times(self, seconds: Fraction) -> list[Fraction]:
        """When the chosen frames of a video of this length are shown, in seconds.

        >>> [float(time) for time in FrameRule(4, False).times(Fraction(2))]
        [0.25, 0.75, 1.25, 1.75]
        >>> [float(time) for time in FrameRule(1, True).times(Fraction(5, 2))]
        [0.5, 1.5, 2.25]
        """
        if not self.per_second:
            return [seconds * (2 * part + 1) / (2 * self.count) for part in range(self.count)]
        edges = [Fraction(part, self.count) for part in range(-(-seconds * self.count // 1))] + [seconds]
        return [(start + end) / 2 for start, end in zip(edges, edges[1:], strict=False)]

    def read(self, path: Path) -> list[np.ndarray]:
        """The chosen frames of a video, each (height, width, 3) uint8.

        The file is decoded twice, first for its length, so that the frames of long videos need no memory.

        Raises:
            VideoError: as `timed_frames` of `polyvid.modeling.video_reading_mmp`.
        """
        length = max(end for _, end, _ in timed_frames(path))
        return list(_shown_at(self.times(length), timed_frames(path)))


def _shown_at(times: list[Fraction], frames: Iterable) -> Iterator[np.ndarray]:
    """The frame shown at each of the times, which are in order: the last that began by then."""
    waiting, last = list(times), None
    for start, _, frame in frames:
        while waiting and last is not None and start > waiting[0]:
            yield last.to_ndarray(format="rgb24")
            waiting.pop(0)
        if not waiting:
            return
        last = frame
    for _ in waiting:
        yield last.to_ndarray(format="rgb24")  # type: ignore[union-attr]  # a video has a frame
