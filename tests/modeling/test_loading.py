"""What transformers offers for any model holds for MMPModel: dtypes, attention, checkpointing, shards, placement."""

import json
import subprocess
import sys

import pytest
import torch
from peak_memory import PEAK_MEMORY
from safetensors import safe_open
from transformers import AutoModel

from polyvid.modeling import MMPConfig, MMPModel
from tiny import BACKBONES, enable_checkpointing, tiny_batch, tiny_model


@pytest.fixture(scope="module")
def batch():
    return tiny_batch()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(folder, batch, dtype):
    model = AutoModel.from_pretrained(folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    output, expected = model(**batch), tiny_model()(**batch)
    assert output.text_embeds.dtype == output.video_embeds.dtype == dtype
    assert output.logits_per_text.dtype == torch.float32
    torch.testing.assert_close(output.logits_per_text, expected.logits_per_text, atol=0.1, rtol=0)  # cosines to 0.01
    states = model.encode_frozen_layers(batch["input_ids"], batch["attention_mask"]).float()
    resumed = model.get_text_features(frozen_hidden_states=states, attention_mask=batch["attention_mask"]).pooler_output
    torch.testing.assert_close(resumed, output.text_embeds)


def test_from_backbone_in_half_precision(tmp_path):
    tiny_model().text_model.save_pretrained(tmp_path)
    arguments = dict(output_layer=2, freeze_below=1, embed_dim=16, video_feature_dim=10)
    model = MMPModel.from_backbone(str(tmp_path), dtype="bfloat16", attn_implementation="eager", **arguments)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.text_model.config._attn_implementation == model.config._attn_implementation == "eager"
    assert str(tmp_path) not in json.dumps(model.config.to_dict())


def test_attention_implementations_agree(folder, batch):
    expected = tiny_model()(**batch)
    for name in ("eager", "sdpa"):
        model = AutoModel.from_pretrained(folder, attn_implementation=name)
        assert model.config._attn_implementation == model.text_model.config._attn_implementation == name
        torch.testing.assert_close(model(**batch).logits_per_text, expected.logits_per_text)
    model.set_attn_implementation("eager")
    assert model.text_pooler.layers[0].attention.config._attn_implementation == "eager"
    torch.testing.assert_close(model(**batch).logits_per_text, expected.logits_per_text)


def test_attention_that_the_pooling_heads_do_not_have_is_refused_or_left_to_the_backbone(folder, batch):
    for name in ("flash_attention_2", "flex_attention"):
        with pytest.raises(ValueError, match="does not support|not yet supported|not supported"):
            AutoModel.from_pretrained(folder, attn_implementation=name)
    model = AutoModel.from_pretrained(folder, attn_implementation={"": "eager", "text_config": "sdpa"})
    assert (model.config._attn_implementation, model.text_model.config._attn_implementation) == ("eager", "sdpa")
    torch.testing.assert_close(model(**batch).logits_per_text, tiny_model()(**batch).logits_per_text)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradient_checkpointing_recomputes_only_what_is_trained(backbone, batch):
    gradients, calls = [], []
    for checkpointing in (False, True):
        model = tiny_model(backbone)
        if checkpointing:
            enable_checkpointing(model)
        layers = [*model.get_submodule("text_model.layers" if backbone == "modernbert" else "text_model.encoder.layer")]
        first = [next(m for m in layer.modules() if isinstance(m, torch.nn.Linear)) for layer in layers]
        first.append(model.video_pooler.layers[0].attention.q_proj)
        count = [0] * len(first)
        for index, module in enumerate(first):
            module.register_forward_hook(lambda *_, i=index, c=count: c.__setitem__(i, c[i] + 1))
        torch.manual_seed(0)
        model.train()(**batch, return_loss=True).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        calls.append(count)
    recomputed = [after / before for before, after in zip(*calls, strict=True)]
    assert recomputed == [1, 1, 2, 2]  # layers 1-2 are frozen; layer 3 and the heads are trained
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_reentrant_checkpoints_are_refused():
    with pytest.raises(ValueError, match="use_reentrant=True would lose the gradient above the frozen layers"):
        enable_checkpointing(tiny_model(), {"use_reentrant": True})


def test_sharded_checkpoints(tmp_path, batch):
    tiny_model().save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 5
    loaded = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch).text_embeds, tiny_model()(**batch).text_embeds)


@pytest.mark.parametrize("on_disk", ["text_model", "video_pooler", None])
def test_device_map(folder, batch, tmp_path, on_disk):
    parts = ["text_model", "text_projection", "video_projection", "text_pooler", "video_pooler"]
    device_map = {part: "disk" if part == on_disk else "cpu" for part in parts} if on_disk else "auto"
    model = AutoModel.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path)
    output = model(**batch)
    torch.testing.assert_close(output.logits_per_text, tiny_model()(**batch).logits_per_text)
    states = model.encode_frozen_layers(batch["input_ids"], batch["attention_mask"])
    resumed = model.get_text_features(frozen_hidden_states=states, attention_mask=batch["attention_mask"]).pooler_output
    torch.testing.assert_close(resumed, output.text_embeds)


LOAD = f"""
import sys
from polyvid.modeling import MMPModel
peak = lambda: {PEAK_MEMORY}
before = peak()
model = MMPModel.from_pretrained(sys.argv[1])
sum(float(p.sum()) for p in model.parameters())  # weights are mapped from the file until they are used
print((peak() - before) / sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.slow
def test_the_xlm_roberta_large_checkpoint_ends_at_layer_12_and_loads_in_its_own_size(tmp_path):
    """151 M parameters fewer than with all 24 layers, in the file as in memory; peak memory <= 1.2 x weights."""
    sizes = {}
    for depth in (12, 24):
        with torch.device("meta"):
            model = MMPModel(MMPConfig(output_layer=depth))
        folder = tmp_path / str(depth)
        model.to(torch.bfloat16).to_empty(device="cpu").save_pretrained(folder)
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            names = list(file.keys())
            sizes[depth] = sum(torch.Size(file.get_slice(name).get_shape()).numel() for name in names)
        assert (folder / "model.safetensors").stat().st_size == pytest.approx(2 * sizes[depth], rel=1e-3)
        assert max(int(name.split(".")[3]) for name in names if name.startswith("text_model.encoder")) == depth - 1
    assert sizes[24] - sizes[12] == 151_154_688
    result = subprocess.run([sys.executable, "-c", LOAD, tmp_path / "12"], capture_output=True, text=True, check=True)
    assert 0.5 < float(result.stdout) <= 1.2
