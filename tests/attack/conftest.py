"""What several attacks read, and the table of what was tried that a long run ends with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from budget import MINUTES, TOO_LATE, Attack, Run, base_name
from memory import limited_memory
from writing_commands import write_inputs

RUN = pytest.StashKey[Run]()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def little_memory() -> Iterator[None]:
    with limited_memory():
        yield


def is_attack(item: pytest.Item) -> bool:
    return item.path.parent == Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a long run the kills come last: all of them are made, whatever is left of the time for others."""
    if MINUTES:
        items.sort(key=lambda item: is_attack(item) and item.path.name.startswith("test_kill"))


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[RUN] = Run([base_name(item.name) for item in session.items if is_attack(item)])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before its fixtures, which are part of its time."""
    if is_attack(item) and item.config.stash[RUN].begin(item.name).outcome == TOO_LATE:
        pytest.skip(TOO_LATE)


@pytest.fixture
def attack(request) -> Attack:
    """The rounds of this test."""
    return request.config.stash[RUN].attacks[-1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    if is_attack(item):
        attack = item.config.stash[RUN].attacks[-1]
        attack.seconds += report.duration
        if report.failed:
            attack.outcome = "FAILED"
        elif report.skipped and attack.outcome != TOO_LATE:
            attack.outcome = "skipped"
    return report


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """One line for each attack; those that make no rounds count as one."""
    if not MINUTES or RUN not in config.stash:
        return
    terminalreporter.section("attacks: tried, seconds, outcome")
    for attack in config.stash[RUN].attacks:
        tried = 0 if attack.outcome in (TOO_LATE, "skipped") else max(1, attack.tried)
        outcome = f"{attack.outcome}: {attack.note}" if attack.note else attack.outcome
        terminalreporter.write_line(f"{tried:>7,} {attack.seconds:>6.0f}  {attack.name}: {outcome}")
