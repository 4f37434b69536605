"""Models that know the network that made their features, small enough for a test."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from polyvid.modeling.frame_encoders_mmp import EFFICIENTNET
from polyvid.train.extraction.bundling import bundle_encoders
from polyvid.train.search.frames import load_encoders
from tiny import tiny_model, tiny_processor


def save_models(folder: Path) -> None:
    """Writes `network`, an image network, `model`, made for its features, and `silent`, which does not say so."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    CLIPVisionModel(config).save_pretrained(folder / "network")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder / "network"
    )
    silent = tiny_model(video_feature_dim=16)
    records = load_encoders(silent, [str(folder / "network")]).records
    for name, encoders in (("model", records), ("silent", None)):
        tiny_model(video_feature_dim=16, video_encoders=encoders).save_pretrained(folder / name)
        tiny_processor(feature_size=16).save_pretrained(folder / name)


def save_model_with_its_network(folder: Path, words: Sequence[str] = ()) -> None:
    """Writes a model as those of the demo are, with EfficientNet-Lite0 in its folder; it knows these words, too."""
    model = tiny_model(video_feature_dim=1280)
    model.config.video_encoders = load_encoders(model, [EFFICIENTNET]).records
    model.save_pretrained(folder)
    processor = tiny_processor(feature_size=1280, feature_power=0.5)
    processor.tokenizer.add_tokens(list(words))
    processor.save_pretrained(folder)
    assert bundle_encoders(model.config.video_encoders, folder)
