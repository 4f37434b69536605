"""The objectives against loops over the paper's equations, written independently in float64, and closed forms."""

import math

import pytest
import torch

from polyvid.modeling.losses_mmp import (
    FORMS,
    TERMS,
    MMPObjective,
    NonFiniteEmbeddingsError,
    distillation_loss,
    nce_loss,
    triplet_loss,
)

VIEWS = sorted({name for pairs in TERMS.values() for pair in pairs for name in pair})


def cosine(u, v):
    norms = u.norm() * v.norm()
    return u @ v / norms if norms > 0 else (u * v).sum()


def negatives_of(i, videos):
    return [j for j in range(len(videos)) if videos[j] != videos[i]]


def joint_by_the_book(a, b, videos, temperature=0.1):
    """Eq. 1-2 with the negatives of MIL-NCE."""
    total = 0
    for i in range(len(a)):
        positive = torch.exp(cosine(a[i], b[i]) / temperature)
        noise = sum(
            torch.exp(cosine(a[i], b[j]) / temperature) + torch.exp(cosine(a[j], b[i]) / temperature)
            for j in negatives_of(i, videos)
        )
        total -= torch.log(positive / (positive + noise))
    return total / len(a)


def symmetric_by_the_book(a, b, videos, temperature=0.1):
    total = 0
    for i in range(len(a)):
        candidates = [i, *negatives_of(i, videos)]
        positive = torch.exp(cosine(a[i], b[i]) / temperature)
        total -= torch.log(positive / sum(torch.exp(cosine(a[i], b[j]) / temperature) for j in candidates)) / 2
        total -= torch.log(positive / sum(torch.exp(cosine(a[j], b[i]) / temperature) for j in candidates)) / 2
    return total / len(a)


def hinges_by_the_book(a, b, videos, reduce, margin=0.2):
    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(a)):
        positive = cosine(a[i], b[i])
        for row in (True, False):
            other = [cosine(a[i], b[j]) if row else cosine(a[j], b[i]) for j in negatives_of(i, videos)]
            if other:
                total = total + reduce(torch.stack([(margin - positive + s).clamp(min=0) for s in other]))
    return total / len(a)


BY_THE_BOOK = {
    "joint": joint_by_the_book,
    "symmetric": symmetric_by_the_book,
    "triplet_hard": lambda a, b, videos: hinges_by_the_book(a, b, videos, torch.max),
    "triplet_all": lambda a, b, videos: hinges_by_the_book(a, b, videos, torch.sum),
}


def loss(form, a, b, video_index=None):
    if form.startswith("triplet"):
        return triplet_loss(a, b, negatives=form.removeprefix("triplet_"), video_index=video_index)
    return nce_loss(a, b, form=form, video_index=video_index)


def random_pair(batch=7, dim=5):
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(2, batch, dim, dtype=torch.float64, generator=generator)


def with_row(pair, row, value):
    pair = pair.clone()
    pair[0, row] = value
    return pair


INPUTS = {
    "random": random_pair(),
    "one pair": random_pair(batch=1),
    "two pairs": random_pair(batch=2),
    "scaled by 1e4": random_pair() * 1e4,
    "scaled by 1e-4": random_pair() * 1e-4,
    "duplicate rows": random_pair()[:, [0, 0, 1, 1, 1, 2]],
    "a equals b": random_pair()[:1].expand(2, -1, -1),
    "a opposes b": random_pair()[:1] * torch.tensor([1.0, -1.0]).double()[:, None, None],
    "a zero vector": with_row(random_pair(), 3, 0.0),
    "all zero": torch.zeros(2, 4, 3, dtype=torch.float64),
    "lengths far apart": random_pair() * torch.logspace(-6, 6, 7).double()[:, None],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", INPUTS)
def test_a_loss_equals_the_loop_over_its_equation(form, name):
    a, b = INPUTS[name]
    expected = BY_THE_BOOK[form](a, b, videos=range(len(a)))
    assert loss(form, a, b).item() == pytest.approx(expected.item(), abs=1e-6)
    assert loss(form, a.float(), b.float()).item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_its_gradient_equals_the_loops(form):
    pair = random_pair().requires_grad_()
    (expected,) = torch.autograd.grad(BY_THE_BOOK[form](*pair, videos=range(7)), pair)
    (actual,) = torch.autograd.grad(loss(form, *pair), pair)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_one_video_are_not_negatives_if_the_videos_are_given(form):
    a, b = random_pair()
    videos = [5, 9, 5, 7, 9, 5, 8]
    expected = BY_THE_BOOK[form](a, b, videos)
    assert loss(form, a, b, torch.tensor(videos)).item() == pytest.approx(expected.item(), abs=1e-6)
    assert loss(form, a, b, torch.zeros(7, dtype=torch.long)).item() == 0  # nothing left to tell apart


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_equal_similarities_cost_the_logarithm_of_the_number_of_terms(batch):
    ones = torch.ones(batch, 8, dtype=torch.float64)
    assert nce_loss(ones, ones).item() == pytest.approx(math.log(2 * batch - 1), abs=1e-6)
    assert nce_loss(ones, ones, form="symmetric").item() == pytest.approx(math.log(batch), abs=1e-6)
    assert triplet_loss(ones, ones, negatives="all").item() == pytest.approx(2 * 0.2 * (batch - 1), abs=1e-4)
    assert triplet_loss(ones, ones).item() == pytest.approx(2 * 0.2 * (batch > 1), abs=1e-6)


def test_orthogonal_pairs_cost_what_eq_2_says():
    eye = torch.eye(10)  # positives have cosine 1, all 18 negatives cosine 0
    assert nce_loss(eye, eye).item() == pytest.approx(math.log(1 + 18 * math.exp(-10)), rel=1e-3)
    assert nce_loss(eye, eye, temperature=1.0).item() == pytest.approx(math.log(1 + 18 / math.e), rel=1e-6)
    assert triplet_loss(eye, eye, margin=1.5).item() == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_vectors_of_any_length_have_a_finite_gradient(scale):
    a = (random_pair()[0].float() * scale).requires_grad_()
    b = random_pair()[1].float()
    value = nce_loss(a, b)
    value.backward()
    assert value.item() == pytest.approx(joint_by_the_book(a.detach().double(), b.double(), range(7)).item(), rel=1e-5)
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_are_compared_in_float32(dtype):
    a, b = (random_pair(batch=16, dim=64) * 1e3).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = nce_loss(a, b)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(joint_by_the_book(a.double(), b.double(), range(16)).item(), rel=1e-5)


def some_views(*names, batch=6, dim=4):
    generator = torch.Generator().manual_seed(0)
    views = {name: torch.randn(batch, dim, generator=generator, dtype=torch.float64) for name in VIEWS}
    return {name: views[name] for name in names}


def test_all_terms_with_a_pivot_language_are_eq_4_to_6():
    views = some_views(*VIEWS)

    def book(a, b):
        return joint_by_the_book(views[a], views[b], range(6)).item()

    terms = MMPObjective()(views)
    assert list(terms) == ["inter", "intra", "cross", "loss"]
    assert terms["inter"].item() == pytest.approx(
        book("text_embeds", "video_embeds") + book("pivot_embeds", "video_embeds"), abs=1e-6
    )
    assert terms["intra"].item() == pytest.approx(
        book("text_embeds", "noisy_text_embeds")
        + book("pivot_embeds", "noisy_pivot_embeds")
        + book("video_embeds", "noisy_video_embeds"),
        abs=1e-6,
    )
    assert terms["cross"].item() == pytest.approx(book("text_given_video_embeds", "pivot_given_video_embeds"), abs=1e-6)
    assert terms["loss"].item() == pytest.approx(sum(terms[t].item() for t in ("inter", "intra", "cross")))


def test_terms_follow_from_the_views_and_from_what_is_asked_for():
    clean = ["text_embeds", "video_embeds"]
    noised = [*clean, "noisy_text_embeds", "noisy_video_embeds"]
    assert list(MMPObjective()(some_views(*clean))) == ["inter", "loss"]
    assert list(MMPObjective()(some_views(*noised))) == ["inter", "intra", "loss"]
    # the rows of Table 3 that leave terms out although the views are there
    assert list(MMPObjective(terms=("inter",))(some_views(*noised))) == ["inter", "loss"]
    assert list(MMPObjective(terms=("inter", "intra"))(some_views(*VIEWS))) == ["inter", "intra", "loss"]


def test_the_triplet_rows_of_table_3_use_the_triplet_loss_in_every_term():
    views = some_views("text_embeds", "video_embeds", "noisy_text_embeds", "noisy_video_embeds")
    terms = MMPObjective(form="triplet_hard", margin=0.4)(views)
    assert terms["inter"].item() == pytest.approx(
        hinges_by_the_book(views["text_embeds"], views["video_embeds"], range(6), torch.max, margin=0.4).item()
    )
    assert terms["intra"] > 0


def test_align_is_the_loss_between_translations():
    views = some_views("text_embeds", "pivot_embeds")
    expected = joint_by_the_book(views["text_embeds"], views["pivot_embeds"], range(6)).item()
    terms = MMPObjective(terms=("align",))(views)
    assert list(terms) == ["align", "loss"] and terms["align"].item() == pytest.approx(expected, abs=1e-6)


def test_teach_is_the_squared_distance_of_unit_vectors_to_the_teachers():
    views = some_views("text_embeds", "pivot_embeds", "teacher_embeds")
    student, pivot, teacher = (
        [row / math.sqrt(sum(x * x for x in row)) for row in views[name].numpy()] for name in views
    )
    expected = sum(
        sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
        for rows in (student, pivot)
        for a, b in zip(rows, teacher, strict=True)
    )
    terms = MMPObjective(terms=("teach",))(views)
    assert terms["teach"].item() == pytest.approx(expected / 6, abs=1e-6)


def test_weights_are_factors_of_terms_in_the_sum():
    views = some_views("text_embeds", "pivot_embeds", "teacher_embeds", "video_embeds")
    terms = MMPObjective(terms=("inter", "align", "teach"), weights={"align": 0.25, "teach": 2.0})(views)
    assert terms["loss"].item() == pytest.approx((terms["inter"] + 0.25 * terms["align"] + 2 * terms["teach"]).item())
    with pytest.raises(ValueError, match="There is no term 'aling' to weight"):
        MMPObjective(weights={"aling": 2.0})


def c2kd_by_the_book(student, teachers, pool, temperature):
    """Lists of similarities: for each text the cross-entropy over videos, for each video the one over texts; means."""
    count = len(student)

    def softmax(row):
        powers = [math.exp(x / temperature) for x in row]
        return [power / sum(powers) for power in powers]

    def cross_entropy(wanted, found):
        return -sum(p * math.log(q) for p, q in zip(softmax(wanted), softmax(found), strict=True))

    pooled = [[pool([t[i][j] for t in teachers]) for j in range(count)] for i in range(count)]
    rows = sum(cross_entropy(pooled[i], student[i]) for i in range(count))
    columns = sum(
        cross_entropy([pooled[i][j] for i in range(count)], [student[i][j] for i in range(count)]) for j in range(count)
    )
    return (rows + columns) / count


def cosines(a, b):
    return [[cosine(x, y).item() for y in b] for x in a]


@pytest.mark.parametrize("pool, function", [("mean", lambda x: sum(x) / len(x)), ("max", max), ("min", min)])
def test_distill_is_c2kd_written_as_loops(pool, function):
    views = some_views("text_embeds", "video_embeds")
    generator = torch.Generator().manual_seed(5)
    of_texts, of_videos = torch.randn(2, 6, 3, 4, dtype=torch.float64, generator=generator)  # three teachers
    of_texts[:, 2, 2:], of_videos[:, 2, 2:] = 0, 0  # one of them is narrower
    teachers = [cosines(of_texts[:, t], of_videos[:, t]) for t in range(3)]
    expected = c2kd_by_the_book(cosines(*views.values()), teachers, function, temperature=0.2)
    objective = MMPObjective(
        terms=("inter", "distill"),
        distill_alpha=0.3,
        distill_temperature=0.2,
        distill_pool=pool,
        weights={"inter": 2.0},
    )
    terms = objective(views | {"teacher_text_embeds": of_texts, "teacher_video_embeds": of_videos})
    assert terms["distill"].item() == pytest.approx(expected, abs=1e-6)
    assert terms["loss"].item() == pytest.approx((0.3 * 2 * terms["inter"] + 0.7 * terms["distill"]).item(), abs=1e-6)


def test_translations_are_distilled_too_and_without_teachers_there_is_no_such_term():
    views = some_views("text_embeds", "video_embeds", "pivot_embeds")
    lessons = {
        name: torch.randn(6, 1, 4, dtype=torch.float64) for name in ("teacher_text_embeds", "teacher_video_embeds")
    }
    teachers = [cosines(*(embeds[:, 0] for embeds in lessons.values()))]
    expected = sum(
        c2kd_by_the_book(cosines(views[name], views["video_embeds"]), teachers, max, temperature=0.1)
        for name in ("text_embeds", "pivot_embeds")
    )
    assert MMPObjective(terms=("distill",))(views | lessons)["distill"].item() == pytest.approx(expected, abs=1e-6)
    assert list(MMPObjective(terms=("inter", "distill"))(views)) == ["inter", "loss"]


def test_a_student_that_agrees_with_its_teacher_has_no_gradient():
    similarity = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    loss, least = distillation_loss(similarity, similarity.detach()[None])
    torch.testing.assert_close(loss, least)
    (gradient,) = torch.autograd.grad(loss.sum(), similarity)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("form", FORMS)
def test_non_finite_embeddings_are_reported_with_term_and_row(bad, form):
    views = some_views("text_embeds", "video_embeds", "noisy_text_embeds", "noisy_video_embeds")
    views["noisy_video_embeds"][4, 1] = bad
    with pytest.raises(NonFiniteEmbeddingsError, match=r"intra: noisy_video_embeds row 4 of a global batch of 6") as e:
        MMPObjective(form=form)(views)
    assert e.value.rows == [4]
    terms = MMPObjective(form=form, raise_non_finite=False)(views)
    assert [term.isnan().item() for term in terms.values()] == [False, True, True]  # inter, intra, loss


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": 0}, "temperature must be greater than 0"),
        ({"temperature": -0.1}, "temperature must be greater than 0"),
        ({"temperature": float("nan")}, "temperature must be greater than 0"),
        ({"margin": -1}, "margin must not be negative"),
        ({"form": "clip"}, "choose from joint, symmetric, triplet_hard, triplet_all"),
        ({"terms": ("inter", "outer")}, "choose from inter, intra, cross"),
        ({"terms": ()}, "choose from inter, intra, cross"),
        ({"distill_alpha": 1.5}, "distill_alpha must lie between 0 and 1, but is 1.5"),
        ({"distill_temperature": 0.0}, "distill_temperature must be greater than 0"),
        ({"distill_pool": "median"}, "choose from mean, max, min"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MMPObjective(**options)


def test_input_that_does_not_pair_is_refused_with_its_shapes():
    with pytest.raises(ValueError, match=r"'text_embeds': \(4, 8\), 'video_embeds': \(5, 8\)"):
        nce_loss(torch.ones(4, 8), torch.ones(5, 8))
    with pytest.raises(ValueError, match="not empty"):
        nce_loss(torch.ones(0, 8), torch.ones(0, 8))
    with pytest.raises(ValueError, match="choose joint or symmetric"):
        nce_loss(torch.ones(4, 8), torch.ones(4, 8), form="triplet_hard")
    with pytest.raises(ValueError, match="choose hard or all"):
        triplet_loss(torch.ones(4, 8), torch.ones(4, 8), negatives="soft")
    with pytest.raises(ValueError, match="temperature"):
        nce_loss(torch.ones(4, 8), torch.ones(4, 8), temperature=0)
    with pytest.raises(ValueError, match="No embeddings for any of the terms inter, intra, cross; got text_embeds"):
        MMPObjective()(some_views("text_embeds"))
    with pytest.raises(ValueError, match="video_index"):
        MMPObjective(mask_same_video=True)(some_views("text_embeds", "video_embeds"))
