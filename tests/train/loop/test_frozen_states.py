"""Cached outputs of frozen layers are the outputs of frozen layers."""

import pytest
import torch

from polyvid.train.loop.frozen_states import FrozenStates
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
    assert second.num_rows == 7 + 3 + 5 + 3
    model.encode_frozen_layers = None  # must not be needed
    assert torch.equal(second.lookup(**batch), expected)


def test_other_frozen_weights_are_refused(batch, tmp_path):
    cache = FrozenStates(tmp_path / "states", tiny_model(seed=0))
    cache.lookup(**batch)
    cache.save()
    with pytest.raises(ValueError, match="states.json was made with other frozen layers: delete it"):
        FrozenStates(tmp_path / "states", tiny_model(seed=1))
