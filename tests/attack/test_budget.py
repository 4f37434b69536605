"""A long run of all attacks ends in its time, and reaches each of them."""

import re
from pathlib import Path

import budget
import pytest


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)
    monkeypatch.setattr(budget, "MINUTES", 10)
    monkeypatch.setattr(budget, "KILLS", 1)
    monkeypatch.setattr(budget, "SHARES", {"test_kill": 6.0, "test_race": 2.0, "test_fuzz": 2.0})
    return clock


def work(attack: budget.Attack, clock: Clock, seconds: float) -> int:
    for _ in attack.rounds(1):
        clock.now += seconds
    return attack.tried


def test_each_attack_gets_its_share(clock):
    run = budget.Run(["test_kill", "test_kill", "test_race", "test_fuzz"])
    names = ("test_kill[train]", "test_kill[build]", "test_race", "test_fuzz")
    assert [work(run.begin(name), clock, 10) for name in names] == [18, 18, 12, 12]
    assert clock.now == 1000 + 600


def test_one_that_takes_longer_takes_it_from_those_after_it(clock):
    run = budget.Run(["test_kill", "test_race", "test_fuzz"])
    assert work(run.begin("test_kill"), clock, 500) == 1
    assert work(run.begin("test_race"), clock, 10) == 5
    assert work(run.begin("test_fuzz"), clock, 10) == 5


def test_after_the_end_each_attack_makes_one_round_on_its_first_command(clock):
    run = budget.Run(["test_kill", "test_race", "test_race"])
    work(run.begin("test_kill"), clock, 700)
    first, second = run.begin("test_race[build]"), run.begin("test_race[join]")
    assert first.outcome == "held" and work(first, clock, 10) == 1
    assert second.outcome == budget.TOO_LATE


def test_all_kills_are_made_even_after_the_end(clock, monkeypatch):
    monkeypatch.setattr(budget, "KILLS", 20)
    names = ["test_killed_at_any_moment", "test_a_push_that_is_killed_is_resumed", "test_race"]
    run = budget.Run([name for name in names for _ in range(2)])
    clock.now += 700
    outcomes = [run.begin(f"{name}[{command}]").outcome for name in names for command in ("build", "join")]
    assert outcomes == ["held"] * 5 + [budget.TOO_LATE]


def test_the_bounded_form_makes_a_number_of_rounds(clock, monkeypatch):
    monkeypatch.setattr(budget, "MINUTES", 0)
    assert work(budget.Run(["test_kill"]).begin("test_kill"), clock, 1000) == 1
    assert list(budget.Attack("test_fuzz", 0).rounds(3)) == [0, 1, 2]


def test_shares_are_those_of_tests_that_exist():
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert set(budget.SHARES) <= set(re.findall(r"^def (test_\w+)\(", text, re.MULTILINE))
