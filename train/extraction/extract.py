"""The command `polyvid extract`, in one process, several (`accelerate launch`, `torchrun`) or a Ray cluster."""

import os
from pathlib import Path
from typing import Annotated

import typer

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import check_encoder
from polyvid.train.extraction.job import Extraction, Feature, Per, Precision, decoding_processes
from polyvid.train.extraction.listing import list_videos
from polyvid.train.extraction.shards import FeatureShards
from polyvid.train.wording import counted

DEFAULT_ENCODERS = ["r2plus1d_34_clip8_ig65m", "s3d_howto100m"]


def extract(
    videos: Annotated[
        Path, typer.Argument(help="Folder of videos, a video, or a text file: a path or `id<TAB>path` a line.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder for the Parquet shards.")],
    encoder: Annotated[
        list[str],
        typer.Option(help="R(2+1)D/S3D checkpoint, folder or Hub id; any Hub vision model. Repeat to concatenate."),
    ] = DEFAULT_ENCODERS,
    num_shards: Annotated[
        int, typer.Option(min=1, help="Number of shards: the same as the subtitles, and at least one per process.")
    ] = 16,
    per: Annotated[Per, typer.Option(help="One feature per second, per frame (image models) or per video.")] = "second",
    frames_per_second: Annotated[int, typer.Option(min=1, help="Frames averaged into a second (image models).")] = 2,
    s3d_window: Annotated[
        int | None, typer.Option(min=1, help="Frames per S3D window. Default: the model's own, 30 or 16.")
    ] = None,
    s3d_feature: Annotated[
        Feature | None,
        typer.Option(help="pooler_output (512-d, joint space; the default) or mixed_5c (1024-d)."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Windows in one forward pass.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Decoding processes. Default: one fewer than the cores.")
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="auto (float16 on a GPU), float32, float16 or bfloat16.")] = "auto",
    retry_failed: Annotated[bool, typer.Option(help="Try the videos of failures.jsonl again.")] = False,
    ray_workers: Annotated[int, typer.Option(min=0, help="Run on a Ray cluster with this many workers.")] = 0,
) -> None:
    """Turn videos into feature shards: one vector a second, R(2+1)D and S3D side by side (paper, App. C).

    What exists already is kept: the same command resumes a stopped run, and adds new videos. A video that cannot be
    read is recorded in OUTPUT/failures.jsonl with the reason. Starts on several GPUs or nodes with `accelerate launch`
    or `torchrun`: each process takes its share of the shards.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    workers = workers if workers is not None else decoding_processes()
    if processes > num_shards:
        raise PolyvidError(f"{num_shards} shards are too few for {processes} processes: pass --num-shards {processes}.")
    for name in encoder:  # a bad argument fails here, before any network is loaded or downloaded
        check_encoder(name)
    listed = list_videos(videos)
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
        from polyvid.train.extraction.on_ray import run_on_ray  # needs the `ray` extra

        run_on_ray(job, listed, ray_workers)
    else:
        job.run(range(rank, num_shards, processes), job.load_encoders(), listed)
    failures = [failure for failure in FeatureShards(output, num_shards).failures() if failure["video_id"] in listed]
    failed = f"{len(failures)} failed (failures.jsonl)." if failures else "none failed."
    typer.echo(f"{output}: features of {len(listed) - len(failures)} of {counted(len(listed), 'video')}, {failed}")
    if len(failures) >= len(listed):
        raise typer.Exit(1)
