"""Every defect that the attack found has tests, and they are where `DEFECTS.md` says."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_defect_names_tests_that_exist():
    rows = Path(__file__).with_name("DEFECTS.md").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if row.startswith("| ") and "::" in row or row.count("|") == 3][2:]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"\ndef {test}(" in (TESTS / file).read_text(encoding="utf-8"), f"{file}::{test}"
