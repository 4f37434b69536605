"""The model and the batches of `make gpu`: the paper's, or small ones with which it runs on a CPU in seconds."""

from dataclasses import dataclass

import torch
from transformers import XLMRobertaConfig

from polyvid.modeling import MMPConfig, MMPModel


@dataclass(frozen=True)
class Shape:
    """What is measured."""

    width: int  # of the text backbone and the shared space
    vocabulary: int
    batch_size: dict[str, int]  # of each setting of training
    texts: int  # to embed, as many as videos
    windows: int  # of frames, in a batch of extraction
    side: int  # of a frame, pixels
    rows: tuple[int, ...]  # of the vectors to search
    repeats: int  # of which the median counts
    product: int  # rows and columns of the matrix product that stands for the device's peak


PAPER = Shape(1024, 250002, {"pre-training": 64, "fine-tuning": 128}, 1000, 32, 224, (1_000_000, 10_000_000), 10, 8192)
SMOKE = Shape(64, 500, {"pre-training": 2, "fine-tuning": 4}, 8, 1, 32, (1000, 2000), 1, 256)
SETTINGS = {"pre-training": (192, 128), "fine-tuning": (24, 30)}
"""Tokens and seconds of the longest row: the limits of App. C, and about the longest caption and video of VTT."""


def make_model(shape: Shape, device: torch.device, dropout: bool = True, seed: int = 0) -> MMPModel:
    """Random weights: 12 layers, of which nine are frozen."""
    text = XLMRobertaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=12,
        num_attention_heads=max(1, shape.width // 64),
        intermediate_size=4 * shape.width,
        max_position_embeddings=514,
        **({} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    )
    config = MMPConfig(text_config=text.to_dict(), embed_dim=shape.width, pooler_dropout=0.3 if dropout else 0.0)
    torch.manual_seed(seed)
    with device:
        return MMPModel(config)


def make_batch(
    rows: int, tokens: int, seconds: int, vocabulary: int, device: torch.device, noise: bool = True
) -> dict[str, torch.Tensor]:
    """Texts and videos from a third of the length to all of it, padded; with their noised views."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(max(3, tokens // 3), tokens + 1, (rows,), generator=generator)
    durations = torch.randint(max(1, seconds // 3), seconds + 1, (rows,), generator=generator)
    text_mask = (torch.arange(tokens) < lengths[:, None]).long()
    video_mask = (torch.arange(seconds) < durations[:, None]).long()
    ids = torch.randint(5, vocabulary, text_mask.shape, generator=generator) * text_mask + (1 - text_mask)
    videos = torch.randn(rows, seconds, 1024, generator=generator) * video_mask[..., None]
    batch = {"input_ids": ids, "attention_mask": text_mask, "video_features": videos, "video_mask": video_mask}
    if noise:
        hidden = (torch.rand(ids.shape, generator=generator) < 0.05) & text_mask.bool()
        blank = torch.rand(video_mask.shape, generator=generator) < 0.05
        batch["noisy_input_ids"] = ids.masked_fill(hidden, 4)
        batch["noisy_video_features"] = videos.masked_fill(blank[..., None], 0.0)
    return {name: value.to(device) for name, value in batch.items()}
