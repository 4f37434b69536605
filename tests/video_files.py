"""Small generated videos whose every frame carries its own number."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from polyvid.dataset_scripts.clips import same_scheduling

SIDE = 96  # pixels; 4 x 4 blocks hold a frame's number in binary


class KillsItsProcess:
    """Stands for FFmpeg crashing on a video: a view's transform that takes its decoding process down."""

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        os._exit(9)


def numbered_frame(number: int) -> np.ndarray:
    bits = np.array([number >> bit & 1 for bit in range(16)], np.uint8).reshape(4, 4)
    return np.repeat((bits * 255).repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)[..., None], 3, axis=2)


def read_number(pixels: np.ndarray) -> int:
    """The number in a decoded frame of any square size."""
    block = pixels.shape[0] // 4
    means = pixels[: 4 * block, : 4 * block].reshape(4, block, 4, block, 3).mean((1, 3, 4))
    return sum(1 << bit for bit, mean in enumerate(means.flat) if mean > 127)


def write_video(
    path: Path,
    num_frames: int,
    fps: Fraction | int = 30,
    times: list[Fraction] | None = None,
    rotation: int = 0,
    with_audio: bool = False,
    codec: str = "libx264",
) -> Path:
    """Encodes frames 0 ... num_frames - 1 at `fps`, or at the given `times` in seconds (a variable rate)."""
    clock = Fraction(1, 90_000)
    with same_scheduling(), av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = clock
        stream.codec_context.gop_size = 12
        audio = container.add_stream("aac", rate=16_000) if with_audio else None
        for number in range(num_frames):
            pixels = np.ascontiguousarray(np.rot90(numbered_frame(number), -rotation // 90))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = int((times[number] if times else number / Fraction(fps)) / clock)
            frame.time_base = clock
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            _mux_silence(container, audio, seconds=num_frames / float(fps))
    return path


def write_audio(path: Path, seconds: float = 1.0) -> Path:
    with av.open(str(path), "w") as container:
        _mux_silence(container, container.add_stream("aac", rate=16_000), seconds)
    return path


def _mux_silence(container, stream, seconds: float) -> None:
    for start in range(0, int(seconds * 16_000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def resampled_by_ffmpeg(path: Path, fps: int = 30) -> list[int]:
    """The frame number at every tick, by FFmpeg's own `fps` filter."""
    numbers = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source, sink = graph.add_buffer(template=stream), graph.add("buffersink")
        resample = graph.add("fps", f"fps={fps}:start_time=0")
        source.link_to(resample)
        resample.link_to(sink)
        graph.configure()
        for frame in [*container.decode(stream), None]:
            graph.push(frame)
            while True:
                try:
                    numbers.append(read_number(sink.pull().to_ndarray(format="rgb24")))
                except (BlockingIOError, EOFError):
                    break
    return numbers
