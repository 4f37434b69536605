"""The training loop: it learns, can be stopped at any step, and leaves a Hub repository."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_trainer import tiny_trainer, videos_and_features
from transformers import AutoModel

from polyvid.train.data.batches import GlobalBatches
from polyvid.train.data.captions import PivotSampler
from polyvid.train.loop.repository import save_model
from polyvid.train.loop.setup import assemble
from polyvid.train.loop.step_log import read_steps
from polyvid.train.loop.trainer import Stopped
from polyvid.train.recipe import DataRecipe, Recipe
from tiny import WORDS, tiny_model, tiny_processor


@pytest.fixture
def make_trainer(tmp_path):
    return lambda output="run", **options: tiny_trainer(tmp_path / output, **options)


def assert_same_weights(actual, expected):
    assert set(actual) == set(expected)
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_it_learns_pairs_by_heart_and_keeps_the_best_model(make_trainer):
    trainer = make_trainer(pooler_dropout=0.0, epochs=25, batch_size=8)
    trainer.fit()
    first, last = trainer.progress.history[0], trainer.progress.history[-1]
    assert last["loss"] < 0.3 * first["loss"]
    assert max(entry["R@1"] for entry in trainer.progress.history) > 90 > 60 > first["R@1"]
    scores = [entry["R@1"] + entry["R@5"] + entry["R@10"] for entry in trainer.progress.history]
    assert trainer.progress.best_score == max(scores)


def test_the_output_is_a_hub_repository_without_leftovers(make_trainer):
    trainer = make_trainer(epochs=1)
    trainer.fit()
    files = {path.name for path in trainer.output_dir.iterdir()}
    assert {"config.json", "model.safetensors", "modeling_mmp.py", "processor_config.json", "recipe.yaml"} <= files
    assert "checkpoints" not in files
    assert json.loads((trainer.output_dir / "config.json").read_text())["auto_map"]["AutoModel"]
    loaded = AutoModel.from_pretrained(trainer.output_dir)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("step", [1, 3, 7])
def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(make_trainer, step, monkeypatch):
    """Dropout is on: the random numbers go on too. Steps 1 and 7 are within an epoch, 3 is the last of one."""
    whole = make_trainer("whole")
    whole.fit()

    stopped = make_trainer("stopped")
    steps = []
    monkeypatch.setattr(stopped.processes, "any", lambda flags: [steps.append(1) or len(steps) == step, False])
    with pytest.raises(Stopped, match="the same command resumes from there"):
        stopped.fit()
    torch.manual_seed(123)  # a new process draws other numbers
    resumed = make_trainer("stopped")
    resumed.fit()

    assert resumed.progress.history == whole.progress.history
    assert read_steps(resumed.step_log.path) == read_steps(whole.step_log.path)
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("stopped_after", [None, 6, 8])
def test_the_best_epoch_is_selected_whole_or_resumed_and_written_once(make_trainer, stopped_after, monkeypatch):
    """Epoch 2 of 3 is the best. The first checkpoint is written before it has been seen to be, the second after."""
    written, best = [], {}
    monkeypatch.setattr(
        "polyvid.train.loop.repository.save_model", lambda *a: written.append(a[-1].name) or save_model(*a)
    )

    def trainer_with_scores():
        trainer = make_trainer()

        def validate():
            if trainer.progress.epoch == 1:
                best.update({name: value.clone() for name, value in trainer.model.state_dict().items()})
            return {"en": {"R@1": (50.0, 90.0, 10.0)[trainer.progress.epoch]}}

        trainer.validate = validate
        return trainer

    if stopped_after:
        trainer = trainer_with_scores()
        trainer.processes.any = lambda flags: [trainer.progress.step == stopped_after, False]
        with pytest.raises(Stopped):
            trainer.fit()
    trainer = trainer_with_scores()
    trainer.fit()
    assert_same_weights(load_file(trainer.output_dir / "model.safetensors"), best)
    before = [f".step-{stopped_after:08d}.unfinished", ".best.unfinished"] if stopped_after else []
    assert written == [*before, ".best.unfinished"]


def test_frozen_layers_stay_as_they_were_and_have_no_optimizer_state(make_trainer):
    trainer = make_trainer(epochs=1)
    before = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.fit()
    after = dict(trainer.model.named_parameters())
    assert before and all(torch.equal(after[name], value) for name, value in before.items())
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not any(id(after[name]) in optimized for name in before)


def test_global_batches_do_not_depend_on_the_number_of_processes():
    single = [sorted(batch) for batch in GlobalBatches(size=23, batch_size=6, seed=0)]
    parts = [list(GlobalBatches(23, 6, 0, rank, 3)) for rank in range(3)]
    together = [sorted(row for part in batch for row in part) for batch in zip(*parts, strict=True)]
    assert together == single
    assert sorted(row for batch in single for row in batch) == list(range(23))


def grouped_by_length(epoch: int = 0, first: int = 0, rank: int = 0, processes: int = 1) -> list[list[int]]:
    """3,501 rows as long as captions in batches of 20: three windows of `SORTED` and a short one."""
    batches = GlobalBatches(3501, 20, 0, rank, processes)
    batches.lengths = caption_lengths()
    batches.epoch, batches.first_batch = epoch, first
    return list(batches)


def caption_lengths() -> np.ndarray:
    return np.random.default_rng(5).normal(14, 5, 3501).round().clip(5, 40).astype(int)


def padding(batches: list[list[int]]) -> float:
    """Share of the tokens of padded batches that are none."""
    lengths = caption_lengths()
    return 1 - sum(lengths[b].sum() for b in batches) / sum(lengths[b].max() * len(b) for b in batches)


def test_batches_by_length_hold_the_same_rows_in_hardly_any_padding():
    plain, grouped = list(GlobalBatches(3501, 20, 0)), grouped_by_length()
    assert sorted(map(len, grouped)) == sorted(map(len, plain)) == [19] * 19 + [20] * 157
    assert sorted(sum(grouped, [])) == sorted(sum(plain, []))
    assert padding(grouped) < 0.05 < 0.3 < padding(plain)
    means = np.array([caption_lengths()[batch].mean() for batch in grouped])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2  # short ones do not come first
    assert grouped_by_length(epoch=1) != grouped


def test_batches_by_length_can_be_taken_up_anywhere_and_are_split_between_processes():
    assert grouped_by_length(first=70) == grouped_by_length()[70:]
    parts = [grouped_by_length(rank=rank, processes=3) for rank in range(3)]
    assert [sum(batch, []) for batch in zip(*parts, strict=True)] == grouped_by_length()
    sizes = [sum(caption_lengths()[batch].sum() for batch in part) / sum(map(len, part)) for part in parts]
    assert max(sizes) < 1.02 * min(sizes)  # none has the longer halves


def test_rows_of_a_group_share_a_batch_in_a_new_order_each_epoch():
    """64 groups of four rows, which lie apart, in batches of 16: each batch holds four groups whole."""
    groups = np.array([f"clip {row % 64}" for row in range(256)])

    def grouped(epoch=0, first=0):
        batches = GlobalBatches(256, 16, 0)
        batches.groups, batches.epoch, batches.first_batch = groups, epoch, first
        return list(batches)

    batches = grouped()
    assert sorted(sum(batches, [])) == list(range(256))
    assert all(len(batch) == 16 and len(set(groups[batch])) == 4 for batch in batches)
    assert {frozenset(batch) for batch in grouped(epoch=1)}.isdisjoint(map(frozenset, batches))  # other groups meet
    assert grouped(first=5) == batches[5:]
    apart = list(GlobalBatches(256, 16, 0))
    assert np.mean([len(set(groups[batch])) for batch in apart]) > 13


def test_a_run_grouped_by_length_resumes_exactly(make_trainer, monkeypatch):
    words = {f"video{n}": " ".join(WORDS[n : n + 1 + n % 5]) for n in range(16)}
    row = PivotSampler.__getitem__
    monkeypatch.setattr(PivotSampler, "__getitem__", lambda it, n: row(it, n) | {"text": words[row(it, n)["video_id"]]})
    whole = make_trainer("whole", epochs=2, group_by_length=True)
    whole.fit()
    stopped = make_trainer("stopped", epochs=2, group_by_length=True)
    stopped.processes.any = lambda flags: [stopped.progress.step == 4, False]
    with pytest.raises(Stopped):
        stopped.fit()
    resumed = make_trainer("stopped", epochs=2, group_by_length=True)
    resumed.fit()
    assert read_steps(resumed.step_log.path) == read_steps(whole.step_log.path)


@pytest.mark.parametrize(
    ("size", "batch_size", "processes", "sizes"),
    [
        (400, 64, 1, [58, 57, 57, 57, 57, 57, 57]),  # not six of 64 and one of 16
        (13, 6, 1, [5, 4, 4]),
        (12, 6, 1, [6, 6]),
        (3, 2, 1, [2]),  # a batch of one row has no negatives
        (9, 4, 4, [4, 4]),  # each process needs a row
        (1, 6, 1, []),
    ],
)
def test_all_batches_of_an_epoch_have_about_as_many_rows(size, batch_size, processes, sizes):
    """A remainder of 16 rows would take as large a step of Adam as a batch of 64."""
    batches = GlobalBatches(size, batch_size, seed=0, num_processes=processes)
    parts = [list(GlobalBatches(size, batch_size, 0, rank, processes)) for rank in range(processes)]
    assert [sum(map(len, batch)) for batch in zip(*parts, strict=True)] == sizes
    assert len(batches) == len(sizes)


def test_too_few_clips_are_refused(tmp_path):
    videos, features = videos_and_features(1)
    recipe = Recipe(name="test", output_dir=str(tmp_path), data=DataRecipe(dataset="none", features="none"))
    with pytest.raises(ValueError, match=r"1 training clip\(s\) do not make a batch"):
        assemble(recipe, tiny_model(), tiny_processor(), PivotSampler(videos, features))
