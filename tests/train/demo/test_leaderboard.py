"""The leaderboard: what a row says, and that the table shown is made from the results kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from polyvid.train.demo import leaderboard
from polyvid.train.demo.leaderboard_table import to_markdown
from polyvid.train.scoring.evaluation import Ranks

KEPT = leaderboard.RESULTS


def ranks_of(*values):
    return Ranks(np.array(values), np.ones(len(values), dtype=bool), np.array([f"v{i}" for i in range(len(values))]))


def stamp(number, english):
    return {"video_id": f"v{number}", "captions": [{"language": "en", "text": english}]}


def test_a_row_gives_mean_interval_and_trained_names_apart():
    videos = [stamp(0, "A swan."), stamp(1, "A red balloon."), stamp(2, "A swannery."), stamp(3, "Pluto.")]
    found = {"en": ranks_of(1, 1, 2, 1), "de": ranks_of(1, 5, 2, 1)}
    scores = leaderboard.scores_of({"tux8": found}, {"tux8": videos}, {"swan", "balloon"})["tux8"]
    assert scores["R@1"] == {"en": 75.0, "de": 50.0} and scores["mean"] == 62.5
    low, high = scores["interval"]
    assert 0 <= low < 62.5 < high <= 100
    assert scores["trained"] == {"videos": 2, "mean": 75.0}  # swan and balloon: three of four queries
    assert scores["new"] == {"videos": 2, "mean": 50.0}


def row(method, mean, seed=None, tests=("fluent",), **of_tux):
    scores = {"videos": 420, "R@1": {"en": mean + 5, "sw": mean - 5}, "mean": mean, "interval": [mean - 2, mean + 2]}
    return {
        "method": method,
        "pre-training": "MMP",
        "styles": "Fluent",
        "seed": seed,
        "cpu_minutes": 0.25,
        "tests": {test: scores | of_tux for test in tests},
    }


def content(*rows):
    where = {"git_revision": "0123456789abcdef", "date": "2026-11-25T01:00:00+00:00"}
    return {"rows": list(rows), "text_ceilings": {"fluent": {"de": {"R@1": 59.5}}}, "environment": where}


def test_the_table_is_best_first_and_averages_seeds():
    table = to_markdown(content(row("ridge", 10.0), row("mmp", 14.0, seed=0), row("mmp", 16.0, seed=1)))
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert lines[1] == "| mmp | MMP | Fluent | 20.0 | 15.0 | 13.0–17.0 | sw 10.0 | 10.0 | 2 | 0.2 |"
    assert lines[2] == "| ridge | MMP | Fluent | 15.0 | 10.0 | 8.0–12.0 | sw 5.0 | 5.0 |  | 0.2 |"
    assert "Text ceilings (the English caption found by the backbone alone): de 59.5." in table
    assert "revision 0123456789ab, 2026-11-25" in table and "Tux" not in table


def test_tux_shows_names_that_were_trained_on_apart():
    of_tux = {"trained": {"videos": 90, "mean": 12.0}, "new": {"videos": 330, "mean": 3.0}}
    table = to_markdown(content(row("ridge", 10.0, tests=("tux8",), **of_tux)))
    assert "| trained names | new names |" in table and "| 12.0 (90) | 3.0 (330) |" in table


@pytest.mark.skipif(not KEPT.exists(), reason="`make leaderboard` has not run")
def test_the_table_in_the_repository_is_made_from_its_results():
    table = Path(KEPT).with_suffix(".md").read_text(encoding="utf-8")
    assert table == to_markdown(json.loads(KEPT.read_text(encoding="utf-8")))
