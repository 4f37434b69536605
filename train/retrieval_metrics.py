"""Text-to-video retrieval scores from embeddings (§5.3): recall at 1, 5 and 10, in percent."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RECALL_AT = (1, 5, 10)


def ranks_of_targets(query_embeds: Tensor, target_embeds: Tensor, targets: Tensor, block: int = 4096) -> Tensor:
    """The rank (1 = first) at which each query finds its target, by cosine.

    Ties count against the model: of candidates exactly as similar as the target, all stand before it. A collapsed
    model, for which everything is equally similar, scores about zero.

    Args:
        query_embeds: (queries, dim).
        target_embeds: (candidates, dim).
        targets: (queries,) index of each query's right candidate.
        block: queries compared at a time.

    Returns:
        (queries,) int64.
    """
    candidates = F.normalize(target_embeds.float(), dim=-1)
    ranks = []
    for queries, right in zip(query_embeds.split(block), targets.split(block), strict=True):
        similarity = F.normalize(queries.float(), dim=-1) @ candidates.T
        own = similarity.gather(1, right[:, None])
        ranks.append((similarity >= own).sum(1))
    return torch.cat(ranks)


def recall_at_k(ranks: Tensor, at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """`{"R@1": percent, ...}` of queries whose target is among the first k."""
    return {f"R@{k}": 100 * (ranks <= k).double().mean().item() for k in at}
