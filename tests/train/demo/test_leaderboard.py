"""The leaderboard: what a row says, and that the table shown is made from the results kept."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polyvid.train.demo import leaderboard
from polyvid.train.demo.leaderboard_table import to_markdown
from polyvid.train.scoring.evaluation import Ranks

KEPT = leaderboard.RESULTS
REVISION = "0123456789abcdef"


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
        "revision": REVISION,
        "tests": {test: scores | of_tux for test in tests},
    }


def content(*rows):
    where = {"git_revision": "of the last run", "date": "2026-11-25T01:00:00+00:00"}
    return {"rows": list(rows), "text_ceilings": {"fluent": {"sw": {"R@1": 29.5}}}, "environment": where}


def test_the_table_is_best_first_and_averages_seeds():
    table = to_markdown(content(row("ridge", 10.0), row("mmp", 14.0, seed=0), row("mmp", 16.0, seed=1)))
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert lines[1] == "| mmp | MMP | Fluent | 20.0 | 15.0 | 13.0–17.0 | sw 10.0 | 10.0 | 2 (14.0–16.0) | 0.2 |"
    assert lines[2] == "| ridge | MMP | Fluent | 15.0 | 10.0 | 8.0–12.0 | sw 5.0 | 5.0 |  | 0.2 |"
    assert "at revision 0123456789ab; 2026-11-25." in table and "Tux" not in table


def test_every_language_is_shown_above_its_text_ceiling():
    table = to_markdown(content(row("ridge", 10.0), row("mmp", 14.0, seed=0), row("mmp", 16.0, seed=1)))
    assert "Text ceiling: how often the text backbone alone finds the English caption" in table
    assert table.split("| R@1 by language |")[1].splitlines()[0:5] == [
        " en | sw | mean |",
        "|---|---:|---:|---:|",
        "| mmp, MMP, Fluent | 20.0 | 10.0 | 15.0 |",
        "| ridge, MMP, Fluent | 15.0 | 5.0 | 10.0 |",
        "| text ceiling |  | 29.5 | 29.5 |",
    ]


def test_rows_of_several_revisions_name_them_all():
    rows = [
        row("ridge", 10.0),
        row("mmp", 14.0) | {"revision": "fedcba9876543210+changes"},
        row("old", 1.0) | {"revision": None},
    ]
    assert "measured at revision 0123456789ab, fedcba987654 with changes, unknown; 2026-11-25." in to_markdown(
        content(*rows)
    )


def test_models_are_trained_once_for_each_seed_and_set_of_styles(tmp_path, monkeypatch):
    """Stopped and started again, it goes on with the row that is missing, and trains that model anew."""
    monkeypatch.setattr(leaderboard, "FOLDER", tmp_path)
    stages, scored = [], []

    def train(recipe, changes):
        own = dict(change.split("=", 1) for change in changes)
        assert not Path(own["output_dir"]).exists(), "of the run that was stopped"
        Path(own["output_dir"]).mkdir(parents=True)
        stages.append((recipe.stem, own["data.config"], own["training.seed"], "data.data_dir" in own))
        if len(stages) == 4:
            raise KeyboardInterrupt

    def score(folder, videos, cpu_minutes):
        assert Path(folder).is_dir() and cpu_minutes >= 0
        stage, config, seed, _ = stages[-1]
        path = leaderboard.row_file(stage, seed, config)
        scored.append(path.name)
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")

    monkeypatch.setattr(leaderboard, "train", train)
    monkeypatch.setattr(leaderboard, "score_model", score)
    with pytest.raises(KeyboardInterrupt):
        leaderboard.train_models(2, {"fluent": [], "noto": []})
    assert scored == ["none-warm_0_split-0.json", "mp-warm_0_split-0.json"]
    leaderboard.train_models(2, {"fluent": [], "noto": []})
    assert stages[3:6] == [(s, "split_0", "0", False) for s in ("mmp_pretrain_warm", "mmp_pretrain_warm", "mmp_warm")]
    assert stages[-1] == ("mmp_warm", "unseen_style", "1", True)
    assert len(scored) == len(set(scored)) == 2 * 2 * 3
    assert not list((tmp_path / "models").iterdir())
    leaderboard.train_models(2, {"fluent": []})  # without the styles; nothing is left to do
    assert len(scored) == 12


def test_pictures_that_are_not_to_be_had_are_left_out_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))  # without apt
    assert not leaderboard.make(replace(leaderboard.TESTS["tux8"], folder=tmp_path / "tux8"))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Tux-8: photos and drawings, eight languages: left out. There is no apt-get here to fetch")
    assert line.endswith("and pass the .deb file as --package.")


def test_a_model_that_is_not_there_is_named_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(leaderboard, "prepare", lambda: pytest.fail("hours of work"))
    with pytest.raises(FileNotFoundError, match="no_model"):
        leaderboard.main([str(tmp_path / "no_model")])


def test_tux_shows_names_that_were_trained_on_apart():
    of_tux = {"trained": {"videos": 90, "mean": 12.0}, "new": {"videos": 330, "mean": 3.0}}
    table = to_markdown(content(row("ridge", 10.0, tests=("tux8",), **of_tux)))
    assert "| trained names | new names |" in table and "| 12.0 (90) | 3.0 (330) |" in table


@pytest.mark.skipif(not KEPT.exists(), reason="`make leaderboard` has not run")
def test_the_table_in_the_repository_is_made_from_its_results():
    table = Path(KEPT).with_suffix(".md").read_text(encoding="utf-8")
    assert table == to_markdown(json.loads(KEPT.read_text(encoding="utf-8")))
