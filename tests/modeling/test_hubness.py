"""QB-Norm and language offsets against loops over their equations."""

import math

import pytest
import torch

from polyvid.modeling.hubness_mmp import HubNumbers, language_offsets


def random(rows, dim=6, seed=0):
    return torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.dist(a, [0] * len(a)) / math.dist(b, [0] * len(b))


def by_the_book(queries, videos, bank, beta, gated):
    """The scores exp(β s(q, v)) / Σ_b exp(β s(b, v)) of Bogolin et al., and for a query that is not corrected s."""
    activation_set = {max(range(len(videos)), key=lambda v: cosine(b, videos[v])) for b in bank}
    found = []
    for query in queries:
        plain = [cosine(query, video) for video in videos]
        if gated and plain.index(max(plain)) not in activation_set:
            found.append(plain)
            continue
        sums = [sum(math.exp(beta * cosine(b, video)) for b in bank) for video in videos]
        found.append([math.exp(beta * s) / total for s, total in zip(plain, sums, strict=True)])
    return found


@pytest.mark.parametrize("beta", [20.0, 3.0])
@pytest.mark.parametrize("gated", [True, False])
def test_corrected_scores_are_the_logarithm_of_qb_norms_and_rank_the_same(gated, beta):
    queries, videos, bank = random(40, seed=1), random(9, seed=2), random(5, seed=3)
    similarity = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(videos, dim=1).T
    numbers = HubNumbers.of(videos, bank, beta, gated)
    found = numbers(similarity)
    expected = by_the_book(queries.tolist(), videos.tolist(), bank.tolist(), beta, gated)
    corrected = 0
    for row, book, plain in zip(found.tolist(), expected, similarity.tolist(), strict=True):
        if max(abs(a - b) for a, b in zip(book, plain, strict=True)) < 1e-9:
            assert row == pytest.approx(plain, abs=1e-12)
            continue
        corrected += 1
        logarithms = [math.log(score) / beta + math.log(len(bank)) / beta for score in book]
        assert row == pytest.approx(logarithms, abs=1e-6)
        assert sorted(range(9), key=row.__getitem__) == sorted(range(9), key=book.__getitem__)
    assert (0 < corrected < 40) if gated else corrected == 40  # both kinds of queries were tried


def test_a_bank_in_blocks_gives_the_same_numbers(monkeypatch):
    videos, bank = random(9), random(23, seed=1)
    whole = HubNumbers.of(videos, bank)
    monkeypatch.setattr("polyvid.modeling.hubness_mmp.BLOCK", 4)
    parts = HubNumbers.of(videos, bank)
    torch.testing.assert_close(parts.numbers, whole.numbers)
    assert torch.equal(parts.nearest, whole.nearest)


def test_a_hub_loses_what_all_texts_give_it():
    videos = torch.eye(3, dtype=torch.float64)
    bank = torch.tensor([[1.0, 0.1, 0.1], [1.0, 0.2, 0.0], [1.0, 0.0, 0.2]]).double()  # video 0 is near all of them
    query = torch.tensor([[0.9, 0.8, 0.0]]).double()
    similarity = query @ videos.T / query.norm()
    assert similarity.argmax() == 0
    assert HubNumbers.of(videos, bank)(similarity).argmax() == 1


@pytest.mark.parametrize("beta, videos, bank", [(0.0, 3, 3), (float("nan"), 3, 3), (20.0, 0, 3), (20.0, 3, 0)])
def test_senseless_input_is_refused(beta, videos, bank):
    with pytest.raises(ValueError, match="beta must be positive, and videos and bank not empty"):
        HubNumbers.of(random(videos), random(bank), beta)


def test_offsets_move_the_mean_of_each_language_to_englishs():
    embeds = {language: random(7, seed=seed) + seed for seed, language in enumerate(("en", "de", "sw"))}
    offsets = language_offsets(embeds)
    assert not offsets["en"].any()
    for language, rows in embeds.items():
        expected = [
            sum(row[d] / math.dist(row, [0] * 6) for row in rows.tolist()) / 7
            - sum(row[d] / math.dist(row, [0] * 6) for row in embeds["en"].tolist()) / 7
            for d in range(6)
        ]
        assert offsets[language].tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="Offsets need texts in en"):
        language_offsets({"de": random(3)})
