"""Every defect that the attack found has tests, and they are where `DEFECTS.md` says."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_defect_names_tests_that_exist():
    lines = Path(__file__).with_name("DEFECTS.md").read_text(encoding="utf-8").splitlines()
    head, _, *rows = (line for line in lines if line.startswith("|"))
    assert head == "| defect | tests |" and len(rows) > 30
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"\ndef {test}(" in (TESTS / file).read_text(encoding="utf-8"), f"{file}::{test}"
