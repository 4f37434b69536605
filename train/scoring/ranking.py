"""Retrieval scores from embeddings (§5.3): text to video and video to text, exact, in blocks."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.scoring.text_video_retrieval.ranks import ranks_in_rows, recall_at_k, retrieval_scores

__all__ = ["BLOCK_BYTES", "TIE", "ranks_of_targets", "recall_at_k", "retrieval_scores"]

TIE = 1e-6
"""Cosines closer than this count as ties: rounding alone can separate equal embeddings by so much."""

BLOCK_BYTES = 64 << 20
"""Bytes of the similarity matrix held in memory at a time."""


def ranks_of_targets(
    query_embeds: Tensor,
    candidate_embeds: Tensor,
    targets: Tensor,
    candidate_ids: Tensor | None = None,
    block_bytes: int = BLOCK_BYTES,
    corrected: Callable[[Tensor], Tensor] | None = None,
) -> np.ndarray:
    """The rank (1 = first) at which each query finds its target, by cosine; ties count against the model.

    With `candidate_ids`, several candidates may share an id, and the best of them counts. Text to video, with any
    number of captions per video, is `ranks_of_targets(texts, videos, video_of_text)`. Video to text is
    `ranks_of_targets(videos, texts, torch.arange(len(videos)), video_of_text)`: the best caption of the video is
    ranked among the captions of other videos.

    Args:
        query_embeds: (queries, dim), on any device, normalised or not.
        candidate_embeds: (candidates, dim).
        targets: (queries,) the id of each query's correct candidates.
        candidate_ids: (candidates,). Default: their indices.
        block_bytes: how much of the similarity matrix is held at a time.
        corrected: cosines (queries, candidates) → the scores that are ranked; not with `candidate_ids`.

    Returns:
        (queries,) int64.

    Raises:
        PolyvidError: if an embedding holds NaN or infinity.
        ValueError: if no candidate has the id of a target.
    """
    if corrected is not None and candidate_ids is not None:
        raise ValueError("Scores are corrected candidate by candidate: candidate_ids would mix them up.")
    for what, embeds in (("Query", query_embeds), ("Candidate", candidate_embeds)):
        finite = torch.isfinite(embeds.sum(1))
        if not finite.all():
            raise PolyvidError(f"{what} {int((~finite).nonzero()[0])} has an embedding with NaN or infinity.")
    ids = np.arange(len(candidate_embeds)) if candidate_ids is None else candidate_ids.cpu().numpy()
    wanted = targets.cpu().numpy()
    order = np.argsort(ids, kind="stable")  # makes the correct candidates of a query adjacent
    first, last = (np.searchsorted(ids[order], wanted, side) for side in ("left", "right"))
    if (first == last).any():
        query = int(np.argmax(first == last))
        raise ValueError(f"Query {query}: there is no candidate with the id of its target, {wanted[query]}.")
    candidates = F.normalize(candidate_embeds.float(), dim=-1)
    if candidate_ids is not None:
        candidates = candidates[torch.from_numpy(order).to(candidates.device)]
    rows = max(1, block_bytes // (4 * len(candidates)))
    ranks = []
    for start in range(0, len(wanted), rows):
        block = slice(start, start + rows)
        similarity = F.normalize(query_embeds[block].float(), dim=-1) @ candidates.T
        similarity = similarity if corrected is None else corrected(similarity)
        ranks.append(ranks_in_rows(similarity.cpu().numpy(), first[block], last[block], TIE))
    return np.concatenate(ranks)
