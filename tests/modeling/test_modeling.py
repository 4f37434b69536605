"""MMPModel: both towers, what is frozen, the views of a batch, and what it refuses."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from polyvid.modeling import MMPConfig, MMPModel, MMPObjective
from tiny import BACKBONES, EMBED_DIM, VIDEO_FEATURE_DIM, tiny_batch, tiny_model


@pytest.fixture(scope="module")
def batch():
    return tiny_batch()


@pytest.fixture
def model():
    return tiny_model()


def texts(batch):
    return batch["input_ids"], batch["attention_mask"]


def videos(batch):
    return batch["video_features"], batch["video_mask"]


# ---- embeddings ----


@pytest.mark.parametrize("backbone", BACKBONES)
def test_padding_never_changes_an_embedding(backbone, batch):
    model = tiny_model(backbone)
    pivot = {name: batch[name] for name in ("input_ids", "attention_mask")}
    together = model(**batch, **{f"pivot_{name}": value for name, value in pivot.items()})
    for row in range(3):
        tokens, seconds = batch["attention_mask"][row].sum(), batch["video_mask"][row].sum()
        ids, features = batch["input_ids"][row : row + 1, :tokens], batch["video_features"][row : row + 1, :seconds]
        alone = {
            "text_embeds": model.get_text_features(ids).pooler_output,
            "video_embeds": model.get_video_features(features).pooler_output,
            "text_given_video_embeds": model.encode_text_given_video(ids, None, features),
        }
        for name, embeds in alone.items():
            assert embeds.shape == (1, EMBED_DIM)
            torch.testing.assert_close(embeds[0], together[name][row], atol=1e-5, rtol=0, msg=name)


def test_the_content_of_padding_does_not_matter(model, batch):
    changed = {
        "input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 42),
        "video_features": torch.where(batch["video_mask"][..., None].bool(), batch["video_features"], 1e3),
    }
    torch.testing.assert_close(model(**batch).logits_per_text, model(**batch | changed).logits_per_text)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_text_tower_reads_the_output_layer_of_the_whole_backbone(backbone, batch, tmp_path):
    """Embeddings, layers 1-3 and nothing of layer 4, as a whole pre-trained backbone of four layers computes them."""
    torch.manual_seed(3)
    whole = AutoModel.from_config(AutoConfig.for_model(**BACKBONES[backbone])).eval()
    whole.save_pretrained(tmp_path)
    model = MMPModel.from_backbone(
        str(tmp_path), output_layer=3, freeze_below=2, embed_dim=EMBED_DIM, video_feature_dim=VIDEO_FEATURE_DIM
    )
    hidden = whole(*texts(batch), output_hidden_states=True).hidden_states[3]
    if hasattr(whole, "final_norm"):  # ModernBERT's layers hand on sums that are normalised only at the end
        hidden = whole.final_norm(hidden)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(model.embed_tokens(*texts(batch))[real], model.text_projection(hidden)[real])
    assert not any("layer.3." in name or "layers.3." in name for name in model.state_dict())
    assert not any("pooler" in name for name in model.text_model.state_dict())


def test_there_is_no_projection_where_the_widths_agree():
    assert isinstance(tiny_model(embed_dim=32).text_projection, nn.Identity)
    assert tiny_model(embed_dim=16).text_projection.weight.shape == (16, 32)


def test_shared_pooling_heads_are_one_head(batch):
    shared, separate = tiny_model(share_poolers=True), tiny_model()
    size = sum(p.numel() for p in separate.text_pooler.parameters())
    assert shared.num_parameters() == separate.num_parameters() - size
    seconds = shared.embed_seconds(*videos(batch))
    torch.testing.assert_close(
        shared.get_video_features(*videos(batch)).pooler_output, shared.pool_text(seconds, batch["video_mask"])
    )


def test_pooling_heads_may_differ_in_depth():
    model = tiny_model(pooler_num_layers=2, video_pooler_num_layers=1)
    assert (len(model.text_pooler.layers), len(model.video_pooler.layers)) == (2, 1)


@pytest.mark.parametrize("share", [False, True], ids=["own head", "shared head"])
def test_with_positions_the_order_of_all_seconds_matters_and_that_of_a_text_is_left_to_its_backbone(batch, share):
    """Seconds 1 ... in another order: only a model with positions tells it, in c_v and in c_{x|v}."""
    without, placed = tiny_model(share_poolers=share), tiny_model(share_poolers=share, video_positions="sinusoidal")
    assert placed.state_dict().keys() == without.state_dict().keys()  # there is nothing to learn
    features, order = torch.randn(3, 9, 10), [0, 4, 2, 8, 7, 1, 3, 6, 5]
    differences = {}
    for name, model in (("without", without), ("placed", placed)):
        for embed in (
            lambda video, model=model: model.get_video_features(video).pooler_output,
            lambda video, model=model: model.encode_text_given_video(*texts(batch), video),
        ):
            difference = (embed(features) - embed(features[:, order])).abs().max().item()
            differences.setdefault(name, []).append(difference)
    assert max(differences["without"]) < 1e-5 < 1e-3 < min(differences["placed"])
    text = [model.get_text_features(*texts(batch)).pooler_output for model in (without, placed)]
    assert torch.equal(*text)


def test_positions_count_the_real_seconds_whatever_the_padding(batch):
    model = tiny_model(video_positions="sinusoidal")
    features, mask = videos(batch)
    embeds = model.get_video_features(features, mask).pooler_output
    for row, length in enumerate(mask.sum(1)):
        alone = model.get_video_features(features[row : row + 1, :length]).pooler_output
        torch.testing.assert_close(alone[0], embeds[row])


def test_positions_are_saved_with_the_model(batch, tmp_path):
    model = tiny_model(video_positions="sinusoidal")
    model.save_pretrained(tmp_path)
    loaded = MMPModel.from_pretrained(tmp_path)
    assert loaded.config.video_positions == "sinusoidal"
    expected = model.get_video_features(*videos(batch)).pooler_output
    torch.testing.assert_close(loaded.get_video_features(*videos(batch)).pooler_output, expected)


def test_image_regions_pass_through_their_own_projection(batch, tmp_path):
    """§5.6: a pre-trained video model gets a projection from region features to video features; all else is kept."""
    tiny_model().save_pretrained(tmp_path)
    model = MMPModel.from_pretrained(tmp_path, image_feature_dim=20)
    regions = torch.randn(2, 36, 20)
    expected = model.get_video_features(model.image_projection(regions)).pooler_output
    torch.testing.assert_close(model.get_video_features(regions).pooler_output, expected)
    torch.testing.assert_close(
        model.get_video_features(*videos(batch)).pooler_output,
        tiny_model().get_video_features(*videos(batch)).pooler_output,
    )
    assert model.image_projection.weight.requires_grad
    assert model.learning_rate_multipliers == {"image_projection": 2.0}


# ---- frozen layers ----


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("freeze_below", [1, 2, 3])
def test_frozen_layers_may_be_computed_once_and_for_all(backbone, freeze_below, batch):
    model = tiny_model(backbone, freeze_below=freeze_below)
    states = model.encode_frozen_layers(*texts(batch))
    assert states.shape == (3, 12, 32) and not states.requires_grad
    resumed = model.get_text_features(frozen_hidden_states=states, attention_mask=batch["attention_mask"]).pooler_output
    torch.testing.assert_close(resumed, model.get_text_features(*texts(batch)).pooler_output)
    # ... in training too, where only what is trained has dropout, and with the same gradient
    gradients = []
    for arguments in (dict(input_ids=batch["input_ids"]), dict(frozen_hidden_states=states)):
        model.train().zero_grad()
        torch.manual_seed(5)
        model.get_text_features(
            attention_mask=batch["attention_mask"], **arguments
        ).pooler_output.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_features_are_what_transformers_models_return(model, batch):
    """`BaseModelOutputWithPooling`, or a tuple of the same where `return_dict` is False in the call or the config."""
    for get, given, embed, pool in (
        (model.get_text_features, texts(batch), model.embed_tokens, model.pool_text),
        (model.get_video_features, videos(batch), model.embed_seconds, model.pool_video),
    ):
        output = get(*given)
        assert type(output) is BaseModelOutputWithPooling
        embeds = embed(*given)
        torch.testing.assert_close(output.last_hidden_state, embeds)
        torch.testing.assert_close(output.pooler_output, pool(embeds, given[1]))
        as_tuple = get(*given, return_dict=False)
        assert type(as_tuple) is tuple and len(as_tuple) == 2
        torch.testing.assert_close(as_tuple, output.to_tuple())


def test_resuming_touches_no_frozen_layer(model, batch):
    states = model.encode_frozen_layers(*texts(batch))
    calls = []
    for index, layer in enumerate(model.text_model.encoder.layer):
        layer.register_forward_hook(lambda *_, index=index: calls.append(index + 1))
    model.get_text_features(frozen_hidden_states=states, attention_mask=batch["attention_mask"])
    assert calls == [3]
    model.encode_frozen_layers(*texts(batch))
    assert calls == [3, 1, 2]


def test_with_all_layers_frozen_the_backbone_is_not_run(batch):
    model = tiny_model(freeze_below=3)
    states = model.encode_frozen_layers(*texts(batch))
    model.text_model = None
    assert model.get_text_features(
        frozen_hidden_states=states, attention_mask=batch["attention_mask"]
    ).pooler_output.shape == (3, 16)


def test_a_backbone_that_cannot_be_resumed_says_so(batch):
    """ALBERT's layers share one set of weights; a convolution beside DeBERTa's first layer needs the embeddings."""
    albert = BACKBONES["bert"] | dict(model_type="albert", embedding_size=16)
    with pytest.raises(
        ValueError, match="'albert' backbone has no single stack of 3 layers .* freeze_below to 0 or to"
    ):
        MMPModel(MMPConfig(text_config=albert, output_layer=3, freeze_below=2, embed_dim=16))
    frozen = dict(output_layer=3, freeze_below=3, embed_dim=16)
    assert MMPModel(MMPConfig(text_config=albert, **frozen)).encode_frozen_layers(*texts(batch)).shape == (3, 12, 32)
    convolution = BACKBONES["deberta-v2"] | dict(conv_kernel_size=3)
    model = MMPModel(MMPConfig(text_config=convolution, output_layer=3, freeze_below=1, embed_dim=16))
    with pytest.raises(ValueError, match=r"cannot be resumed from the output of layer 1 \(the output differs\)"):
        model.encode_frozen_layers(*texts(batch))


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_only_layers_above_freeze_below_projections_and_heads_are_trained(model, tmp_path):
    heads = ("text_projection.", "video_projection.", "text_pooler.", "video_pooler.")
    expected = {n for n, _ in model.named_parameters() if n.startswith((*heads, "text_model.encoder.layer.2."))}
    assert trained(model) == expected
    model.save_pretrained(tmp_path)
    assert trained(MMPModel.from_pretrained(tmp_path)) == expected  # transformers makes all trainable again
    assert trained(AutoModel.from_pretrained(tmp_path, output_loading_info=True)[0]) == expected
    assert trained(tiny_model(freeze_below=0)) == {name for name, _ in model.named_parameters()}
    assert not any(name.startswith("text_model") for name in trained(tiny_model(freeze_below=3)))


def test_frozen_parameters_get_neither_gradient_nor_optimizer_state(model, batch):
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    noisy = dict(noisy_input_ids=batch["input_ids"].flip(0), noisy_video_features=batch["video_features"].flip(0))
    model.train()(**batch, **noisy, return_loss=True).loss.backward()
    optimizer.step()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name in frozen), name
        assert (parameter in optimizer.state) == (name not in frozen), name
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not changed & frozen and changed >= {"text_model.encoder.layer.2.output.dense.weight"}


def test_frozen_layers_have_no_dropout_in_training(model, batch):
    model.train()
    assert torch.equal(model.encode_frozen_layers(*texts(batch)), model.encode_frozen_layers(*texts(batch)))
    assert not torch.equal(
        model.get_text_features(*texts(batch)).pooler_output, model.get_text_features(*texts(batch)).pooler_output
    )
    model.eval()
    assert torch.equal(
        model.get_text_features(*texts(batch)).pooler_output, model.get_text_features(*texts(batch)).pooler_output
    )


# ---- a batch ----


def full_batch(batch):
    other = tiny_batch(tokens=8, seed=2)
    return batch | {
        "noisy_input_ids": torch.where(batch["input_ids"] == batch["input_ids"][0, 3], 4, batch["input_ids"]),
        "noisy_video_features": batch["video_features"] * (torch.arange(9) != 1)[:, None],
        "pivot_input_ids": other["input_ids"],
        "pivot_attention_mask": other["attention_mask"],
        "noisy_pivot_input_ids": other["input_ids"].clamp(max=40),
        "video_index": torch.tensor([0, 1, 0]),
    }


def test_the_views_of_a_batch_are_what_the_towers_make_of_each(model, batch):
    batch = full_batch(batch)
    mask, pivot_mask, video_mask = batch["attention_mask"], batch["pivot_attention_mask"], batch["video_mask"]
    video = (batch["video_features"], video_mask)
    alone = {
        "text_embeds": model.get_text_features(batch["input_ids"], mask).pooler_output,
        "noisy_text_embeds": model.get_text_features(batch["noisy_input_ids"], mask).pooler_output,
        "video_embeds": model.get_video_features(*video).pooler_output,
        "noisy_video_embeds": model.get_video_features(batch["noisy_video_features"], video_mask).pooler_output,
        "pivot_embeds": model.get_text_features(batch["pivot_input_ids"], pivot_mask).pooler_output,
        "noisy_pivot_embeds": model.get_text_features(batch["noisy_pivot_input_ids"], pivot_mask).pooler_output,
        "text_given_video_embeds": model.encode_text_given_video(batch["input_ids"], mask, *video),
        "pivot_given_video_embeds": model.encode_text_given_video(batch["pivot_input_ids"], pivot_mask, *video),
    }
    output = model(**batch, return_loss=True)
    for name, embeds in alone.items():
        torch.testing.assert_close(output[name], embeds, msg=name)
    terms = MMPObjective(temperature=0.1)(alone)
    torch.testing.assert_close(output.loss, terms.pop("loss"))
    assert output.loss_terms.keys() == terms.keys() == {"inter", "intra", "cross"}
    cosine = nn.functional.cosine_similarity(alone["text_embeds"][:, None], alone["video_embeds"][None], dim=-1)
    torch.testing.assert_close(output.logits_per_text, cosine / 0.1)
    torch.testing.assert_close(output.logits_per_video, output.logits_per_text.T)


@pytest.mark.parametrize("cached", [("",), ("noisy_",), ("", "noisy_", "pivot_", "noisy_pivot_")], ids=str)
def test_any_view_may_come_as_cached_hidden_states(model, batch, cached):
    batch = full_batch(batch)
    expected = model(**batch, return_loss=True)
    for view in cached:
        mask = batch[f"{view.removeprefix('noisy_')}attention_mask"]
        batch[f"{view}frozen_hidden_states"] = model.encode_frozen_layers(batch.pop(f"{view}input_ids"), mask)
    torch.testing.assert_close(model(**batch, return_loss=True).loss, expected.loss)


def test_one_modality_alone_is_embedded_without_logits(model, batch):
    output = model(batch["input_ids"], batch["attention_mask"])
    assert output.text_embeds.shape == (3, EMBED_DIM) and output.video_embeds is None and output.logits_per_text is None
    assert model(video_features=batch["video_features"]).to_tuple()[0].shape == (3, EMBED_DIM)


# ---- bad input ----


def without_seconds(batch):
    return {"video_mask": batch["video_mask"] * torch.tensor([[1], [0], [1]])}


def with_nan(batch):
    features = batch["video_features"].clone()
    features[2, 0, 0] = float("nan")
    return {"video_features": features}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: {"attention_mask": b["attention_mask"] * 0},
            r"attention_mask \(3, 12\) starts with padding in row 0, 1, 2",
        ),
        (
            lambda b: {"input_ids": b["input_ids"][:, :0], "attention_mask": None},
            r"input_ids is empty: its shape is \(3, 0\)",
        ),
        (
            lambda b: {"attention_mask": b["attention_mask"][:, :5]},
            r"attention_mask \(3, 5\) does not fit input_ids \(3, 12\)",
        ),
        (without_seconds, r"video_mask \(3, 9\) starts with padding in row 1"),
        (
            lambda b: {"video_features": b["video_features"][:, :0], "video_mask": None},
            r"video_features is empty.*\(3, 0, 10\)",
        ),
        (
            lambda b: {"video_features": b["video_features"][..., :7]},
            r"must be \(batch, seconds, 10\), got \(3, 9, 7\)",
        ),
        (lambda b: {"video_features": b["video_features"][0]}, r"must be \(batch, seconds, 10\), got \(9, 10\)"),
        (with_nan, r"video_features \(3, 9, 10\) holds NaN or infinity in row 2"),
        (
            lambda b: {"video_features": b["video_features"][:2], "video_mask": b["video_mask"][:2]},
            r"as many texts as videos.*\(3, 16\).*\(2, 16\)",
        ),
        (lambda b: {"video_features": None}, r"as many texts as videos"),
        (
            lambda b: {"noisy_input_ids": b["input_ids"][:, :4]},
            r"noised texts must be shaped like the clean ones: got \(3, 4\) and \(3, 12\)",
        ),
        (
            lambda b: {"noisy_video_features": b["video_features"][:1]},
            r"noised videos .* got \(1, 9, 10\) and \(3, 9, 10\)",
        ),
        (lambda b: {"frozen_hidden_states": torch.zeros(3, 12, 32)}, "either input_ids or frozen_hidden_states"),
        (
            lambda b: {"input_ids": None, "frozen_hidden_states": torch.zeros(3, 12, 8)},
            r"\(batch, tokens, 32\), got \(3, 12, 8\)",
        ),
        (lambda b: {"input_ids": None, "video_features": None}, "Nothing to embed"),
    ],
)
def test_bad_input_is_refused_by_shape(model, batch, change, message):
    with pytest.raises(ValueError, match=message):
        model(**batch | change(batch), return_loss=True)


def test_a_text_is_conditioned_on_its_own_video_only(model, batch):
    with pytest.raises(ValueError, match=r"equally long: got e_x of shape \(3, 12, 16\) and e_v of shape \(2, 9, 16\)"):
        model.encode_text_given_video(*texts(batch), batch["video_features"][:2])


def test_nothing_frozen_means_nothing_to_cache(batch):
    with pytest.raises(ValueError, match="freeze_below=0"):
        tiny_model(freeze_below=0).encode_frozen_layers(*texts(batch))


def test_a_backbone_that_is_nowhere_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError, match="Cannot load the text backbone 'FacebookAI/xlm-roberta-large'.* or pass a folder"
    ) as error:
        MMPModel.from_backbone("FacebookAI/xlm-roberta-large")
    assert "\n" not in str(error.value)


def test_a_backbone_without_weights_for_a_layer_is_refused(tmp_path):
    shallow = AutoModel.from_config(AutoConfig.for_model(**BACKBONES["bert"] | dict(num_hidden_layers=2)))
    shallow.config.num_hidden_layers = 4
    shallow.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks 16 weights of the backbone, such as encoder.layer.2.attention"):
        MMPModel.from_backbone(str(tmp_path), output_layer=3, freeze_below=2)


# ---- the size of the paper's model ----


def test_parameters_with_xlm_roberta_large():
    """Closed forms: 12 layers above embeddings of XLM-R-large; layers 10-12, a projection and two heads are trained."""
    with torch.device("meta"):
        model = MMPModel(MMPConfig())
    width = 1024
    norm = 2 * width
    layer = 4 * (width * width + width) + norm + (width * 4096 + 4096) + (4096 * width + width) + norm
    embeddings = (250002 + 514 + 1) * width + norm
    assert model.text_model.num_parameters() == embeddings + 12 * layer
    projection = width * width + width
    heads = 2 * 2 * layer  # a pooling layer has the shape of a backbone layer
    assert model.num_parameters() == embeddings + 12 * layer + projection + heads
    assert model.num_parameters(only_trainable=True) == 3 * layer + projection + heads
    assert 12 * layer == 151_154_688  # what is not built
