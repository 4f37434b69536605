"""The probe of motion: what counts as telling a clip from its twin, and the table is made from the results kept."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.demo import motion
from polyvid.train.demo.motion_table import to_markdown
from polyvid.train.recipe import load_recipe

KEPT = motion.RESULTS


def video(name, twin, group):
    captions = [{"caption_id": "caption", "language": code, "text": name, "source": "human"} for code in LANGUAGES]
    return {
        "video_id": name,
        "captions": captions,
        "group": group,
        "twins": [{"question": "order", "video_id": twin}],
    }


VIDEOS = [video("a b", "b a", 0), video("b a", "a b", 0), video("c d", "d c", 1), video("d c", "c d", 1)]


def test_a_clip_is_told_from_its_twin_if_its_caption_is_nearer_to_it():
    """Three of four captions are; the fourth finds its twin first, which has the right frames at least."""
    clips = torch.eye(4)
    texts = torch.tensor([[1.0, 0, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0.5]])
    found = motion.scores_of(VIDEOS, clips, lambda captions, language: texts)
    question = found["questions"]["order"]
    assert question["accuracy"] == dict.fromkeys(LANGUAGES, 75.0) and question["mean"] == 75
    assert found["R@1"]["sw"] == 100 and (found["videos"], found["groups"]) == (4, 2)
    assert question["interval"] == pytest.approx([50, 100])  # groups are drawn whole: one has 100 %, one 50 %


def test_what_does_not_see_the_order_tells_nothing():
    """Twins with the same embedding are ties, and each counts one half: 50 %, without luck."""
    same = torch.randn(2, 8).repeat_interleave(2, 0)
    found = motion.scores_of(VIDEOS, same, lambda captions, language: torch.randn(4, 8))
    assert found["questions"]["order"]["accuracy"] == dict.fromkeys(LANGUAGES, 50.0)
    assert found["questions"]["order"]["interval"] == [50, 50]


def test_features_follow_the_frames_that_are_shown():
    frames = {"a": np.arange(12)[:, None], "b": 100 + np.arange(12)[:, None]}
    shown = [{"video_id": "b", "index": 10}, {"video_id": "a", "index": 0}, {"video_id": "a", "index": 0}]
    assert motion.in_order(frames, shown).tolist() == [[110], [0], [0]]


def test_positions_are_all_that_the_two_recipes_differ_in():
    ours = load_recipe("demo/motion")
    assert ours.model.video_positions == "none" and ours.data.languages == ["en"]
    other = motion.recipe_of("playing", "sinusoidal", 0)
    assert other.model.video_positions == "sinusoidal"
    same = motion.recipe_of("playing", "none", 0)
    same.model.video_positions = "sinusoidal"
    assert other == same


@pytest.fixture
def content():
    questions = {
        name: {"accuracy": dict.fromkeys(LANGUAGES, 60.0), "mean": 60.0, "interval": [55.0, 65.0]}
        for name in ("direction", "speed", "order")
    }
    rows = [
        {
            "config": config,
            "heads": heads,
            "seed": seed,
            "videos": 400,
            "groups": 200,
            "R@1": dict.fromkeys(LANGUAGES, 5.0),
            "cpu_minutes": 1.5,
            "questions": {name: deepcopy(questions[name]) for name in own},
        }
        for config, own in motion.QUESTIONS.items()
        for heads, seeds in (("mean", [None]), ("none", [0, 1]), ("sinusoidal", [0, 1]))
        for seed in seeds
    ]
    return {"rows": rows, "environment": {"git_revision": "0123456789abcdef"}}


def test_the_table_shows_mean_interval_and_range_over_seeds(content):
    [row] = [row for row in content["rows"] if (row["config"], row["heads"], row["seed"]) == ("order", "none", 1)]
    row["questions"]["order"] |= {"mean": 70.0, "interval": [65.0, 75.0]}
    table = to_markdown(content)
    assert "| the paper's heads (no positions) | 60.0 (55.0–65.0; 60.0–60.0) |" in table
    assert "| 65.0 (60.0–70.0; 60.0–70.0) |" in table
    assert "| mean pooling (ridge regression) | 60.0 (55.0–65.0) |" in table
    assert "Chance: 0.5 in `playing`, 0.5 in `order`." in table
    assert table.endswith("`python -m polyvid.train.demo.motion --seeds 2` on commit 0123456789ab.\n")


@pytest.mark.skipif(not KEPT.exists(), reason="the probe has not been measured")
def test_the_table_kept_is_made_from_the_results_kept():
    assert KEPT.with_suffix(".md").read_text("utf-8") == to_markdown(json.loads(KEPT.read_text("utf-8")))
