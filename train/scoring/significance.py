"""How sure a retrieval score is: bootstrap intervals, and a paired test between two runs.

Both resample videos, not captions: the captions of one video tend to succeed or fail together, and treating them as
independent would make intervals too narrow.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.scoring.text_video_retrieval.ranks import gains_at_10

BLOCK = 4 << 20
"""Random numbers drawn at a time."""


def per_query_score(ranks: np.ndarray, score: str) -> np.ndarray:
    """The value per query whose mean is `R@k` (percent), `MRR`, `nDCG@10` or `MnR`.

    Raises:
        PolyvidError: for a score that is not a mean over queries, such as MedR.
    """
    if score.startswith("R@") and score[2:].isdigit():
        return 100.0 * (ranks <= int(score[2:]))
    if score == "MRR":
        return 1.0 / ranks
    if score == "nDCG@10":
        return gains_at_10(ranks)
    if score == "MnR":
        return ranks.astype(float)
    raise PolyvidError(f"{score!r} is not a mean over queries: choose R@1, R@5, R@10, MRR, nDCG@10 or MnR.")


def bootstrap_interval(
    ranks: np.ndarray,
    score: str = "R@1",
    groups: Sequence[Any] | np.ndarray | None = None,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a score.

    Args:
        ranks: (queries,).
        groups: (queries,) each query's video id; a video is drawn with all its queries. Default: draw single queries.
        samples: number of bootstrap samples.

    Returns:
        Lower and upper bound, in the unit of the score.
    """
    values, counts = _by_group(per_query_score(ranks, score), groups)
    generator = np.random.default_rng(seed)
    means = []
    for done in range(0, samples, rows := max(1, BLOCK // len(values))):
        size = min(rows, samples - done)
        drawn = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=size)
        means.append(drawn @ values / (drawn @ counts))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(
    ranks: np.ndarray,
    other_ranks: np.ndarray,
    score: str = "R@1",
    groups: Sequence[Any] | np.ndarray | None = None,
    samples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """The difference between two runs on the same queries, and its two-sided p-value by paired randomisation.

    Under the null hypothesis the two runs are exchangeable for each video, so the sign of each video's difference is
    flipped at random (Noreen 1989). For R@k with one query per video this is a Monte Carlo version of McNemar's exact
    test.

    Args:
        ranks, other_ranks: (queries,) in the same order.
        groups: (queries,) each query's video id.

    Returns:
        Score of `ranks` minus score of `other_ranks`, and p (at least 1 / (samples + 1)).

    Raises:
        ValueError: if the runs have different numbers of queries.

    Example: one run finds five more of ten queries than the other. Flipping five signs gives so large a difference in
    2 of 32 cases.

    >>> difference, p = paired_test(np.array([1] * 10), np.array([1] * 5 + [9] * 5))
    >>> print(f"{difference:.0f} points, p below 0.1: {p < 0.1}")
    50 points, p below 0.1: True
    """
    if len(ranks) != len(other_ranks):
        raise ValueError(f"The runs have different numbers of queries: {len(ranks)} and {len(other_ranks)}.")
    differences, _ = _by_group(per_query_score(ranks, score) - per_query_score(other_ranks, score), groups)
    observed = differences.sum()
    differences = differences[differences != 0]
    generator = np.random.default_rng(seed)
    as_large = 0
    for done in range(0, samples, rows := max(1, BLOCK // max(1, len(differences)))):
        signs = generator.integers(0, 2, size=(min(rows, samples - done), len(differences))) * 2 - 1
        as_large += int((np.abs(signs @ differences) >= abs(observed) - 1e-9).sum())
    return float(observed / len(ranks)), (as_large + 1) / (samples + 1)


def _by_group(values: np.ndarray, groups: Sequence[Any] | np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of the values in each group."""
    if groups is None:
        return values, np.ones(len(values))
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index).astype(float)
