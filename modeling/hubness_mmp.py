"""Two corrections of scores at search time, beyond the paper, which need no training: hubness and language offsets.

Some videos are near every query (hubs), and the queries of one language lie apart from those of another. Both are
measured with a bank of texts, such as the training captions; never with the queries of a test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

BETA = 20.0
"""Inverse temperature of Bogolin et al. (2022)."""
BLOCK = 1024


@dataclass(frozen=True)
class HubNumbers:
    """QB-Norm (Bogolin et al., CVPR 2022): how near each video is to the texts of a bank.

    The paper scores query q and video v by exp(β s(q, v)) / Σ_b exp(β s(b, v)), b in the bank. Its logarithm over β is
    s(q, v) less a number of the video, so that one number a video is enough. Here that number is
    (1 / β) log mean_b exp(β s(b, v)): a mean instead of a sum, which ranks the same and stays the size of a cosine.

    With the gate ("dynamic inverted softmax"), a query is corrected only if its nearest video is the nearest video of
    some text of the bank.

    Attributes:
        numbers: (videos,) float32, what is subtracted from the cosine.
        nearest: (videos,) bool, whether a text of the bank is nearest to this video.
        beta: > 0.
        gated: correct only the queries that pass the gate.
    """

    numbers: torch.Tensor
    nearest: torch.Tensor
    beta: float = BETA
    gated: bool = True

    @classmethod
    def of(
        cls, video_embeds: torch.Tensor, bank_embeds: torch.Tensor, beta: float = BETA, gated: bool = True
    ) -> HubNumbers:
        """From embeddings of videos (videos, dim) and of the bank's texts (texts, dim), normalised or not.

        Raises:
            ValueError: without a video or a text, or for a beta that is not positive.
        """
        dtype = torch.promote_types(video_embeds.dtype, torch.float32)
        videos = F.normalize(video_embeds.to(dtype), dim=-1)
        blocks = bank_embeds.split(BLOCK) if len(bank_embeds) else ()
        cosines = (F.normalize(block.to(dtype), dim=-1) @ videos.T for block in blocks)
        return cls.from_cosines(cosines, len(videos), beta, gated)

    @classmethod
    def from_cosines(cls, cosines: Iterable[torch.Tensor], videos: int, beta: float, gated: bool) -> HubNumbers:
        """From blocks of cosines (texts, videos), which together are those of the bank.

        Raises:
            ValueError: without a video or a text, or for a beta that is not positive.
        """
        if not beta > 0 or videos == 0:
            raise ValueError(f"beta must be positive, and videos and bank not empty; got {beta} and {videos} videos.")
        texts, sums, nearest = 0, None, None
        for similarity in cosines:
            part = (beta * similarity).logsumexp(0)
            sums = part if sums is None else torch.logaddexp(sums, part)
            nearest = torch.zeros_like(part, dtype=torch.bool) if nearest is None else nearest
            nearest[similarity.argmax(1)] = True
            texts += len(similarity)
        if sums is None or nearest is None:
            raise ValueError("beta must be positive, and videos and bank not empty; got no text.")
        return cls((sums - math.log(texts)) / beta, nearest, beta, gated)

    def __call__(self, similarity: torch.Tensor) -> torch.Tensor:
        """Corrected scores of cosines (queries, videos)."""
        numbers = self.numbers.to(similarity)
        if not self.gated:
            return similarity - numbers
        applies = self.nearest.to(similarity.device)[similarity.argmax(1)]  # (queries,)
        return similarity - applies[:, None] * numbers


def language_offsets(embeds: Mapping[str, torch.Tensor], to: str = "en") -> dict[str, torch.Tensor]:
    """Language → (dim,), the mean of its unit embeddings less that of the language `to`.

    Subtracting it from a query's unit embedding gives all languages the mean of `to`, to which the offset is 0: what
    is found in English stays as it is.

    Args:
        embeds: language → (texts, dim). Best of the same sentences in each language.

    Raises:
        ValueError: if there is no text in the language `to`, or none in another.
    """
    if to not in embeds or any(len(rows) == 0 for rows in embeds.values()):
        raise ValueError(f"Offsets need texts in {to} and in each other language; got {', '.join(embeds)}.")
    means = {language: F.normalize(rows.float(), dim=-1).mean(0) for language, rows in embeds.items()}
    return {language: mean - means[to] for language, mean in means.items()}


__all__ = ["BETA", "HubNumbers", "language_offsets"]
