"""Two writing commands on one folder at the same time, as real processes: one works, the other is refused or follows.

Bounded by default to a few rounds of each pair; POLYVID_ATTACK_MINUTES=10 races for ten minutes.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import synthetic_howto100m as synthetic

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.building import count_rows

MINUTES = float(os.environ.get("POLYVID_ATTACK_MINUTES", 0))
NUM_VIDEOS = 150
LAUNCH = "from polyvid.train.cli import main; main()"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = synthetic.write_release(tmp_path_factory.mktemp("release"), NUM_VIDEOS, ("de", "fr"))
    synthetic.write_features(folder / "features", range(NUM_VIDEOS))
    build("multi_howto100m", ["de"], data_dir=folder, output_dir=folder / "built", num_shards=4)
    return folder


def commands(release: Path, folder: Path) -> dict[str, list[str]]:
    """Commands that all write to `folder`, or into it."""
    from_release = ["--data-dir", str(release), "--output-dir", str(folder)]
    return {
        "build de": ["build", "multi_howto100m", "de", *from_release],
        "build de fr": ["build", "multi_howto100m", "de", "fr", *from_release, "--num-proc", "2"],
        "join": ["join", str(release / "built" / "de"), str(release / "features"), str(folder)],
    }


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def check(name: str, process: subprocess.Popen, folder: Path) -> bool:
    """Whether the command did its work; if it did not, it said so in one line."""
    _, errors = process.communicate(timeout=300)
    if process.returncode == 0:
        configs = [word for word in name.split() if word in ("de", "fr")]
        for language in configs:
            assert count_rows(folder / language) == {"train": len(synthetic.numbers(language, NUM_VIDEOS))}
        if name == "join":
            assert count_rows(folder) == {"train": len(synthetic.numbers("de", NUM_VIDEOS))}
        return True
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"error: {folder} is being written by `polyvid "), errors
    assert "Traceback" not in errors
    return False


def whole(folder: Path) -> None:
    """No file is cut off, and nothing unfinished is left."""
    for path in folder.rglob("*"):
        assert not path.name.endswith(".incomplete"), path
        if path.suffix == ".parquet":
            pq.read_table(path)


def race(release: Path, folder: Path, names: tuple[str, str], rng: random.Random) -> None:
    arguments = commands(release, folder)
    processes = []
    for name in names:
        processes.append(start(arguments[name]))
        time.sleep(rng.random() * rng.choice((0.0, 0.2, 2.0)))
    succeeded = [check(name, process, folder) for name, process in zip(names, processes, strict=True)]
    assert any(succeeded)
    whole(folder)


def kill_and_start_again(release: Path, folder: Path, name: str, rng: random.Random) -> None:
    arguments = commands(release, folder)[name]
    process = start(arguments)
    deadline = time.monotonic() + 60
    while not folder.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(rng.random() * 0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert check(name, start(arguments), folder), "the lock of a killed process must not block the next one"
    whole(folder)


@pytest.mark.parametrize("names", [("build de", "build de fr"), ("build de fr", "join"), ("join", "join")])
def test_of_two_commands_on_one_folder_none_destroys_the_others_work(release, tmp_path, names):
    race(release, tmp_path / "out", names, random.Random(0))


@pytest.mark.parametrize("name", ["build de", "build de fr", "join"])
def test_a_killed_command_is_done_by_the_next_start(release, tmp_path, name):
    kill_and_start_again(release, tmp_path / "out", name, random.Random(1))


@pytest.mark.skipif(not MINUTES, reason="set POLYVID_ATTACK_MINUTES")
def test_races_and_kills_for_minutes(release, tmp_path):
    rng, end = random.Random(2), time.monotonic() + 60 * MINUTES
    names = list(commands(release, tmp_path))
    pairs = list(itertools.product(names, repeat=2))
    for number in itertools.count():
        if time.monotonic() > end:
            print(f"{number} rounds")
            break
        folder = tmp_path / str(number) / "out"
        if rng.random() < 0.3:
            kill_and_start_again(release, folder, rng.choice(names), rng)
        else:
            race(release, folder, rng.choice(pairs), rng)
