"""`training.patience`: a run that no longer improves ends early, and keeps its best model."""

import pytest
from tiny_trainer import tiny_trainer

from polyvid.train.loop.checkpoints import Checkpoints
from polyvid.train.recipe import load_recipe
from polyvid.train.recipe_files import RecipeError


def sums(history: list[dict]) -> list[float]:
    return [entry["R@1"] + entry["R@5"] + entry["R@10"] for entry in history]


def test_a_run_that_learns_nothing_ends_after_its_patience(tmp_path):
    trainer = tiny_trainer(tmp_path, epochs=50, patience=2, learning_rate=1e-12)
    trainer.fit()
    assert len(trainer.progress.history) == 3, "the first epoch is the best, and two more are waited for"
    assert trainer.checkpoints.is_finished()


def test_a_resumed_run_ends_where_the_other_would_have_ended(tmp_path, monkeypatch):
    whole = tiny_trainer(tmp_path / "whole", epochs=12, patience=2)
    whole.fit()
    scores = sums(whole.progress.history)
    assert len(scores) == 12 or len(scores) - 1 - scores.index(max(scores)) == 2

    killed = tiny_trainer(tmp_path / "killed", epochs=12, patience=2, save_minutes=0)  # a checkpoint after every step
    monkeypatch.setattr(Checkpoints, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        killed.fit()
    monkeypatch.undo()
    resumed = tiny_trainer(tmp_path / "killed", epochs=12, patience=2, save_minutes=0)
    resumed.fit()
    assert sums(resumed.progress.history) == scores


def test_patience_needs_a_validation_split(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "name: x\noutput_dir: out\ndata: {dataset: fluent_emoji_9, features: f, validation_split: null}\n"
        "training: {patience: 3}\n"
    )
    with pytest.raises(RecipeError, match="training.patience needs data.validation_split"):
        load_recipe(file)
    with pytest.raises(RecipeError, match="training.patience must be at least 1"):
        load_recipe(file, ["data.validation_split=validation", "training.patience=0"])
