"""Encodes video files: worker processes decode them, and windows of many videos share a batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from polyvid.modeling.frame_encoders_mmp import FrameEncoder
from polyvid.modeling.video_reading_mmp import VideoError
from polyvid.modeling.window_batches_mmp import Timings, encode_windows
from polyvid.train.extraction.pool import decode_videos


def encode_videos(
    videos: Sequence[tuple[str, str | Path]],
    encoders: Sequence[FrameEncoder],
    workers: int = 1,
    timings: Timings | None = None,
) -> Iterator[tuple[str, np.ndarray | VideoError]]:
    """Yields `(video_id, features)` as videos finish, in no fixed order; see `encode_windows`.

    Args:
        videos: `(video_id, path)` pairs, with unique ids.
        encoders: their vectors are concatenated.
        workers: number of decoding processes; 0 decodes in this process.
        timings: to fill in.

    Raises:
        PolyvidError: if the encoders give features at different rates.
    """
    return encode_windows(lambda views: decode_videos(videos, views, workers), encoders, timings)
