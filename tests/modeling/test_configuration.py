"""MMPConfig: the paper's numbers by default, any encoder, contradictions refused."""

import pytest
from transformers import AutoConfig

from polyvid.modeling import MMPConfig
from tiny import BACKBONES, tiny_config


def test_the_defaults_are_the_papers():
    config = MMPConfig()
    assert (config.output_layer, config.freeze_below) == (12, 9)  # Tables 9 and 10
    assert (config.embed_dim, config.video_feature_dim) == (1024, 1024)
    assert (config.pooler_num_layers, config.pooler_num_heads, config.pooler_dropout) == (2, 4, 0.3)
    assert (config.temperature, config.mask_ratio, config.share_poolers) == (0.1, 0.05, False)
    assert config.video_positions == "none"  # App. C
    text = config.text_config
    assert (text.model_type, text.hidden_size, text.vocab_size) == ("xlm-roberta", 1024, 250002)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_backbone_is_cut_at_the_output_layer(backbone):
    text = tiny_config(backbone).text_config
    assert text.num_hidden_layers == 3
    assert len(getattr(text, "layer_types", None) or range(3)) == 3  # ModernBERT's list of layers is cut with them


def test_the_callers_backbone_configuration_stays_whole():
    text = AutoConfig.for_model(**BACKBONES["bert"])
    MMPConfig(text_config=text, output_layer=3, freeze_below=2)
    assert text.num_hidden_layers == 4


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_saved_configuration_comes_back_the_same(backbone, tmp_path):
    config = tiny_config(backbone, image_feature_dim=20, share_poolers=True, temperature=0.07)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict() | {"_name_or_path": str(tmp_path)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(output_layer=5), "output_layer=5 is deeper than the backbone: 'xlm-roberta' has 4 layers"),
        (dict(freeze_below=4), "freeze_below=4 must lie between 0 .* and output_layer=3"),
        (dict(embed_dim=18), "embed_dim=18 is not divisible by pooler_num_heads=4"),
        (dict(temperature=0.0), "temperature must be positive, got 0.0"),
        (dict(mask_ratio=1.0), r"mask_ratio must be in \[0, 1\), got 1.0"),
        (dict(pooler_dropout=-0.1), r"pooler_dropout must be in \[0, 1\)"),
        (dict(pooler_num_layers=0), "pooler_num_layers must be at least 1, got 0"),
        (dict(video_pooler_num_layers=0), "video_pooler_num_layers must be at least 1"),
        (dict(video_pooler_num_layers=1, share_poolers=True), "unset with share_poolers=True"),
        (dict(video_positions="learned"), "video_positions must be none or sinusoidal, got 'learned'"),
        (dict(video_positions="sinusoidal", image_feature_dim=20), "needs image_feature_dim unset: .* have no order"),
        (dict(image_feature_dim=10), "image_feature_dim=10 must be positive and differ from video_feature_dim=10"),
        (dict(embed_dim="wide"), "embed_dim"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        tiny_config(**fields)


def test_a_decoder_is_refused():
    with pytest.raises(Exception, match="'t5' has a decoder; MMP needs an encoder"):
        MMPConfig(text_config={"model_type": "t5", "num_layers": 12})
