"""Runs in separate processes that are killed or asked to stop, and resume as if nothing had happened."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from launching import Launch
from safetensors.torch import load_file
from training_data import CONFIGS, overrides, write_everything

from polyvid.train.loop.step_log import read_steps

pytestmark = pytest.mark.slow
TRAIN = CONFIGS.parent / "train.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_everything(tmp_path_factory.mktemp("data"))


def launch(folder: Path, recipe: str, output: Path, processes: int = 1, **changes) -> Launch:
    # Single steps with batches this small scatter more than the guard against divergence is made for.
    few = {"training__epochs": 2, "training__log_steps": 1, "training__divergence": 1e9}
    changes = few | ({"training__batch_size": 4} if recipe in ("mmp", "mp") else {}) | changes
    arguments = overrides(folder, recipe, output, **changes)
    return Launch(CONFIGS / f"{recipe}.yaml", arguments, output.with_suffix(".log"), processes)


def finish(run: Launch, output: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Steps and weights of a run that must come to its end."""
    codes = run.wait()
    assert set(codes) == {0}, (codes, run.said()[-3000:])
    return read_steps(output / "steps.jsonl"), load_file(output / "model.safetensors")


def num_steps(output: Path) -> int:
    file = output / "steps.jsonl"
    return len(read_steps(file)) if file.exists() else 0


def assert_same(run: tuple, other: tuple) -> None:
    assert run[0] == other[0]
    assert all(torch.equal(other[1][name], value) for name, value in run[1].items())


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("recipe", ["vatex_en_zh", "mmp"])
def test_a_run_that_is_killed_twice_and_stopped_equals_one_that_is_not(recipe, processes, folder, tmp_path):
    """Captions and streamed clips; dropout on. SIGKILL comes at any moment, also while a checkpoint is written."""
    workers = {"training__num_workers": 1} if recipe == "mmp" else {}
    whole = finish(launch(folder, recipe, tmp_path / "whole", processes, **workers), tmp_path / "whole")
    assert len(whole[0]) >= 8

    output = tmp_path / "interrupted"
    for number, after in ((signal.SIGKILL, 2), (signal.SIGKILL, 4), (signal.SIGTERM, 6)):
        run = launch(folder, recipe, output, processes, training__save_minutes=0, **workers)
        run.wait_until(lambda after=after: num_steps(output) >= after)
        started = [child for rank in run.ranks for child in psutil.Process(rank.pid).children(recursive=True)]
        run.signal(number)
        codes = run.wait()
        assert psutil.wait_procs(started, timeout=60)[1] == [], "processes that outlive the run"
        assert set(codes) == {130 if number == signal.SIGTERM else -signal.SIGKILL}, run.said()[-3000:]
    assert "the same command resumes from there" in run.said()
    assert_same(finish(launch(folder, recipe, output, processes, **workers), output), whole)


def test_two_processes_make_the_losses_of_one(folder, tmp_path):
    """The same global batches; without dropout, also in the backbone, as it draws other numbers in other processes."""
    changes = {"model__pooler_dropout": 0.0, "model__freeze_below": 3}
    outputs = {count: tmp_path / str(count) for count in (1, 2)}
    runs = [finish(launch(folder, "vatex_en_zh", at, count, **changes), at) for count, at in outputs.items()]
    assert len(runs[0][0]) == len(runs[1][0]) >= 8
    for one, two in zip(runs[0][0], runs[1][0], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4), (one, two)


@pytest.mark.parametrize("recipe", ["mp", "vtt_en", "vtt_translated", "vatex_en", "m30k_en", "m30k_all"])
def test_every_recipe_runs_on_two_processes(recipe, folder, tmp_path):
    steps, _ = finish(launch(folder, recipe, tmp_path / "out", 2, training__epochs=1), tmp_path / "out")
    assert steps


def test_torchrun_gets_two_processes_and_accelerate_on_cpus_is_told_apart(folder, tmp_path):
    """The launchers themselves, as users call them."""
    arguments = [str(TRAIN), "--config", str(CONFIGS / "mp.yaml"), *overrides(folder, "mp", tmp_path / "out")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    launchers = Path(sys.executable).parent
    done = subprocess.run(
        [launchers / "accelerate", "launch", "--cpu", "--num_processes", "2", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode != 0
    assert "This launch asked for 2 processes and got 1." in done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])  # nobody listens on it
    torchrun = [launchers / "torchrun", "--nproc_per_node", "2", "--master_port", port, *arguments, "--dry-run"]
    done = subprocess.run(torchrun, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "processes:  2 on cpu" in done.stdout
