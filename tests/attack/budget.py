"""How long each attack lasts: a bounded number of rounds, or its share of `POLYVID_ATTACK_MINUTES`.

The end of a run is fixed when it starts. Each test gets its share of the minutes that are left by then, so one that
takes longer takes it from those after it, and the run ends in time. Each attack makes one round at least, on its first
command or file. Its other commands are skipped once the time is over, and the last table says so. Only the kills are
all made, in a run of an hour or if their number is asked for: 20 of each command, however slow the machine.

`POLYVID_ATTACK_SEED` draws other damages, moments and pairs; a failure names the seed and the round.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

MINUTES = float(os.environ.get("POLYVID_ATTACK_MINUTES", "0"))
SEED = int(os.environ.get("POLYVID_ATTACK_SEED", "0"))
ASKED_KILLS = int(os.environ.get("POLYVID_ATTACK_KILLS", "0"))
HOUR = 60
KILLS = ASKED_KILLS or (20 if MINUTES >= HOUR else 1 if MINUTES else 3)
"""So many of each command at least, however short the time: 20 in an hour, or `POLYVID_ATTACK_KILLS`."""

SHARES = {  # minutes of an hour, for all commands or files of a test
    "test_a_full_disk_is_one_line_and_the_next_run_is_whole": 5,
    "test_what_is_there_stays_as_it_was_when_the_disk_is_full": 2,
    "test_a_folder_without_permission_is_one_line": 2,
    "test_a_damaged_index_is_refused_or_gives_the_same_hits": 3,
    "test_offsets_and_codes_out_of_range_are_refused_whatever_the_checksums_say": 2,
    "test_forged_cells_of_faiss_end_in_one_line_and_not_the_interpreter": 3,
    "test_a_training_that_is_killed_at_any_moment_leaves_the_same_files": 13,
    "test_killed_at_any_moment_it_gives_the_files_of_a_run_that_was_not": 9,
    "test_killed_before_any_of_its_operations_on_files": 4,
    "test_a_push_that_is_killed_is_resumed_by_the_next": 2,
    "test_killed_at_any_moment_it_gives_the_bytes_of_a_run_that_was_not": 3,
    "test_two_commands_on_one_folder": 1,
    "test_a_command_that_only_reads_leaves_nothing_and_disturbs_nobody": 0.5,
    "test_races_for_minutes": 6,
    "test_no_damage_gives_wrong_features": 2,
    "test_mutations_for_minutes": 3,
}
OTHER_SHARE = 0.05
"""Of a test that makes no rounds, for each of its parameters."""
TOO_LATE = "not made: the time was over"


@dataclass
class Attack:
    """The rounds of one test.

    Attributes:
        name: the test, with its parameters.
        end: when its share of the time is over, by `time.monotonic()`.
        tried: rounds that have begun.
        seconds: how long all of them took.
        outcome: `"held"`, `"FAILED"`, or why nothing was tried.
        note: what else is worth reporting.
    """

    name: str
    end: float
    tried: int = 0
    seconds: float = 0.0
    outcome: str = "held"
    note: str = ""

    def another(self, is_needed: bool) -> bool:
        """Begin another round, if it is needed, or if there is time."""
        goes_on = is_needed or time.monotonic() < self.end
        self.tried += goes_on
        return goes_on

    def rounds(self, bounded: int) -> Iterator[int]:
        """0, 1, 2, ...: `bounded` of them, or as many as fit in its time, but one at least."""
        while self.another(self.tried < (1 if MINUTES else bounded)):
            yield self.tried - 1


class Run:
    """All attacks of one run of pytest.

    Args:
        tests: the name of each test, without parameters, in their order; once for each parameter.

    Attributes:
        attacks: those that have begun.
    """

    def __init__(self, tests: list[str]):
        self.end = time.monotonic() + 60 * MINUTES
        self.attacks: list[Attack] = []
        self._waiting = [SHARES[test] / tests.count(test) if test in SHARES else OTHER_SHARE for test in tests]

    def begin(self, name: str) -> Attack:
        """The next attack, with its share of the time that is left."""
        now = time.monotonic()
        seconds = max(0.0, self.end - now) * self._waiting[0] / sum(self._waiting)
        del self._waiting[0]
        attack = Attack(name, now + seconds if MINUTES else now)
        is_late = MINUTES and now > self.end and not (KILLS > 1 and "_killed_" in name)
        if is_late and any(base_name(other.name) == base_name(name) for other in self.attacks):
            attack.outcome = TOO_LATE
        self.attacks.append(attack)
        return attack


def base_name(name: str) -> str:
    """A test without its parameters."""
    return name.partition("[")[0]


def seed_of(*parts: object) -> str:
    """For `random.Random`: what a round is called, and the seed of the run."""
    return " ".join(map(str, [SEED, *parts]))
