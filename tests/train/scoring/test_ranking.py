"""The metric against a naive implementation, and what ties, many captions, blocks and collapsed models do to it."""

from math import comb, log2
from pathlib import Path

import numpy as np
import pytest
import torch

from polyvid.train.scoring.ranking import ranks_of_targets, retrieval_scores
from polyvid.train.scoring.significance import bootstrap_interval, paired_test

METRIC = Path(__file__).parents[3] / "train" / "scoring" / "text_video_retrieval"


def naive_rank(query, candidates, right) -> int:
    """Walk through the candidates: one that is wrong and not less similar than the best right one stands before it."""

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5

    best = max(cosine(query, candidates[i]) for i in right)
    return 1 + sum(cosine(query, candidate) >= best - 1e-6 for i, candidate in enumerate(candidates) if i not in right)


def test_it_equals_the_naive_implementation_on_thousands_of_cases_with_ties():
    """Small integers as coordinates make many exact ties; captions per video vary from none to many."""
    generator = np.random.default_rng(0)
    cases = ties = 0
    while cases < 3000:
        num_texts, num_videos, dim = generator.integers(1, 9), generator.integers(1, 9), generator.integers(1, 4)
        texts, videos = (generator.integers(-2, 3, (n, dim)) for n in (num_texts, num_videos))
        texts[~texts.any(1)] = 1
        videos[~videos.any(1)] = 1
        video_of_text = generator.integers(0, num_videos, num_texts)
        block = int(generator.integers(1, 200))

        to_video = ranks_of_targets(*map(torch.tensor, (texts, videos, video_of_text)), block_bytes=block)
        assert to_video.tolist() == [naive_rank(t, videos, {v}) for t, v in zip(texts, video_of_text, strict=True)]

        captioned = np.unique(video_of_text)
        to_text = ranks_of_targets(
            *map(torch.tensor, (videos[captioned], texts, captioned, video_of_text)), block_bytes=block
        )
        captions = [set(np.flatnonzero(video_of_text == video)) for video in captioned]
        assert to_text.tolist() == [naive_rank(videos[v], texts, c) for v, c in zip(captioned, captions, strict=True)]
        cases += num_texts + len(captioned)
        ties += len(np.unique(videos / np.linalg.norm(videos, axis=1, keepdims=True), axis=0)) < num_videos
    assert ties > 100


def test_scores_by_hand():
    scores = retrieval_scores(np.array([1, 2, 4, 20]))
    assert scores == {
        "R@1": 25.0,
        "R@5": 75.0,
        "R@10": 75.0,
        "MedR": 3.0,
        "MnR": 6.75,
        "MRR": pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 20) / 4),
        "nDCG@10": pytest.approx((1 + 1 / log2(3) + 1 / log2(5)) / 4),
    }


@pytest.mark.parametrize("dim", [7, 256, 1024])
def test_a_collapsed_model_scores_nothing(dim):
    """All embeddings equal, or multiples of each other: rounding must not break the ties in its favour."""
    one = torch.randn(dim, generator=torch.Generator().manual_seed(0))
    scale = torch.linspace(0.1, 30, 333)[:, None]
    scores = retrieval_scores(ranks_of_targets(one * scale, one * scale.flip(0), torch.arange(333)))
    assert scores["R@10"] == 0
    assert scores["MedR"] == 333


def test_blocks_of_any_size_give_the_same_ranks():
    generator = torch.Generator().manual_seed(0)
    texts, videos = torch.randn(50, 8, generator=generator), torch.randn(20, 8, generator=generator)
    video_of_text = torch.randint(0, 20, (50,), generator=generator)
    whole = ranks_of_targets(texts, videos, video_of_text)
    for block_bytes in (1, 80, 1000, 10**9):
        assert (ranks_of_targets(texts, videos, video_of_text, block_bytes=block_bytes) == whole).all()


def test_random_embeddings_score_by_chance():
    generator = torch.Generator().manual_seed(0)
    texts, videos = torch.randn(4000, 16, generator=generator), torch.randn(50, 16, generator=generator)
    scores = retrieval_scores(ranks_of_targets(texts, videos, torch.arange(4000) % 50))
    assert scores["R@1"] == pytest.approx(2, abs=1)
    assert scores["R@10"] == pytest.approx(20, abs=3)
    assert scores["MnR"] == pytest.approx(25.5, abs=1)


def test_nan_and_unknown_targets_are_refused_by_name():
    good, bad = torch.randn(4, 3), torch.randn(4, 3)
    bad[2, 1] = float("nan")
    with pytest.raises(ValueError, match="Query 2 has an embedding with NaN"):
        ranks_of_targets(bad, good, torch.arange(4))
    with pytest.raises(ValueError, match="Candidate 2 has an embedding with NaN"):
        ranks_of_targets(good, bad, torch.arange(4))
    with pytest.raises(ValueError, match="Query 3: there is no candidate with the id of its target, 4"):
        ranks_of_targets(good, good, torch.arange(1, 5))


def test_bootstrap_interval_of_a_proportion_is_the_binomial_one():
    ranks = np.where(np.arange(1000) < 200, 1, 7)  # R@1 = 20 %
    low, high = bootstrap_interval(ranks, "R@1")
    deviation = 100 * (0.2 * 0.8 / 1000) ** 0.5
    assert low == pytest.approx(20 - 1.96 * deviation, abs=0.3)
    assert high == pytest.approx(20 + 1.96 * deviation, abs=0.3)


def test_captions_of_one_video_do_not_make_the_interval_narrower():
    ranks = np.where(np.arange(200) < 40, 1, 7)
    alone = bootstrap_interval(ranks)
    copied = bootstrap_interval(np.repeat(ranks, 20), groups=np.repeat(np.arange(200), 20))
    assert copied == pytest.approx(alone, abs=1e-9)


@pytest.mark.parametrize(("wins", "losses"), [(9, 2), (5, 5), (12, 1), (3, 0)])
def test_paired_test_is_mcnemars_exact_test(wins, losses):
    ranks = np.array([1] * wins + [2] * losses + [1] * 10)
    others = np.array([2] * wins + [1] * losses + [1] * 10)
    difference, p = paired_test(ranks, others)
    assert difference == pytest.approx(100 * (wins - losses) / len(ranks))
    n, extreme = wins + losses, max(wins, losses)
    exact = min(1, 2 * sum(comb(n, k) for k in range(extreme, n + 1)) / 2**n)
    assert p == pytest.approx(exact, abs=0.015)


def test_a_run_does_not_differ_from_itself_and_runs_must_pair():
    ranks = np.array([1, 3, 2])
    assert paired_test(ranks, ranks, "MRR") == (0.0, 1.0)
    with pytest.raises(ValueError, match="different numbers of queries: 3 and 2"):
        paired_test(ranks, ranks[:2])
    with pytest.raises(ValueError, match="'MedR' is not a mean"):
        bootstrap_interval(ranks, "MedR")


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    evaluate = pytest.importorskip("evaluate")
    return evaluate.load(str(METRIC), cache_dir=str(tmp_path_factory.mktemp("evaluate")))


def test_the_evaluate_module_equals_sorting_where_there_are_no_ties(metric):
    generator = np.random.default_rng(0)
    similarity = generator.permutation(30 * 12).reshape(30, 12).astype(float)
    right = generator.integers(0, 12, 30)
    ranks = np.array([list(np.argsort(-row)).index(r) + 1 for row, r in zip(similarity, right, strict=True)])
    scores = metric.compute(predictions=similarity.tolist(), references=right.tolist())
    assert scores == retrieval_scores(ranks)
    assert list(scores) == ["R@1", "R@5", "R@10", "MedR", "MnR", "MRR", "nDCG@10"]


def test_the_evaluate_module_counts_ties_against_the_model_and_takes_batches(metric):
    metric.add_batch(predictions=[[0.5, 0.5], [0.5, 0.5]], references=[0, 1])
    metric.add(prediction=[0.9, 0.1], reference=0)
    scores = metric.compute()
    assert scores["R@1"] == pytest.approx(100 / 3)
    assert scores["MedR"] == 2


@pytest.mark.parametrize(
    ("rows", "references", "message"),
    [
        ([[1.0, 2.0], [1.0]], [0, 0], "rows have \\[1, 2\\] values"),
        ([[1.0, 2.0], [1.0, float("nan")]], [0, 0], "query 1 hold NaN"),
        ([[1.0, 2.0], [1.0, 3.0]], [0, 2], "Query 1: its right candidate is 2, but there are 2"),
    ],
)
def test_the_evaluate_module_refuses_what_it_cannot_rank(metric, rows, references, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=rows, references=references)
