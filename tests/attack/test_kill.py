"""Training killed with SIGKILL at random moments after its start: what it leaves in the end is the same, byte for byte.

Some kills in the normal run, as many as there is time for in `make attack`. A failure prints the seed and the moments.
"""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from budget import KILLS, SEED, seed_of
from launching import Launch
from training_data import CONFIGS, overrides, write_everything

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_everything(tmp_path_factory.mktemp("data"))


class Run:
    """One recipe, always in the same folder: its path is part of what the run writes."""

    def __init__(self, data: Path, recipe: str, folder: Path):
        self.recipe, self.folder = recipe, folder
        self.output = folder / "output"
        changes = {"training__epochs": 2, "training__log_steps": 1, "training__divergence": 1e9}
        changes |= {"training__save_minutes": 0, "data__frozen_states": folder / "states"}
        if recipe == "mmp":
            changes |= {"training__batch_size": 4, "training__num_workers": 1}
        else:
            changes["training__batch_size"] = 16  # 16 checkpoints, each of which takes longer than its step
        self.overrides = overrides(data, recipe, self.output, **changes)

    def start(self) -> Launch:
        """A process that has read its data and begins to train."""
        log = self.folder.with_suffix(".log")
        log.with_name(f"{log.name}.0").unlink(missing_ok=True)
        run = Launch(CONFIGS / f"{self.recipe}.yaml", self.overrides, log)
        run.wait_until(lambda: "step/s" in run.said() or "finished model" in run.said() or not is_alive(run))
        return run

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def files(self) -> dict[str, bytes]:
        """All files it has left, but for locks and the time of day."""
        paths = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
        found = {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}
        state = json.loads(found["output/trainer_state.json"])
        del state["environment"]["date"]
        sums = found["output/SHA256SUMS"].splitlines(keepends=True)
        found["output/SHA256SUMS"] = b"".join(line for line in sums if b"trainer_state.json" not in line)
        return found | {"output/trainer_state.json": json.dumps(state).encode()}


def is_alive(run: Launch) -> bool:
    return all(rank.is_alive() for rank in run.ranks)


def finish(run: Launch) -> None:
    assert run.wait() == [0], run.said()[-3000:]


@pytest.mark.parametrize("recipe", ["vatex_en_zh", "mmp"])
def test_a_training_that_is_killed_at_any_moment_leaves_the_same_files(data, tmp_path, attack, recipe):
    """Captions in memory and streamed clips; dropout on, a checkpoint after every step, frozen states kept."""
    training = Run(data, recipe, tmp_path / "run")
    training.clear()
    run = training.start()
    started = time.monotonic()
    finish(run)
    seconds, expected = time.monotonic() - started, training.files()
    generator, kills = random.Random(seed_of(recipe)), 0
    while attack.another(kills < KILLS):
        training.clear()
        deaths = generator.choice((1, 3, 5))
        moments = [generator.random() ** 2 * seconds / deaths**0.5 for _ in range(deaths)]
        for moment in moments:
            run = training.start()
            time.sleep(moment)
            kills += is_alive(run)
            run.signal(signal.SIGKILL)
            run.wait(60)
        finish(training.start())
        actual = training.files()
        different = sorted(name for name in expected | actual if actual.get(name) != expected.get(name))
        assert not different, f"seed {SEED}, run {attack.tried}, killed after {moments} s"
    attack.note = f"{kills} kills, 0 different"
