"""Every writing command, killed with SIGKILL and started again: what it leaves in the end is the same, byte for byte.

Killed at random moments of its work, and before each of its operations on files, one after the other: those are the
moments at which something could be half done. A push is killed too; there it is the repository that must be the same.
"""

import itertools
import os
import random
import signal
import sys
import time
from functools import cache, partial
from pathlib import Path

import pytest
from budget import KILLS, MINUTES, seed_of
from hub_server import HubServer
from writing_commands import DONE, WRITING, Started, command, contents, difference, prepare, use_hub

pytestmark = pytest.mark.slow
# `train` and `extract` have files of their own, with more of their options.
COMMANDS = [name for name in WRITING if name not in ("train", "extract")]
AT_ONCE = ("coverage", "convert-backbone", "tables", "contact-sheet", "ablate")  # files appear in the last moment
AT_RANDOM = [name for name in COMMANDS if name not in AT_ONCE] if MINUTES else ["build", "index"]
OPERATIONS_TRIED = 2  # of a command, in the bounded form
OPERATIONS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    """One path for all runs, as some files contain it."""
    return tmp_path_factory.mktemp("kill") / "case"


@pytest.fixture(scope="module")
def whole_run(inputs, case):
    """What a run leaves that nobody disturbs, the seconds of its work, and the number of its operations on files."""

    @cache
    def run(name: str) -> tuple[dict[str, bytes], float, int]:
        prepare([name], inputs, case / "out")
        counted = case.with_name("operations")
        run = Started(command(name, inputs, case / "out"), case.with_name("log"), partial(watch, case, counted))
        run.wait_for_start()
        assert run.wait() == 0, run.said()
        return contents(case), time.monotonic() - run.began, counted.stat().st_size

    return run


def finish(name: str, inputs: Path, case: Path, expected: dict[str, bytes], story: str) -> None:
    run = Started(command(name, inputs, case / "out"), case.with_name("log"))
    assert run.wait() == 0 or DONE in run.last_line(), f"{story}: {run.said()}"
    assert not difference(contents(case), expected), story


@pytest.mark.parametrize("name", AT_RANDOM)
def test_killed_at_any_moment_it_gives_the_files_of_a_run_that_was_not(inputs, case, whole_run, attack, name):
    expected, seconds, _ = whole_run(name)
    kills = 0
    while attack.another(kills < KILLS):
        chance = random.Random(seed_of(name, attack.tried))
        prepare([name], inputs, case / "out")
        moments = [chance.random() * seconds for _ in range(chance.choice((1, 3, 5)))]
        for moment in moments:
            run = Started(command(name, inputs, case / "out"), case.with_name("log"))
            run.wait_for_start()
            time.sleep(moment)
            kills += run.kill()
        finish(name, inputs, case, expected, f"killed after {moments} s")
    attack.note = f"{kills} kills, 0 different"


def watch(folder: Path, counted: Path, last: int | None = None) -> None:
    """Count this process's operations on the files below a folder, and let it die before the one of number `last`.

    Operations are those that Python reports to audit hooks: files opened to be written, folders made, names changed or
    removed. What compiled libraries write is between two of them. One byte is added to the file `counted` for each.
    """
    numbers = itertools.count()
    record = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            counts = isinstance(flags, int) and flags & WRITES and isinstance(path, str | os.PathLike)
            counts = counts and os.path.abspath(path).startswith(str(folder))
        else:  # within `shutil.rmtree` the paths are relative
            counts = event in OPERATIONS and isinstance(arguments[0], str | os.PathLike)
            path = arguments[0] if counts else ""
            counts = counts and (not os.path.isabs(path) or os.fspath(path).startswith(str(folder)))
        if counts:
            os.write(record, b".")
            if next(numbers) == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_before_any_of_its_operations_on_files(inputs, case, whole_run, attack, name):
    """As many of them as fit in the time, in random order."""
    expected, _, operations = whole_run(name)
    least = 1 if MINUTES else OPERATIONS_TRIED
    for number in random.Random(seed_of(name)).sample(range(operations), operations):
        if not attack.another(attack.tried < least):
            break
        prepare([name], inputs, case / "out")
        die = partial(watch, case, case.with_name("operations"), number)
        run = Started(command(name, inputs, case / "out"), case.with_name("log"), die)
        assert run.wait() == -signal.SIGKILL, run.said()
        finish(name, inputs, case, expected, f"killed before operation {number}")
    attack.note = f"of {operations} operations, 0 different"


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_a_push_that_is_killed_is_resumed_by_the_next(inputs, tmp_path, attack, kind):
    """The repository never holds a part of a push, and in the end all of it."""
    name, out = f"push {kind}", tmp_path / "case" / "out"
    prepare([name], inputs, out)
    before, arguments = contents(tmp_path / "case"), command(name, inputs, out)
    where = f"{kind}s", arguments[-1]

    def push(hub: HubServer) -> Started:
        return Started(arguments, tmp_path / "log", use_hub(hub, tmp_path))

    with HubServer() as hub:
        run = push(hub)
        run.wait_for_start()
        assert run.wait() == 0, run.said()
        expected, seconds = hub.files(*where), time.monotonic() - run.began
        assert len(expected) > 5
    kills = 0
    while attack.another(kills < KILLS):
        chance = random.Random(seed_of(name, attack.tried))
        with HubServer() as hub:
            for _ in range(chance.choice((1, 1, 2, 3))):
                moment = chance.random() * seconds
                run = push(hub)
                run.wait_for_start()
                time.sleep(moment)
                kills += run.kill()
                if where in hub.repositories:
                    found = hub.files(*where)
                    assert found == expected or found.keys() <= {".gitattributes"}, f"a part after {moment} s"
            run = push(hub)
            assert run.wait() == 0, run.said()
            assert hub.files(*where) == expected, f"round {attack.tried}"
        assert contents(tmp_path / "case") == before
    attack.note = f"{kills} kills, 0 different"
