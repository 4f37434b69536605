"""`polyvid extract`, killed at random moments after it has started to work: it resumes, and gives the same bytes.

Bounded by default; `make attack` kills as often as there is time for.
"""

import hashlib
import random
import time
from pathlib import Path

import pytest
import torch
from budget import KILLS, seed_of
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from video_files import write_video
from writing_commands import Started

from polyvid.modeling.configuration_r2plus1d import R2Plus1DConfig
from polyvid.modeling.modeling_r2plus1d import PREPROCESSING, R2Plus1DModel

VIDEOS, SHARDS = 24, 3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of videos, one of them broken, and a small network."""
    videos, network = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("network")
    for number in range(VIDEOS):
        write_video(videos / f"video{number}.mp4", 30 * (1 + number % 4) + 5)
    (videos / "broken.mp4").write_text("not a video")
    torch.manual_seed(0)
    R2Plus1DModel(R2Plus1DConfig(depths=(1, 1, 1, 1), hidden_sizes=(4, 8, 8, 16))).save_pretrained(network)
    VideoMAEImageProcessorPil(**PREPROCESSING).save_pretrained(network)
    return videos, network


def start(inputs: tuple[Path, Path], output: Path) -> Started:
    """With a decoding process of its own, which must notice by itself that the command was killed."""
    videos, network = inputs
    arguments = ["extract", str(videos), str(output), "--encoder", str(network), "--num-shards", str(SHARDS)]
    return Started([*arguments, "--workers", "1"], output.with_suffix(".log"))


def outputs(folder: Path) -> dict[str, str]:
    files = [path for path in folder.iterdir() if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def done(output: Path) -> set[Path]:
    """What a run has left so far: rows that wait for their shard, failures, and shards."""
    return {*output.glob(".extraction/0*/*"), *output.glob("*.parquet")}


def test_killed_at_any_moment_it_gives_the_bytes_of_a_run_that_was_not(inputs, tmp_path, attack):
    run = start(inputs, tmp_path / "whole")
    while not done(tmp_path / "whole") and run.process.is_alive():
        time.sleep(0.001)
    began = time.monotonic()
    assert run.wait() == 0, run.said()
    seconds, expected = time.monotonic() - began, outputs(tmp_path / "whole")
    assert len(expected) == SHARDS + 2  # extraction.json, failures.jsonl
    generator = random.Random(seed_of("extract"))
    kills = 0
    while attack.another(kills < KILLS):
        output, deaths = tmp_path / f"killed{attack.tried}", generator.choice((1, 3, 5))  # of several in one folder
        for _ in range(deaths):
            run, before = start(inputs, output), done(output)
            while run.process.is_alive() and done(output) == before:  # starting up is another matter
                time.sleep(0.001)
            time.sleep(generator.random() * seconds / deaths)
            kills += run.kill()
        run = start(inputs, output)
        assert run.wait() == 0, run.said()
        assert outputs(output) == expected, f"after {kills} kills"
        assert not any(path.name.endswith(".incomplete") for path in output.rglob("*"))
    attack.note = f"{kills} kills, 0 different"
