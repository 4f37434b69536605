"""What an MMPModel returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class MMPOutput(ModelOutput):
    """What [`MMPModel.forward`] returns; an entry is `None` if the batch lacks what it needs.

    Embeddings are (batch, embed_dim) and not normalised: losses and search take their cosine.

    Args:
        loss: the sum of the objective's terms, with `return_loss=True`.
        loss_terms: `{"inter", "intra", "cross"}`, those that the batch has (Eq. 1-6).
        logits_per_text: (texts, videos) cosine similarities divided by the temperature; `logits_per_video` is its
            transpose.
        text_embeds, video_embeds: c_x and c_v (§3.1).
        noisy_text_embeds, noisy_video_embeds: of the masked views x^m and v^m (Eq. 3).
        pivot_embeds, noisy_pivot_embeds: c_y and its masked view, y a caption in another language (Eq. 4, 5).
        text_given_video_embeds, pivot_given_video_embeds: c_{x|v} and c_{y|v} (Eq. 6).
    """

    loss: torch.Tensor | None = None
    loss_terms: dict[str, torch.Tensor] | None = None
    logits_per_text: torch.Tensor | None = None
    logits_per_video: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    video_embeds: torch.Tensor | None = None
    noisy_text_embeds: torch.Tensor | None = None
    noisy_video_embeds: torch.Tensor | None = None
    pivot_embeds: torch.Tensor | None = None
    noisy_pivot_embeds: torch.Tensor | None = None
    text_given_video_embeds: torch.Tensor | None = None
    pivot_given_video_embeds: torch.Tensor | None = None
