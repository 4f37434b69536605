"""The work of one process in an extraction: its encoders on its device, and its share of the shards."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import FrameEncoder, load_frame_encoder, network_of
from polyvid.modeling.video_reading_mmp import Sampling, VideoError
from polyvid.train.extraction.encode import encode_videos
from polyvid.train.extraction.listing import has_utf8_name
from polyvid.train.extraction.shards import FORMAT, FeatureShards, Jobs, Results

Per = Literal["second", "frame", "video"]
Feature = Literal["pooler_output", "mixed_5c"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Extraction:
    """Everything a process needs to know to extract shards. Plain values, so that it can be sent to other machines.

    Attributes:
        output: folder of the shards.
        encoders: names for `load_frame_encoder`; their features are concatenated.
        num_shards: number of shards in the output.
        per: one feature per second, per stored frame (image models), or one per video.
        frames_per_second: frames averaged per second by image models.
        s3d_window, s3d_feature: frames per window and output of S3D; None for its defaults.
        batch_size: windows per forward pass; None chooses by device.
        workers: number of decoding processes; 0 decodes in this process.
        dtype: of the networks; auto is float16 on a GPU and float32 elsewhere.
        retry_failed: retry videos that failed in an earlier run.
    """

    output: Path
    encoders: tuple[str, ...]
    num_shards: int = 16
    per: Per = "second"
    frames_per_second: int = 2
    s3d_window: int | None = None
    s3d_feature: Feature | None = None
    batch_size: int | None = None
    workers: int = 1
    dtype: Precision = "auto"
    retry_failed: bool = False

    def load_encoders(self) -> list[FrameEncoder]:
        """The encoders on this process's device.

        Raises:
            ImportError: without PyAV, which the processes that decode need.
            ImportError, OSError, PolyvidError: as for `load_frame_encoder`.
            PolyvidError: if an S3D option is set but no encoder is S3D.
        """
        import_module("av")  # here, so that it is missed before videos are counted as failed
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        torch.backends.cudnn.deterministic = True  # a video's features must not depend on the run that made them
        dtype = getattr(torch, self.dtype) if self.dtype != "auto" else torch.float16 if cuda else torch.float32
        fps = self.frames_per_second
        sampling = Sampling(None, 1, 1) if self.per == "frame" else Sampling(fps, window=fps, stride=fps)
        is_s3d = {name: network_of(name) == "s3d" for name in self.encoders}
        if (self.s3d_window or self.s3d_feature) and not any(is_s3d.values()):
            raise PolyvidError(f"--s3d-window and --s3d-feature are for S3D; the encoders are {', '.join(is_s3d)}.")
        encoders = []
        for name in self.encoders:
            options: dict[str, Any] = {}
            if is_s3d[name]:
                options = {"window": self.s3d_window, "feature": self.s3d_feature or "pooler_output"}
            encoder = load_frame_encoder(name, sampling, **options).to(device, dtype)
            encoder.batch_size = self.batch_size or (32 if cuda else encoder.batch_size)
            encoders.append(encoder)
        return encoders

    def run(self, shards: Sequence[int], encoders: list[FrameEncoder], videos: dict[str, Path]) -> None:
        """Extract the given shards; the caller compiles `failures.jsonl`.

        Raises:
            PolyvidError: if the folder holds features with other settings, or another run is writing to it.
        """

        def compute(jobs: Jobs) -> Results:
            readable = []
            for video_id, path in jobs:
                if has_utf8_name(path):
                    readable.append((video_id, path))
                else:
                    yield video_id, VideoError("the file's name is not UTF-8: rename it")
            for video_id, features in encode_videos(readable, encoders, self.workers):
                if self.per == "video" and not isinstance(features, VideoError):
                    features = features.mean(axis=0, keepdims=True)
                yield video_id, features

        output = FeatureShards(self.output, self.num_shards)
        described = [_describe(encoder) for encoder in encoders]
        output.check_settings({"format": FORMAT, "encoders": described, "per": self.per})
        output.fill(videos, compute, shards, self.retry_failed)


def decoding_processes() -> int:
    """One fewer than the cores that a process of this launch has to itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1)


def _describe(encoder: FrameEncoder) -> dict[str, Any]:
    """Exactly what is extracted, for `extraction.json`."""
    precision = str(encoder.dtype).removeprefix("torch.")
    return {"name": encoder.name, **encoder.describe(), "dtype": precision}
