"""Turns a video file into the windows of frames that an encoder sees (paper, App. C).

"We re-sample videos to 30 fps and employ a window of size 8 or 30 that takes consecutive frames starting from the
beginning of every second." Resampling follows FFmpeg's `fps` filter with its default rounding, as the
public extractors do: a frame shown at time t goes to tick floor(30 t + 1/2), and a tick without its own frame repeats
the previous one. Nothing here imports torch, so a decoding process starts in a fraction of a second.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

try:  # a model that is given features works without it; transformers looks for packages outside of `try` only
    import av
    from av.container import InputContainer
    from av.stream import Disposition
    from av.video.stream import VideoStream
except ImportError:
    av = None  # type: ignore[assignment]

LONGEST_GAP = 3600  # seconds between two frames; a longer gap means broken timestamps, not a slide show
PLAYLISTS = {"concat", "dash", "hls", "imf"}  # formats of files that name other files
LONGEST_SIDE = 64  # as a multiple of the shorter side; beyond it, scaling would take gigabytes
MATROSKA_DURATION = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
TOLERATED_CORRUPTION = 0.05  # share of corrupt packets above which a video counts as broken


class VideoError(ValueError):
    """A video that cannot be turned into features. The message is recorded as the reason in `failures.jsonl`."""


TimedFrame = tuple[Fraction, Fraction, Any]
"""(start, end, `av.VideoFrame`): the times at which a frame is shown, in seconds from the start of the video."""


@dataclass(frozen=True)
class Sampling:
    """Which frames make one feature.

    Attributes:
        fps: ticks per second to which the video is resampled; `None` keeps the frames as stored.
        window: number of consecutive ticks per feature.
        stride: ticks from the start of a window to the start of the next. `stride == fps` is one feature per second.
    """

    fps: int | None = 30
    window: int = 8
    stride: int = 30

    def __post_init__(self) -> None:
        for name in ("window", "stride") + (("fps",) if self.fps is not None else ()):
            if getattr(self, name) < 1:
                raise ValueError(f"Sampling.{name} must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Scaling:
    """Scale the shorter side to `shortest_edge` pixels, keeping the aspect ratio, then crop the centre square."""

    shortest_edge: int
    crop: int

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.shortest_edge:
            raise ValueError(f"crop ({self.crop}) must lie in 1..shortest_edge ({self.shortest_edge}).")


@dataclass(frozen=True)
class View:
    """The frames that one encoder takes from a video.

    Attributes:
        sampling: which frames.
        scaling: done by FFmpeg while converting to RGB; `None` keeps the stored size.
        transform: (frames, height, width, 3) uint8 -> array of any shape; runs in the decoding process.
    """

    sampling: Sampling
    scaling: Scaling | None = None
    transform: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass
class Window:
    """One window of a video, for the encoder with index `view`. The windows of a view arrive in order."""

    video_id: str
    view: int
    pixels: np.ndarray


@dataclass
class VideoEnd:
    """Marks the end of a video. `error`: why it could not be decoded, or None. `seconds`: time spent decoding it."""

    video_id: str
    error: str | None
    seconds: float


def decode_video(
    video_id: str, frames: Iterable[TimedFrame] | str | Path, views: list[View]
) -> Iterator[Window | VideoEnd]:
    """The windows of a video and its `VideoEnd`, which says why it broke off if it did.

    Args:
        frames: the path of a file, or its frames in order of time.

    Raises:
        ImportError: without PyAV.
    """
    seconds, mark, error = 0.0, time.perf_counter(), None
    require_av()
    try:
        timed = timed_frames(Path(frames)) if isinstance(frames, str | Path) else frames
        for view, pixels in cut_windows(timed, views):
            seconds += time.perf_counter() - mark
            yield Window(video_id, view, pixels)
            mark = time.perf_counter()
    except VideoError as reason:
        error = str(reason)
    except Exception as unforeseen:  # FFmpeg, numpy or a processor failed on an odd video: continue with the others
        error = f"{type(unforeseen).__name__}: {unforeseen}"
    yield VideoEnd(video_id, error, seconds + time.perf_counter() - mark)


def require_av() -> None:
    """
    Raises:
        ImportError: without PyAV.
    """
    if av is None:
        raise ImportError("Reading videos needs one more package, PyAV: pip install av")


def to_frame(pixels: np.ndarray) -> av.VideoFrame:
    """(height, width, 3) uint8 RGB."""
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")


def read_windows(path: str | Path, views: list[View]) -> Iterator[tuple[int, np.ndarray]]:
    """Decodes a video file once and yields `(index into views, window)`: [`cut_windows`] of [`timed_frames`].

    Raises:
        ImportError: without PyAV.
        VideoError: as [`timed_frames`].
    """
    require_av()
    yield from cut_windows(timed_frames(Path(path)), views)


def cut_windows(frames: Iterable[TimedFrame], views: list[View]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields `(index into views, window)`; the windows of each view are in order of time.

    A window is (window, height, width, 3) uint8 RGB, or what the view's transform returns for it. A view yields one
    window for each full `stride` of ticks, that is `floor(duration)` windows at one per second, and at least one for
    a short video. If a window extends past the last frame, that frame is repeated. Only open windows are held in
    memory, however long the video is.

    Raises:
        VideoError: for frames of an extreme aspect ratio.
    """
    cutters = [_WindowCutter(view) for view in views]
    last_end = Fraction(0)
    for start, end, frame in frames:
        last_end = end
        for index, cutter in enumerate(cutters):
            for window in cutter.add(frame, start):
                yield index, window
    for index, cutter in enumerate(cutters):
        for window in cutter.finish(last_end):
            yield index, window


def timed_frames(path: Path) -> Iterator[TimedFrame]:
    """The frames of a video file.

    Raises:
        VideoError: if the file does not exist, is not a video, has no video stream or no frame, is truncated or mostly
            corrupt, or has broken timestamps.
    """
    if not path.is_file():
        raise VideoError(f"no such file: {path}")
    if path.stat().st_size == 0:
        raise VideoError("the file is empty")
    with open_container(path) as container:
        yield from frames_of_container(container)


def open_container(source: Any, timeout: float | None = None) -> InputContainer:
    """Opens a video, which is one file: a playlist could make FFmpeg read any other on this machine.

    Args:
        source: a `Path`; a URL as a string, where a playlist is read, since it can only name other URLs; or a file that
            is open.
        timeout: seconds to wait for a server.

    Raises:
        VideoError: if FFmpeg cannot open it, or if it is a file that names others.
    """
    allowed = {} if isinstance(source, str) else {"format_whitelist": ",".join(av.formats_available - PLAYLISTS)}
    if isinstance(source, os.PathLike):
        source = os.path.abspath(source)  # FFmpeg takes what is before a colon, as in `http:a.mp4`, for a protocol
    try:
        return av.open(source, timeout=timeout, options=allowed)
    except av.error.ArgumentError:
        raise VideoError("a playlist, or another file that FFmpeg does not open by itself: pass the video") from None
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"not a video FFmpeg can open: {error.strerror}") from None


def frames_of_container(container: InputContainer) -> Iterator[TimedFrame]:
    """The frames of the first video stream, times in seconds from the start of the file.

    Containers round times to their clock (a millisecond in Matroska). `end` allows for one tick of that clock, so that
    240 frames at 24 fps last ten seconds.

    Raises:
        VideoError: as [`timed_frames`].
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError("no video stream" + (" (audio only)" if container.streams.audio else ""))
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError("no decoder for the video stream")
    if not stream.codec_context.is_open:  # a caller may have read this container before
        stream.codec_context.thread_count = 1  # decoding many videos at once uses the cores better than threads
    clock = stream.time_base or Fraction(1, av.time_base)
    rate = stream.average_rate or stream.guessed_rate
    step = 1 / Fraction(rate) if rate else Fraction(1, 30)
    origin = None if container.start_time is None else Fraction(container.start_time, av.time_base)
    promised = _promised_seconds(stream)
    packets = _Packets(container, stream, all_streams=promised is None)
    start, end = None, Fraction(0)
    for frame in packets.frames():
        shown = end if frame.pts is None else frame.pts * clock
        if frame.pts is not None:
            origin = shown if origin is None else origin
            shown -= origin
        if start is not None and shown <= start:
            continue  # a timestamp that does not advance: keep the previous frame
        if shown - (start or 0) > LONGEST_GAP:
            raise VideoError(f"the clock jumps from {float(start or 0):.1f} s to {float(shown):.1f} s")
        step = shown - start if start is not None else step
        start = shown
        end = start + (frame.duration * clock if frame.duration else step) + clock
        yield start, end, frame
    if start is None:
        raise VideoError("no frame could be decoded")
    found = end
    if promised is None:  # then only the whole file has a duration, and its audio may be longer
        promised = Fraction(container.duration or 0, av.time_base)
        found = max(end, packets.last_end - (origin or 0))
    if promised - found > max(Fraction(1), promised / 20):
        raise VideoError(f"truncated: {float(found):.1f} s of {float(promised):.1f} s could be decoded")


def _promised_seconds(stream: VideoStream) -> Fraction | None:
    """The duration the container gives for a stream, in its own field or Matroska's tag; None if it has neither."""
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    if tag := MATROSKA_DURATION.fullmatch(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = tag.groups()
        return 3600 * Fraction(hours) + 60 * Fraction(minutes) + Fraction(seconds)
    return None


class _Packets:
    """Reads one video stream of a container, skipping corrupt packets, as the `ffmpeg` program does.

    Attributes:
        last_end: end of the last packet, in seconds on the container's clock; of any stream with `all_streams`.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, all_streams: bool):
        self.container, self.stream = container, stream
        self.read = [s for s in container.streams if s is stream or (all_streams and s.type in ("video", "audio"))]
        self.last_end = Fraction(0)

    def frames(self) -> Iterator[av.VideoFrame]:
        """The frames of the video stream, in decoding order.

        Raises:
            VideoError: if too many packets are corrupt.
        """
        packets = corrupt = 0
        demuxed = self.container.demux(*self.read)
        while True:
            try:
                packet = next(demuxed)
            except StopIteration:
                break
            except av.error.FFmpegError:  # the container breaks off; the duration check detects what is missing
                break
            if packet.pts is not None and packet.time_base:
                packet_end: Fraction = (packet.pts + (packet.duration or 0)) * packet.time_base
                self.last_end = max(self.last_end, packet_end)
            if packet.stream is not self.stream:
                continue
            packets += 1
            try:
                for frame in packet.decode():
                    if isinstance(frame, av.VideoFrame):
                        yield frame
            except av.error.FFmpegError:
                corrupt += 1
        if corrupt > max(1, packets * TOLERATED_CORRUPTION):
            raise VideoError(f"{corrupt} of {packets} packets are corrupt")


class _WindowCutter:
    """Resamples a stream of timed frames for one view and splits it into windows."""

    def __init__(self, view: View):
        self.view = view
        self.ticks = 0  # ticks filled so far
        self.frame: av.VideoFrame | None = None  # the frame shown at the next tick
        self.pixels: np.ndarray | None = None  # that frame in RGB, converted when first needed
        self.open: list[tuple[int, list[np.ndarray]]] = []  # (first tick, frames so far)

    def add(self, frame: av.VideoFrame, start: Fraction) -> Iterator[np.ndarray]:
        fps = self.view.sampling.fps
        tick = self.ticks + (self.frame is not None) if fps is None else int(start * fps + Fraction(1, 2))
        if self.frame is None:
            self.frame = frame  # ticks before the first frame show it too
        yield from self._fill(tick)
        self.frame, self.pixels = frame, None

    def finish(self, end: Fraction) -> Iterator[np.ndarray]:
        fps, stride = self.view.sampling.fps, self.view.sampling.stride
        total = self.ticks + 1 if fps is None else int(end * fps)
        yield from self._fill(max(total, 1))
        for first, frames in self.open:
            if first + stride <= total or first == 0:
                yield self._window(frames + [self._rgb()] * (self.view.sampling.window - len(frames)))
        self.open = []

    def _fill(self, until: int) -> Iterator[np.ndarray]:
        """Repeats the current frame up to tick `until` (exclusive); yields the windows whose stride is complete."""
        sampling = self.view.sampling
        while self.ticks < until:
            if self.ticks % sampling.stride == 0:
                self.open.append((self.ticks, []))
            for _, frames in self.open:
                if len(frames) < sampling.window:
                    frames.append(self._rgb())
            self.ticks += 1
            first, frames = self.open[0]
            if len(frames) == sampling.window and self.ticks >= first + sampling.stride:
                yield self._window(frames)
                del self.open[0]

    def _window(self, frames: list[np.ndarray]) -> np.ndarray:
        window = np.stack(frames)
        return self.view.transform(window) if self.view.transform else window

    def _rgb(self) -> np.ndarray:
        """The current frame, (height, width, 3) uint8, scaled, cropped and turned upright."""
        if self.pixels is None:
            frame, scaling = self.frame, self.view.scaling
            assert frame is not None  # a tick is only shown once there is a frame
            if max(frame.width, frame.height) > LONGEST_SIDE * min(frame.width, frame.height):
                raise VideoError(f"pictures of {frame.width} x {frame.height} pixels: one side is too long to scale")
            if scaling is None:
                pixels = frame.to_ndarray(format="rgb24")
            else:
                ratio = scaling.shortest_edge / min(frame.width, frame.height)
                width, height = (max(scaling.shortest_edge, round(n * ratio)) for n in (frame.width, frame.height))
                pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BILINEAR")
                top, left = (height - scaling.crop) // 2, (width - scaling.crop) // 2
                pixels = pixels[top : top + scaling.crop, left : left + scaling.crop]
            self.pixels = np.rot90(pixels, round(frame.rotation / 90) % 4)  # phones store the rotation as metadata
        return self.pixels
