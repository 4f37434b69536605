"""What checksums cost: `OMP_NUM_THREADS=1 python tests/benchmarks/verify.py --gigabytes 0.3`.

CPU seconds per gigabyte of file, each the best of three: of `polyvid verify`, of reading the same file for work with
its checksums and without, and of SHA-256 alone. Files are in the page cache.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from polyvid.dataset_scripts.building import read_shard, shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.modeling import VideoIndex
from polyvid.train.checksums import refuse_changed_files, sha256_of, write_checksums
from polyvid.train.verifying.folders import verify_path

WIDTH, SECONDS, REPEATS = 1024, 390, 3


def write_features(path: Path, size: float) -> Path:
    """Feature shards as `polyvid extract` writes them: float16, a video of 6.5 minutes a row."""
    generator = np.random.default_rng(0)
    videos = max(1, round(size / (2 * WIDTH * SECONDS)))

    def rows() -> Iterator[dict]:
        for number in range(videos):
            yield features_to_row(f"video{number}", generator.random((SECONDS, WIDTH), np.float32))

    tables = (rows_to_table([row]) for row in rows())
    write_shard(tables, path, FEATURES.arrow_schema.remove_metadata())
    return path


def write_index(path: Path, size: float) -> Path:
    rows = round(size / (2 * WIDTH))
    embeds = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0))
    VideoIndex(embeds, [f"video{number}" for number in range(rows)]).save(path)
    return path


def write_checkpoint(folder: Path, size: float) -> Path:
    folder.mkdir()
    save_file({"weights": torch.randn(round(size / 4))}, folder / "model.safetensors")
    write_checksums(folder)
    return folder / "model.safetensors"


def seconds_per_gigabyte(path: Path, work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times) / path.stat().st_size * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=0.3)
    size = parser.parse_args().gigabytes * 1e9
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shard = write_features(folder / shard_name("train", 0, 1), size)
        index = write_index(folder / "videos.safetensors", size)
        weights = write_checkpoint(folder / "model", size)
        kinds: dict[str, tuple[Path, Path, Callable[[], object], Callable[[], object]]] = {
            "feature shard": (shard, shard, lambda: read_shard(shard), lambda: pq.read_table(shard)),
            "index": (
                index,
                index,
                lambda: VideoIndex.load(index),
                lambda: VideoIndex.load(index, verify=False),
            ),
            "checkpoint": (
                weights,
                weights.parent,
                lambda: (refuse_changed_files(weights.parent, ""), load_file(weights)),
                lambda: load_file(weights),
            ),
        }
        print("| CPU seconds per GB | `polyvid verify` | read, with checksums | without | SHA-256 alone |")
        print("|---|---:|---:|---:|---:|")
        for name, (path, verified, checked, unchecked) in kinds.items():
            assert all(finding.state == "whole" for finding in verify_path(verified))
            works = (lambda p=verified: list(verify_path(p)), checked, unchecked, lambda p=path: sha256_of(p))
            cells = [f"{seconds_per_gigabyte(path, work):.2f}" for work in works]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
