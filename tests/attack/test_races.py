"""Two writing commands on one folder at the same time: both end with their files whole, or one is refused in one line.

In the bounded form those that once destroyed each other's work; in the long form every pair in turn, while time lasts.

`polyvid demo` and `demo-app` are not raced, because they take minutes: tests of their own say that a second one is
refused. `ablate` is raced where its runs have their results; what trains them is `train`. `app` brings its index up to
date as `search` does, and then only reads. Commands that only read leave nothing, whoever writes at the same time.
"""

import itertools
import random
import re
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from budget import MINUTES, seed_of
from hub_server import HubServer
from writing_commands import DONE, LOCKED, PUSHES, READING, WRITING, Started, command, contents, prepare, use_hub

pytestmark = pytest.mark.slow
PAIRS = list(itertools.combinations_with_replacement([*WRITING, *PUSHES], 2))
BOUNDED = [("build", "build"), ("build", "statistics"), ("join", "join"), ("extract", "join"), ("index", "index")]
BOUNDED += [("tables", "tables"), ("statistics", "push dataset"), ("search", "search")]
REFUSALS = "|".join(
    [LOCKED, "was extracted with ", "holds features of ", "holds more than features", "was joined with features of "]
    + [DONE, "is sending files to ", "There is no recipe "]  # convert-backbone clears the folder of what train made
)
"""What a command may say that does not do its work."""
SHARED = ("out/README.md",)  # written by `build` and added to by `statistics`


@dataclass
class Alone:
    """What a command does in a folder that was prepared for two.

    Attributes:
        code: its exit code; 1 if what the other one finds there is nothing that it can work on.
        files: what it leaves, by path.
        sent: the names of what a push sends.
    """

    code: int | None
    files: dict[str, bytes]
    sent: set[str]


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("races") / "case"


def start(name: str, inputs: Path, case: Path, hub: HubServer | None, number: int = 0) -> Started:
    changes = [use_hub(hub, case.parent)] if hub is not None and name in PUSHES else []
    return Started(command(name, inputs, case / "out"), case.with_name(f"log{number}"), *changes)


def server(*names: str) -> HubServer | nullcontext[None]:
    return HubServer() if set(names) & set(PUSHES) else nullcontext()


def repository(hub: HubServer, name: str) -> dict[str, bytes]:
    kind, what = f"{name.split()[1]}s", {"push dataset": "alice/data", "push model": "alice/model"}[name]
    return hub.files(kind, what) if (kind, what) in hub.repositories else {}


@pytest.fixture(scope="module")
def alone(inputs, case):
    @cache
    def run(name: str, prepared: tuple[str, ...]) -> Alone:
        prepare(prepared, inputs, case / "out")
        before = contents(case)
        with server(name) as hub:
            started = start(name, inputs, case, hub)
            code = started.wait()
            sent = set(repository(hub, name)) if hub is not None else set()
        assert code == 0 or (set(prepared) != {name} and is_one_line(code, started)), started.said()
        found = contents(case)
        return Alone(code, {path: content for path, content in found.items() if before.get(path) != content}, sent)

    return run


def is_one_line(code: int | None, run: Started) -> bool:
    return code == 1 and "Traceback" not in run.said() and run.last_line().startswith("error: ")


def race(inputs: Path, case: Path, alone, names: tuple[str, str], delay: float) -> int:
    """Start both, one `delay` seconds after the other; how many did their work."""
    story = f"{' + '.join(names)}, {delay:.2f} s apart"
    expected = [alone(name, tuple(sorted(names))) for name in names]
    prepare(names, inputs, case / "out")
    before, started = contents(case), []
    with server(*names) as hub:
        for number, name in enumerate(names):
            started.append(start(name, inputs, case, hub, number))
            if number == 0:
                started[0].wait_for_start()
                time.sleep(delay)
        codes = [one.wait() for one in started]
        sent = [repository(hub, name) if hub is not None and name in PUSHES else {} for name in names]
    found = contents(case)
    for path in case.rglob("*"):
        assert not path.name.endswith((".incomplete", ".part", ".parts", ".unfinished")), f"{story}: {path}"
        if path.suffix == ".parquet":
            pq.read_table(path)
    for number, (code, one) in enumerate(zip(codes, started, strict=True)):
        if code == 0:
            for path, content in expected[number].files.items():
                assert found.get(path) == content or path in SHARED, f"{story}: {path} of {names[number]} is not whole"
            check_sent(sent[number], expected[number].sent, before, found, f"{story}: {names[number]}")
        else:
            assert is_one_line(code, one), f"{story}: {one.said()}"
            if expected[number].code == 0:
                assert re.search(f"^error: .*({REFUSALS})", one.last_line()), f"{story}: {one.last_line()}"
            assert sent[number].keys() <= {".gitattributes"} or names[0] == names[1], f"{story}: a part was sent"
    if any(one.code == 0 for one in expected):
        assert 0 in codes, f"{story}: {[one.last_line() for one in started]}"
    return codes.count(0)


def check_sent(sent: dict[str, bytes], names: set[str], before: dict[str, bytes], found: dict[str, bytes], story: str):
    """All that a push sends when nobody else works there, each file as it was before the other command or after it."""
    assert names <= sent.keys(), f"{story}: {sorted(names - sent.keys())} not sent"
    for path, content in sent.items():
        known = [files[f"out/{path}"] for files in (before, found) if f"out/{path}" in files]
        assert not known or content in known or path == "README.md", f"{story}: {path} is not whole"


@pytest.mark.parametrize("names", BOUNDED, ids=" + ".join)
def test_two_commands_on_one_folder(inputs, case, alone, names):
    chance = random.Random(seed_of(*names))
    race(inputs, case, alone, names, chance.random() * chance.choice((0.0, 0.1, 1.0)))


@pytest.mark.parametrize("name", READING)
def test_a_command_that_only_reads_leaves_nothing_and_disturbs_nobody(inputs, case, alone, name):
    """Beside `statistics`, which changes the folder that `verify` reads."""
    before = contents(inputs)
    expected = alone("statistics", ("statistics",))
    prepare(["statistics"], inputs, case / "out")
    writer = start("statistics", inputs, case, None)
    reader = Started(command(name, inputs, case / "out"), case.with_name("log1"))
    codes = writer.wait(), reader.wait()
    assert codes == (0, 0) or (codes[0] == 0 and is_one_line(codes[1], reader)), reader.said()
    found = contents(case)
    assert {path: found.get(path) for path in expected.files} == expected.files
    reader = Started(command(name, inputs, case / "out"), case.with_name("log1"))
    assert reader.wait() == 0, reader.said()
    assert contents(case) == found
    assert contents(inputs) == before


@pytest.mark.skipif(not MINUTES, reason="`make attack` does")
def test_races_for_minutes(inputs, case, alone, attack):
    both = 0
    pairs = random.Random(seed_of("pairs")).sample(PAIRS, len(PAIRS))
    for number in attack.rounds(0):
        chance = random.Random(seed_of("races", number))
        names = pairs[number % len(pairs)]
        names = names if chance.random() < 0.5 else names[::-1]
        both += race(inputs, case, alone, names, chance.random() * chance.choice((0.0, 0.1, 1.0, 2.0))) == 2
    pairs_raced = f"{min(attack.tried, len(PAIRS))} of {len(PAIRS)} pairs"
    attack.note = f"{pairs_raced}; {both} times both did their work, else one was refused"
