"""Two writing commands on one folder at the same time: both end with their files whole, or one is refused in one line.

In the bounded form those that once destroyed each other's work; in the long form every pair in turn, while time lasts.
"""

import itertools
import random
import re
import time
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from budget import MINUTES, rounds, seed_of
from writing_commands import LOCKED, WRITING, Started, command, contents, prepare

pytestmark = pytest.mark.slow
PAIRS = list(itertools.combinations_with_replacement(WRITING, 2))
BOUNDED = [("build", "build"), ("build", "statistics"), ("join", "join"), ("extract", "join"), ("index", "index")]
REFUSALS = "|".join(
    [LOCKED, "was extracted with ", "holds features of ", "holds more than features", "was joined with features of "]
)
"""What a command may say that does not do its work."""
SHARED = ("out/README.md",)  # written by `build` and added to by `statistics`


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("races") / "case"


@pytest.fixture(scope="module")
def alone(inputs, case):
    """The files that a command leaves, in a folder that was prepared for two."""

    @cache
    def run(name: str, prepared: tuple[str, ...]) -> dict[str, bytes]:
        prepare(prepared, inputs, case / "out")
        before = contents(case)
        started = Started(command(name, inputs, case / "out"), case.with_name("log"))
        assert started.wait() == 0, started.said()
        return {path: content for path, content in contents(case).items() if before.get(path) != content}

    return run


def race(inputs: Path, case: Path, alone, names: tuple[str, str], delay: float) -> int:
    """Start both, one `delay` seconds after the other; how many did their work."""
    story = f"{' + '.join(names)}, {delay:.2f} s apart"
    prepare(names, inputs, case / "out")
    started = []
    for number, name in enumerate(names):
        started.append(Started(command(name, inputs, case / "out"), case.with_name(f"log{number}")))
        if number == 0:
            started[0].wait_for_start()
            time.sleep(delay)
    codes = [one.wait() for one in started]
    found = contents(case)
    for path in case.rglob("*"):
        assert not path.name.endswith((".incomplete", ".part", ".parts", ".unfinished")), f"{story}: {path}"
        if path.suffix == ".parquet":
            pq.read_table(path)
    for name, code, one in zip(names, codes, started, strict=True):
        if code == 0:
            for path, content in alone(name, tuple(sorted(names))).items():
                assert found.get(path) == content or path in SHARED, f"{story}: {path} of {name} is not whole"
        else:
            assert code == 1 and "Traceback" not in one.said(), f"{story}: {one.said()}"
            assert re.search(f"^error: .*({REFUSALS})", one.last_line()), f"{story}: {one.last_line()}"
    assert 0 in codes, f"{story}: {[one.last_line() for one in started]}"
    return codes.count(0)


@pytest.mark.parametrize("names", BOUNDED, ids=" + ".join)
def test_two_commands_on_one_folder(inputs, case, alone, names):
    chance = random.Random(seed_of(*names))
    race(inputs, case, alone, names, chance.random() * chance.choice((0.0, 0.1, 1.0)))


@pytest.mark.skipif(not MINUTES, reason="`make attack` does")
def test_races_for_minutes(inputs, case, alone):
    raced = both = 0
    pairs = random.Random(seed_of("pairs")).sample(PAIRS, len(PAIRS))
    for number in rounds("races", 0):
        chance = random.Random(seed_of("races", number))
        names = pairs[number % len(pairs)]
        names = names if chance.random() < 0.5 else names[::-1]
        both += race(inputs, case, alone, names, chance.random() * chance.choice((0.0, 0.1, 1.0, 2.0))) == 2
        raced += 1
    pairs_raced = f"{min(raced, len(PAIRS))} of {len(PAIRS)} pairs"
    print(f"\n{raced} races, {pairs_raced}: {both} times both did their work, else one was refused")
