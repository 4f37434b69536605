"""How long each attack lasts: a bounded number of rounds, or its share of `POLYVID_ATTACK_MINUTES`.

`POLYVID_ATTACK_SEED` draws other damages, moments and pairs; a failure names the seed and the round.
"""

import os
import time
from collections.abc import Iterator

MINUTES = float(os.environ.get("POLYVID_ATTACK_MINUTES", "0"))
SEED = int(os.environ.get("POLYVID_ATTACK_SEED", "0"))
KILLS = int(os.environ.get("POLYVID_ATTACK_KILLS", "20" if MINUTES else "3"))
"""So many of each command at least, however short the time."""

SHARES = {  # minutes of an hour
    "subtitles": 4,
    "shards": 4,
    "indexes damaged": 6,
    "indexes forged": 3,
    "faiss forged": 3,
    "kill train": 8,
    "kill extract": 5,
    "kill commands": 12,
    "races": 10,
    "full disks": 5,
}
"""Inputs, and kills that are made however short the time, may take longer: on an idle machine not beyond an hour."""


def rounds(attack: str, bounded: int, tests: int = 1) -> Iterator[int]:
    """0, 1, 2, ...: `bounded` of them, or as many as fit in an attack's share, which several tests divide equally."""
    end = time.monotonic() + 60 * MINUTES * SHARES[attack] / sum(SHARES.values()) / tests
    number = 0
    while time.monotonic() < end if MINUTES else number < bounded:
        yield number
        number += 1


def seed_of(*parts: object) -> str:
    """For `random.Random`: what a round is called, and the seed of the run."""
    return " ".join(map(str, [SEED, *parts]))
