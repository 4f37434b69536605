"""The forms in which people have videos, each as a stream of frames with times.

Files, addresses and bytes; decoders of PyAV and torchcodec; what the datasets library gives for a `Video` column; and
frames as pictures or as an array. A wrong guess at the layout of an array would go unnoticed, so nothing is guessed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch

from .video_reading_mmp import (
    TimedFrame,
    VideoError,
    frames_of_container,
    open_container,
    require_av,
    timed_frames,
    to_frame,
)

SERVER_TIMEOUT = 30.0  # seconds


def is_video(item: Any) -> bool:
    """Whether `item` is a video, rather than features of one: anything that `frames_of` takes."""
    return (
        isinstance(item, str | os.PathLike | bytes | bytearray)
        or _is_undecoded(item)
        or _is_container(item)
        or _is_decoder(item)
        or (hasattr(item, "read") and hasattr(item, "seek"))
        or _are_pictures(item)
        or getattr(item, "ndim", 0) == 4
    )


def frames_of(source: Any, frame_rate: float | None = None) -> Iterator[TimedFrame]:
    """The frames of a video and when they are shown.

    Args:
        source: a path; an address (`https://...`, or any that fsspec opens); the bytes of a file, or a file that is
            open; a container of PyAV; a decoder of torchcodec; a value of a `Video` column of datasets, decoded or not;
            a list of PIL images; an array or tensor of frames, (T, H, W, 3) or (T, 3, H, W), uint8 or float in [0, 1].
        frame_rate: frames a second of a list or an array, which do not say it.

    Raises:
        ImportError: without PyAV.
        VideoError: for what cannot be read, an array whose layout is not certain, or frames without `frame_rate`.
    """
    require_av()
    if _is_undecoded(source):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, str) and "://" in source:
        yield from _frames_at(source)
    elif isinstance(source, str | os.PathLike):
        yield from timed_frames(Path(source))
    elif isinstance(source, bytes | bytearray):
        if not source:
            raise VideoError("there are no bytes")
        with open_container(io.BytesIO(source)) as container:
            yield from frames_of_container(container)
    elif _is_container(source):
        source.seek(0)  # it may have been read before; closing it is up to its owner
        yield from frames_of_container(source)
    elif _is_decoder(source):
        yield from _frames_of_decoder(source)
    elif hasattr(source, "read"):
        source.seek(0)
        with open_container(source) as container:
            yield from frames_of_container(container)
    elif _are_pictures(source):
        yield from _timed([np.asarray(picture.convert("RGB")) for picture in source], frame_rate)
    else:
        yield from _timed(as_frames(source), frame_rate)


def as_frames(array: Any) -> np.ndarray:
    """Frames in any unambiguous layout -> (T, H, W, 3) uint8.

    Raises:
        VideoError: if the layout is not certain, or the values are neither uint8 nor floats in [0, 1].
    """
    array = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    if array.ndim != 4 or 0 in array.shape:
        raise VideoError(f"an array of frames must be (T, H, W, 3) or (T, 3, H, W), but its shape is {array.shape}.")
    last, first = array.shape[3] == 3, array.shape[1] == 3
    if last and first:
        raise VideoError(
            f"frames of shape {array.shape} may be (T, H, W, 3) or (T, 3, H, W): pass frames that are higher and wider "
            "than 3 pixels."
        )
    if not last and not first:
        raise VideoError(f"frames of shape {array.shape} have no side of 3 for red, green and blue.")
    frames = array if last else array.transpose(0, 2, 3, 1)
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise VideoError(f"frames must be uint8, or floats in [0, 1], but they are {frames.dtype}.")
    low, high = float(frames.min()), float(frames.max())
    if not (low >= 0 and high <= 1):
        raise VideoError(f"frames of floats must lie in [0, 1], but they lie in [{low:g}, {high:g}].")
    return np.rint(frames * 255).astype(np.uint8)


def _timed(frames: Sequence[np.ndarray] | np.ndarray, frame_rate: float | None) -> Iterator[TimedFrame]:
    if frame_rate is None:
        raise VideoError("frames do not say how many there are a second: pass frame_rate=.")
    if not frame_rate > 0:
        raise VideoError(f"frame_rate must be above 0, got {frame_rate}.")
    step = 1 / Fraction(frame_rate).limit_denominator(100_000)
    for number, frame in enumerate(frames):
        picture = to_frame(frame)
        yield number * step, (number + 1) * step, picture


def _frames_at(address: str) -> Iterator[TimedFrame]:
    """FFmpeg reads http itself, and only what it needs; it knows no other store."""
    if address.startswith(("http://", "https://")):
        with open_container(address, timeout=SERVER_TIMEOUT) as container:
            yield from frames_of_container(container)
        return
    try:
        opened = fsspec.open(address, "rb").open()
    except (OSError, ValueError, ImportError) as error:
        raise VideoError(f"cannot be opened: {error}") from None
    with opened as file, open_container(file) as container:
        yield from frames_of_container(container)


def _frames_of_decoder(decoder: Any) -> Iterator[TimedFrame]:
    """Of torchcodec: `get_frame_at(index)` gives data, pts_seconds and duration_seconds."""
    origin = None
    for index in range(len(decoder)):
        found = decoder.get_frame_at(index)
        start = Fraction(float(found.pts_seconds)).limit_denominator(1_000_000)
        origin = start if origin is None else origin
        length = Fraction(float(found.duration_seconds)).limit_denominator(1_000_000)
        [frame] = as_frames(found.data[None])
        picture = to_frame(frame)
        # as in a container, whose clock rounds: a thousandth, so that 240 frames at 24 fps last ten seconds
        yield start - origin, start - origin + length + Fraction(1, 1000), picture
    if origin is None:
        raise VideoError("no frame could be decoded")


def _is_undecoded(item: Any) -> bool:
    return isinstance(item, Mapping) and item.keys() <= {"bytes", "path"} and len(item) > 0


def _is_container(item: Any) -> bool:
    return hasattr(item, "demux") and hasattr(item, "streams")


def _is_decoder(item: Any) -> bool:
    return hasattr(item, "get_frame_at") and hasattr(item, "metadata")


def _are_pictures(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) > 0 and all(hasattr(part, "convert") for part in item)
