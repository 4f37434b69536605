"""Ranks of right answers, and what is computed from them. Only numpy: the metric is published with this file alone."""

from collections.abc import Sequence

import numpy as np

RECALL_AT = (1, 5, 10)


def ranks_in_rows(similarity: np.ndarray, first: np.ndarray, last: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """The rank (1 = first) of the best right candidate in each row of similarities.

    Ties count against the model: all wrong candidates that are as similar as the right one stand before it. So a
    collapsed model, to which everything is equally similar, scores about zero, and not by chance of the sort order.
    Further right candidates of a query neither help nor hinder: only wrong ones are counted.

    Counting what is not below the right candidate takes one pass over a row, where sorting it takes many.

    Args:
        similarity: (queries, candidates).
        first, last: (queries,) the right candidates of query i are the columns `first[i]:last[i]`, at least one.
        tolerance: similarities that differ by no more than this are ties.

    Returns:
        (queries,) int64.

    >>> similarity = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.5]])  # the right candidates are 0 and 1
    >>> ranks_in_rows(similarity, np.array([0, 1]), np.array([1, 2])).tolist()
    [1, 3]
    """
    ranks = np.empty(len(similarity), dtype=np.int64)
    for row, (similarities, start, stop) in enumerate(zip(similarity, first, last, strict=True)):
        right = similarities[start:stop]
        bar = right.max() - tolerance
        ranks[row] = 1 + np.count_nonzero(similarities >= bar) - np.count_nonzero(right >= bar)
    return ranks


def recall_at_k(ranks: np.ndarray, at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """`{"R@1": percent, ...}` of queries whose right candidate is among the first k.

    >>> recall_at_k(np.array([1, 3, 7, 30]))
    {'R@1': 25.0, 'R@5': 50.0, 'R@10': 75.0}
    """
    return {f"R@{k}": 100 * float(np.mean(ranks <= k)) for k in at}


def gains_at_10(ranks: np.ndarray) -> np.ndarray:
    """Of each query 1 / log2(1 + rank), 0 from the eleventh place on.

    >>> gains_at_10(np.array([1, 3, 10, 11])).round(3).tolist()
    [1.0, 0.5, 0.289, 0.0]
    """
    return np.where(ranks <= 10, 1 / np.log2(1.0 + ranks), 0.0)


def retrieval_scores(ranks: np.ndarray, at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """`R@1 R@5 R@10` in percent (higher is better), `MedR` and `MnR`, the median and mean rank (lower is better), and
    `MRR` and `nDCG@10` between 0 and 1: the means of 1 / rank, and of 1 / log2(1 + rank) among the first ten, else 0.

    There is one right candidate for each query, or only the best counts, so that the ideal gain is 1: this is the score
    that MTEB reports.
    """
    return recall_at_k(ranks, at) | {
        "MedR": float(np.median(ranks)),
        "MnR": float(np.mean(ranks)),
        "MRR": float(np.mean(1 / ranks)),
        "nDCG@10": float(np.mean(gains_at_10(ranks))),
    }
