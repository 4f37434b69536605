"""Models that know the network that made their features, small enough for a test."""

from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

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
