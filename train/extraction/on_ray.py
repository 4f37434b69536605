"""`polyvid extract` on a Ray cluster: Ray Data assigns the shards to actors, which write to a shared folder."""

from dataclasses import replace
from pathlib import Path

import torch

from polyvid.train.extraction.job import Extraction

try:
    import ray
    from ray.data import ActorPoolStrategy
except ImportError as error:
    raise ImportError(f"Extraction on Ray needs one more package: pip install 'polyvid[ray]' ({error})") from None


class ShardExtractor:
    """One actor: loads the networks once, then extracts one shard after another."""

    def __init__(self, job: Extraction, videos: dict[str, Path]):
        self.job, self.videos, self.encoders = job, videos, job.load_encoders()

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        self.job.run([int(row["shard"])], self.encoders, self.videos)
        return row


def run_on_ray(job: Extraction, videos: dict[str, Path], workers: int) -> None:
    """Extract all shards of `job` with `workers` actors on the running cluster, or on a local one that it starts.

    Each actor requests one GPU, if the cluster has any, and the CPU cores its decoding processes need.

    Raises:
        RuntimeError: if the cluster lacks resources, or an actor fails for a reason other than a bad video.
    """
    # Actors run in another working directory, so make paths absolute.
    encoders = tuple(str(Path(name).resolve()) if Path(name).exists() else name for name in job.encoders)
    job = replace(job, output=job.output.resolve(), encoders=encoders)
    videos = {video_id: path.resolve() for video_id, path in videos.items()}
    started = not ray.is_initialized()
    if started:
        ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    try:
        gpus = 1 if torch.cuda.is_available() or ray.cluster_resources().get("GPU") else 0
        cpus = ray.cluster_resources().get("CPU", 1) / workers
        shards = [{"shard": shard} for shard in range(job.num_shards)]
        ray.data.from_items(shards, override_num_blocks=job.num_shards).map(
            ShardExtractor,  # type: ignore[arg-type]  # it takes classes too, but its annotation omits them
            fn_constructor_args=(job, videos),
            compute=ActorPoolStrategy(size=workers),
            num_cpus=min(1 + job.workers, cpus),
            num_gpus=gpus,
        ).materialize()
    finally:
        if started:
            ray.shutdown()
