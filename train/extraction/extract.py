"""The command `polyvid extract`, on one process, several (`accelerate launch`, `torchrun`) or a Ray cluster."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.extraction.decoding import Sampling, VideoError
from polyvid.train.extraction.encode import encode_videos
from polyvid.train.extraction.encoders import FrameEncoder, load_frame_encoder
from polyvid.train.extraction.shards import FeatureShards, Jobs, Results

DEFAULT_ENCODERS = ["r2plus1d_34_clip8_ig65m", "s3d_howto100m"]
VIDEO_SUFFIXES = set(".3gp .avi .flv .gif .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split())
Per = Literal["second", "frame", "video"]
Feature = Literal["pooler_output", "mixed_5c"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]


def list_videos(source: str | os.PathLike) -> dict[str, Path]:
    """`{video_id: path}`, in order of ids.

    Args:
        source: a folder, searched through all its subfolders, or a text file with one path a line (relative to the
            file's folder), or `video_id<TAB>path`. Without an id of its own a video is called by its file's name
            without suffix.

    Raises:
        FileNotFoundError: no such folder or file.
        PolyvidError: no video in it, or two with one id.
    """
    source = Path(source)
    if source.is_dir():
        found = [(path.stem, path) for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES]
    elif source.is_file():
        lines = [line.strip() for line in source.read_text(encoding="utf-8-sig").splitlines()]
        pairs = [line.split("\t") if "\t" in line else (Path(line).stem, line) for line in lines if line]
        found = [(video_id, source.parent / path) for video_id, path in pairs]
    else:
        raise FileNotFoundError(f"No folder or list of videos at {source}.")
    videos: dict[str, Path] = {}
    for video_id, path in found:
        if video_id in videos:
            raise PolyvidError(f"Two videos are called {video_id!r}: {videos[video_id]} and {path}. Rename one.")
        videos[video_id] = path
    if not videos:
        raise PolyvidError(f"No video in {source} (looked for {' '.join(sorted(VIDEO_SUFFIXES))}).")
    return dict(sorted(videos.items()))


@dataclass(frozen=True)
class Extraction:
    """Everything one process must know to do its share of the shards; plain values, so that it travels to others."""

    output: Path
    encoders: tuple[str, ...]
    num_shards: int = 16
    per: Per = "second"
    frames_per_second: int = 2
    s3d_window: int | None = None
    s3d_feature: Feature = "pooler_output"
    batch_size: int | None = None
    workers: int = 1
    dtype: Precision = "auto"
    retry_failed: bool = False

    def load_encoders(self) -> list[FrameEncoder]:
        """The encoders on this process's device.

        Raises:
            ImportError, OSError, ValueError: as `load_frame_encoder`.
        """
        cuda = torch.cuda.is_available()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        torch.backends.cudnn.deterministic = True  # a video's features must not depend on the run that made them
        dtype = getattr(torch, self.dtype) if self.dtype != "auto" else torch.float16 if cuda else torch.float32
        fps = self.frames_per_second
        sampling = Sampling(None, 1, 1) if self.per == "frame" else Sampling(fps, window=fps, stride=fps)
        encoders = []
        for name in self.encoders:
            is_s3d = "s3d" in Path(name).name.lower()
            video_options = {"window": self.s3d_window, "feature": self.s3d_feature} if is_s3d else {}
            encoder = load_frame_encoder(name, sampling, **video_options).to(device, dtype)
            encoder.batch_size = self.batch_size or (32 if cuda else encoder.batch_size)
            encoders.append(encoder)
        return encoders

    def run(self, shards: Sequence[int], encoders: list[FrameEncoder], videos: dict[str, Path]) -> None:
        """Extracts the given shards; the caller compiles `failures.jsonl`."""

        def compute(jobs: Jobs) -> Results:
            for video_id, features in encode_videos(jobs, encoders, self.workers):
                if self.per == "video" and not isinstance(features, VideoError):
                    features = features.mean(axis=0, keepdims=True)
                yield video_id, features

        output = FeatureShards(self.output, self.num_shards)
        settings = {"encoders": [_describe(encoder) for encoder in encoders], "per": self.per}
        output.check_settings(settings)
        output.fill(videos, compute, shards, self.retry_failed)


def _describe(encoder: FrameEncoder) -> dict:
    """What is extracted exactly: goes into `extraction.json`."""
    scaling = asdict(encoder.view.scaling) if encoder.view.scaling else "the model's own image processor"
    precision = str(encoder.dtype).removeprefix("torch.")
    return {"name": encoder.name, **asdict(encoder.view.sampling), "scaling": scaling, "dtype": precision}


def extract(
    videos: Annotated[Path, typer.Argument(help="Folder of videos, or a text file: a path or `id<TAB>path` a line.")],
    output: Annotated[Path, typer.Argument(help="Folder for the Parquet shards.")],
    encoder: Annotated[
        list[str],
        typer.Option(help="R(2+1)D/S3D checkpoint, folder or Hub id; any Hub vision model; repeat to concat."),
    ] = DEFAULT_ENCODERS,
    num_shards: Annotated[int, typer.Option(min=1, help="As many as the subtitles have; at least one a process.")] = 16,
    per: Annotated[Per, typer.Option(help="One feature per second, per frame (image models) or per video.")] = "second",
    frames_per_second: Annotated[int, typer.Option(min=1, help="Frames averaged into a second (image models).")] = 2,
    s3d_window: Annotated[int | None, typer.Option(help="Frames of S3D's window: 30 (default) or 16.")] = None,
    s3d_feature: Annotated[Feature, typer.Option(help="pooler_output (512-d, joint space) or mixed_5c (1024-d).")] = (
        "pooler_output"
    ),
    batch_size: Annotated[int | None, typer.Option(min=1, help="Windows in one forward pass.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes; default: the cores less one.")] = None,
    dtype: Annotated[Precision, typer.Option(help="auto (float16 on a GPU), float32, float16 or bfloat16.")] = "auto",
    retry_failed: Annotated[bool, typer.Option(help="Try the videos of failures.jsonl again.")] = False,
    ray_workers: Annotated[int, typer.Option(min=0, help="Run on a Ray cluster with so many workers.")] = 0,
) -> None:
    """Turn videos into feature shards: one vector a second, R(2+1)D and S3D side by side (paper, App. C).

    What is there already is kept, so the same command goes on where a stopped run was, and adds new videos. A video
    that cannot be read is recorded in OUTPUT/failures.jsonl with the reason. Starts on several GPUs or nodes with
    `accelerate launch` or `torchrun`: each process takes its share of the shards.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    workers = workers if workers is not None else max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1)
    if processes > num_shards:
        raise PolyvidError(f"{processes} processes share {num_shards} shards: give --num-shards {processes} or more.")
    listed = list_videos(videos)  # a bad argument stops here, before networks are loaded or downloaded
    job = Extraction(
        output,
        tuple(encoder),
        num_shards,
        per,
        frames_per_second,
        s3d_window,
        s3d_feature,
        batch_size,
        workers,
        dtype,
        retry_failed,
    )
    if ray_workers:
        from polyvid.train.extraction.on_ray import run_on_ray

        run_on_ray(job, listed, ray_workers)
    else:
        job.run(range(rank, num_shards, processes), job.load_encoders(), listed)
    failures = FeatureShards(output, num_shards).failures()
    typer.echo(f"{output}: {len(listed)} videos, {len(failures)} failed" + (" (failures.jsonl)." if failures else "."))
    if len(failures) >= len(listed):
        raise typer.Exit(1)
