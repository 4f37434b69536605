"""Cached outputs of frozen layers are the outputs of frozen layers."""

import json
import os

import pytest
import torch
from tiny_trainer import tiny_trainer

from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.loop.trainer import Stopped
from tiny import tiny_model


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(5, 20, (4, 7), generator=generator)
    attention_mask = (torch.arange(7) < torch.tensor([7, 3, 5, 3])[:, None]).long()
    return {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask}


def test_states_are_those_of_the_frozen_layers_at_every_real_token(batch, tmp_path):
    model = tiny_model()
    states = FrozenStates(tmp_path / "states", model).lookup(**batch)
    expected = model.encode_frozen_layers(**batch)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(states[real], expected[real], atol=2e-3, rtol=2e-3)  # kept in float16
    assert (states[~real] == 0).all()


def test_a_text_is_computed_once_however_it_is_padded(batch, tmp_path):
    model = tiny_model()
    cache = FrozenStates(tmp_path / "states", model)
    cache.lookup(**batch)
    calls = []
    model.encode_frozen_layers = lambda *arguments: calls.append(arguments)
    cache.lookup(batch["input_ids"][1:2, :3], batch["attention_mask"][1:2, :3])
    assert calls == []


def test_embeddings_of_a_batch_are_the_same_with_and_without_the_cache(batch, tmp_path):
    model = tiny_model()
    batch["noisy_input_ids"] = torch.where(batch["input_ids"] == 7, 4, batch["input_ids"])
    replaced = FrozenStates(tmp_path / "states", model).replace_tokens(batch)
    assert sorted(replaced) == ["attention_mask", "frozen_hidden_states", "noisy_frozen_hidden_states"]
    with torch.no_grad():
        plain, cached = model(**batch), model(**replaced)
    for name in ("text_embeds", "noisy_text_embeds"):
        torch.testing.assert_close(plain[name], cached[name], atol=5e-3, rtol=5e-3)


def test_saved_states_serve_the_next_run_and_unsaved_ones_are_dropped(batch, tmp_path):
    model = tiny_model()
    first = FrozenStates(tmp_path / "states", model)
    expected = first.lookup(**batch)
    first.save()
    first.lookup(batch["input_ids"] + 1, batch["attention_mask"])  # killed before the next save
    second = FrozenStates(tmp_path / "states", model)
    assert len(second) == 4
    model.encode_frozen_layers = None  # must not be needed
    assert torch.equal(second.lookup(**batch), expected)


def test_other_frozen_weights_are_refused(batch, tmp_path):
    cache = FrozenStates(tmp_path / "states", tiny_model(seed=0))
    cache.lookup(**batch)
    cache.save()
    with pytest.raises(ValueError, match="states.json was made with different frozen layers: delete it"):
        FrozenStates(tmp_path / "states", tiny_model(seed=1))


def saved(path, batch, model):
    cache = FrozenStates(path, model)
    expected = cache.lookup(**batch)
    cache.save()
    return expected


def calls_of(model) -> list:
    """What the frozen layers are asked for from now on."""
    calls, encode = [], model.encode_frozen_layers
    model.encode_frozen_layers = lambda ids, mask: calls.append(len(ids)) or encode(ids, mask)
    return calls


@pytest.mark.parametrize("damage", ["cut", "lost", "one bit", "index cut", "index lost", "zeros"])
def test_damaged_files_are_noticed_and_computed_again(batch, tmp_path, damage):
    """Zeros in place of hidden states, and another text's, went unnoticed."""
    model, data, index = tiny_model(), tmp_path / "states.f16", tmp_path / "states.json"
    expected = saved(tmp_path / "states", batch, model)
    content = data.read_bytes()
    if damage == "cut":
        os.truncate(data, len(content) // 2)
    elif damage == "lost":
        data.unlink()
    elif damage == "one bit":
        data.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    elif damage == "index cut":
        index.write_text(index.read_text()[:100])
    elif damage == "index lost":
        index.unlink()
    else:
        data.write_bytes(bytes(len(content)))
    calls = calls_of(model)
    cache = FrozenStates(tmp_path / "states", model)
    assert torch.equal(cache.lookup(**batch), expected)
    assert calls
    cache.save()
    calls.clear()
    assert torch.equal(FrozenStates(tmp_path / "states", model).lookup(**batch), expected)
    assert not calls  # repaired on disk too


def test_two_trainings_that_share_the_files_keep_each_others_states(batch, tmp_path):
    model = tiny_model()
    other = {"input_ids": batch["input_ids"] + batch["attention_mask"], "attention_mask": batch["attention_mask"]}
    first, second = FrozenStates(tmp_path / "states", model), FrozenStates(tmp_path / "states", model)
    expected, expected_other = first.lookup(**batch), second.lookup(**other)
    second.lookup(batch["input_ids"][:1], batch["attention_mask"][:1])  # a text both have
    first.save()
    second.save()
    assert torch.equal(first.lookup(**batch), expected)
    calls = calls_of(model)
    third = FrozenStates(tmp_path / "states", model)
    assert torch.equal(third.lookup(**batch), expected) and torch.equal(third.lookup(**other), expected_other)
    assert not calls and len(third) == len(set(json.loads((tmp_path / "states.json").read_text())["rows"]))


def test_states_of_a_text_do_not_depend_on_the_texts_next_to_it(batch, tmp_path):
    """Else a run that finds the states of another run would differ from one that computes them."""
    model = tiny_model()
    together = FrozenStates(tmp_path / "a", model).lookup(**batch)
    alone = FrozenStates(tmp_path / "b", model)
    for row in range(4):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        torch.testing.assert_close(alone.lookup(**one)[0], together[row], rtol=1e-3, atol=1e-3)


def test_batches_are_read_ahead_so_that_texts_of_equal_length_are_computed_together(batch, tmp_path):
    model = tiny_model()
    batches = [batch | {"input_ids": batch["input_ids"] + shift * batch["attention_mask"]} for shift in range(10)]
    one_by_one = FrozenStates(tmp_path / "a", model)
    expected = [one_by_one.lookup(b["input_ids"], b["attention_mask"]) for b in batches]
    calls, ahead = calls_of(model), FrozenStates(tmp_path / "b", model)
    read = list(ahead.read_ahead(iter(batches)))
    assert all(given is returned for given, returned in zip(batches, read, strict=True))
    assert len(calls) == 4 + 3  # 8 batches with 16, 8 and 8 texts of 3, 5 and 7 tokens in full groups; then 2 batches
    calls.clear()
    for b, states in zip(read, expected, strict=True):
        assert torch.equal(ahead.lookup(b["input_ids"], b["attention_mask"]), states)
    assert not calls


def test_texts_given_at_once_are_computed_once(batch, tmp_path):
    model = tiny_model()
    cache, calls = FrozenStates(tmp_path / "states", model), calls_of(model)
    ids = [row[mask.bool()].numpy() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    cache.add([*ids, *ids], "texts")
    cache.add(ids)
    assert len(calls) == 3  # one for each length
    real = FrozenStates(tmp_path / "other", model).lookup(**batch)
    calls.clear()
    assert torch.equal(cache.lookup(**batch), real)
    assert not calls


def test_a_stopped_run_has_saved_its_states(tmp_path, monkeypatch):
    trainer = tiny_trainer(tmp_path / "run")
    trainer.frozen_states = FrozenStates(tmp_path / "states", trainer.model)
    trainer.stop_requested = True
    with pytest.raises(Stopped):
        trainer.fit()
    assert len(FrozenStates(tmp_path / "states", trainer.model)) >= 6
