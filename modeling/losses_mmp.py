"""The contrastive objectives of the paper (§3.2, §3.3, Eq. 1-6) and the triplet losses it is compared with (Table 3).

Three terms go beyond the paper. Two need no video: `align`, a contrastive loss between translations, and `teach`, the
distance to a frozen teacher's embedding of the English sentence. `distill` lets a text in any language find the videos
that frozen teachers find with its English original.

Everything here is a function of embeddings and knows nothing of models. Read it in this order: `MMPObjective` (which
pairs make which term), `FORMS` (what one pair of embedding matrices costs), `_gather` (how the batches of several
processes become one).
"""

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .errors_mmp import PolyvidError

TERMS = {
    # Eq. 1 and, with a pivot language, Eq. 4
    "inter": (("text_embeds", "video_embeds"), ("pivot_embeds", "video_embeds")),
    # Eq. 3 and, with a pivot language, Eq. 5
    "intra": (
        ("text_embeds", "noisy_text_embeds"),
        ("pivot_embeds", "noisy_pivot_embeds"),
        ("video_embeds", "noisy_video_embeds"),
    ),
    # Eq. 6
    "cross": (("text_given_video_embeds", "pivot_given_video_embeds"),),
    # Beyond the paper. Translations of one sentence are each other's positives; no video takes part.
    "align": (("text_embeds", "pivot_embeds"),),
    # Teacher learning, as M-CLIP has it (Carlsson et al., 2022): embeddings of a sentence in any language are drawn to
    # what a frozen teacher makes of it in English.
    "teach": (("text_embeds", "teacher_embeds"), ("pivot_embeds", "teacher_embeds")),
    # C2KD (Rouditchenko et al., 2023), see `distillation_loss`; only with the embeddings of teachers.
    "distill": (("text_embeds", "video_embeds"), ("pivot_embeds", "video_embeds")),
}
"""The pairs of embeddings whose losses are summed into each term."""

PAPER_TERMS = ("inter", "intra", "cross")
FORM_OF_TERM = {"teach": "squared"}  # all others have the objective's own form
TEACHER_EMBEDS = ("teacher_embeds", "teacher_text_embeds", "teacher_video_embeds")
"""These come with the batch, not from the model: constants without gradient."""
POOLS = ("mean", "max", "min")


def nce_loss(
    a: Tensor, b: Tensor, temperature: float = 0.1, form: str = "joint", video_index: Tensor | None = None
) -> Tensor:
    """Noise contrastive estimation between paired embeddings, Eq. 1-2.

    Similarity is the cosine divided by the temperature (0.1, App. C). `form="joint"` follows MIL-NCE (Miech et al.,
    2020), which the paper cites for its negatives: for pair i ONE softmax over its positive (a_i, b_i), counted once,
    and all (a_i, b_j) and (a_j, b_i), j != i. `form="symmetric"` is CLIP's mean of two cross-entropies, for comparison.

    Args:
        a: `(batch, dim)`, normalised or not. A zero vector has cosine 0 with everything.
        b: `(batch, dim)`; row i is the positive of row i of `a`.
        temperature: > 0.
        form: `"joint"` or `"symmetric"`.
        video_index: `(batch,)` integers, equal where two rows show the same video; such rows are then not each
            other's negatives. None: every other row is a negative, as in the paper.

    Returns:
        The scalar mean over pairs, in float32 (float64 for float64 input) also under autocast.

    Raises:
        ValueError: for a temperature that is not positive, an unknown form or shapes that do not pair.

    Example: where everything is equally similar, each of the 2 * batch - 1 pairs of a softmax is as likely.

    >>> same = torch.ones(4, 8)
    >>> print(f"{nce_loss(same, same):.4f} = log 7, {nce_loss(same, same, form='symmetric'):.4f} = log 4")
    1.9459 = log 7, 1.3863 = log 4
    """
    if form not in ("joint", "symmetric"):
        raise ValueError(f"Unknown form of the NCE loss {form!r}: choose joint or symmetric.")
    return _loss_of_pair(a, b, video_index, form=form, temperature=temperature)


def triplet_loss(
    a: Tensor, b: Tensor, margin: float = 0.2, negatives: str = "hard", video_index: Tensor | None = None
) -> Tensor:
    """Bidirectional max-margin loss on the cosine, the "Triplet" rows of Table 3.

    For pair i: the hinges max(0, margin + s(a_i, b_j) - s(a_i, b_i)) and max(0, margin + s(a_j, b_i) - s(a_i, b_i)),
    either of the hardest j in the batch in each direction (`negatives="hard"`, Faghri et al., 2018) or summed over
    all j != i (`"all"`, Kiros et al., 2014); the mean over i. The paper names neither the margin nor the negatives:
    0.2 is the margin of the works it cites.

    Args, returns and errors are those of `nce_loss`; `margin` must not be negative.

    Example: two pairs that point in orthogonal directions are further apart than the margin; two equal ones are not,
    and pay the margin in both directions.

    >>> print(f"{triplet_loss(torch.eye(2), torch.eye(2)):.1f}")
    0.0
    >>> print(f"{triplet_loss(torch.ones(2, 2), torch.ones(2, 2)):.1f}")
    0.4
    """
    if negatives not in ("hard", "all"):
        raise ValueError(f"Unknown negatives of the triplet loss {negatives!r}: choose hard or all.")
    return _loss_of_pair(a, b, video_index, form=f"triplet_{negatives}", margin=margin)


def distillation_loss(
    similarity: Tensor, teachers: Tensor, temperature: float = 0.1, pool: str = "mean"
) -> tuple[Tensor, Tensor]:
    """C2KD (Rouditchenko et al., ICASSP 2023): which videos a text finds, and which texts a video, as teachers say.

    For each row i of a similarity matrix S, the cross-entropy of softmax(S_i / τ) to softmax(T_i / τ), where T are the
    teachers' similarities, pooled entry by entry. Called with texts in rows and again with videos in rows; the term
    `distill` is the sum of both. It differs from the Kullback-Leibler divergence in the authors' code by a constant.

    Args:
        similarity: (rows, columns), cosines of the student: a text in any language and a video.
        teachers: (teachers, rows, columns), cosines of each teacher: the same text in English and the same video.
        temperature: τ > 0; 0.1 in the paper.
        pool: `"mean"`, `"max"` or `"min"` of the teachers. The paper's scripts say min, where their code takes max.

    Returns:
        The cross-entropy of each row, (rows,), and the entropy of the teachers' distribution, its least value.

    Example: a student that agrees with its teacher pays the teacher's entropy.

    >>> agreed = torch.zeros(2, 4)
    >>> loss, least = distillation_loss(agreed, agreed[None])
    >>> print(f"{loss[0]:.4f} = {least[0]:.4f} = log 4")
    1.3863 = 1.3863 = log 4
    """
    pooled = teachers.mean(0) if pool == "mean" else teachers.amax(0) if pool == "max" else teachers.amin(0)
    wanted = (pooled / temperature).log_softmax(1)
    found = (similarity / temperature).log_softmax(1)
    return -(wanted.exp() * found).sum(1), -(wanted.exp() * wanted).sum(1)


def _loss_of_pair(a: Tensor, b: Tensor, video_index: Tensor | None, **options: Any) -> Tensor:
    objective = MMPObjective(**options, mask_same_video=video_index is not None, gather=False)
    return objective({"text_embeds": a, "video_embeds": b}, video_index)["loss"]


class MMPObjective:
    """The training objective: inter-modal, intra-modal and cross-lingual terms and their sum (§3.2, §3.3).

    Called with a model's outputs, it returns `{"inter", "intra", "cross", "loss"}`, scalars with graph. A term is
    the sum of the losses of those of its pairs (`TERMS`) whose two embeddings are given; a term without any is left
    out. So the outputs decide: no noised views, no `intra`; no pivot language, no `cross`.

    `align` and `teach` compare texts with texts. `align` has the same form as the other terms, between a sentence and
    its translation. `teach` is the squared distance of unit vectors, ‖a - b‖² = 2 - 2 cos(a, b), to a teacher's.

    In a job of several processes the pairs of all of them are gathered with gradient and are each other's negatives.
    A process gets the share of its own rows, scaled so that the *mean* over processes is the loss of the global batch:
    DDP, which averages gradients, then yields exactly the gradient of one process with the whole batch, even if the
    processes hold different numbers of rows. Every process must make the call, with at least one row.

    Args:
        form: `"joint"` (Eq. 2), `"symmetric"`, `"triplet_hard"` or `"triplet_all"`; see `nce_loss`, `triplet_loss`.
        temperature: > 0, for the NCE forms.
        margin: >= 0, for the triplet forms.
        terms: which terms to compute, of `TERMS`; by default those of the paper, of which Table 3 leaves some out.
        weights: factors of terms in the sum, 1 by default. The terms themselves are returned without them.
        distill_alpha: α of C2KD: with the term `distill`, the loss is α times the sum of all others plus 1 - α times
            this one.
        distill_temperature, distill_pool: of the term `distill`, see `distillation_loss`.
        mask_same_video: two rows that show the same video are not each other's negatives (needs `video_index`). Off
            by default, as in the paper, where such rows are rare (1.2 pairs in a batch of 128 from VTT's 6,513 videos)
            and because we saw no gain beyond noise: trained on 700 emoji clips in three languages, one seed, mean
            R@1/R@10 went from 4.8/22.2 to 4.9/23.2 with 2 such pairs a batch of 64, from 3.5/21.8 to 3.1/22.5 with 63.
        gather: False uses only this process's rows, even if there are other processes.
        raise_non_finite: False: terms are NaN where an embedding is, on the process that holds the row at least, and
            nothing waits for the device.
        group: a group of all processes with a CPU backend, through which they exchange their numbers of rows without
            waiting for an accelerator. None: the default group.

    Raises:
        PolyvidError: for a temperature that is not positive, a negative margin, an unknown form or term.
    """

    def __init__(
        self,
        form: str = "joint",
        temperature: float = 0.1,
        margin: float = 0.2,
        terms: tuple[str, ...] = PAPER_TERMS,
        mask_same_video: bool = False,
        gather: bool = True,
        raise_non_finite: bool = True,
        group: dist.ProcessGroup | None = None,
        weights: Mapping[str, float] | None = None,
        distill_alpha: float = 0.5,
        distill_temperature: float = 0.1,
        distill_pool: str = "mean",
    ):
        if form not in FORMS:
            raise PolyvidError(f"Unknown form of the objective {form!r}: choose from {', '.join(FORMS)}.")
        if not temperature > 0:
            raise PolyvidError(f"The temperature must be greater than 0, not {temperature}.")
        if not margin >= 0:
            raise PolyvidError(f"The margin must not be negative, but is {margin}.")
        if not terms or set(terms) - set(TERMS):
            raise PolyvidError(f"Unknown terms of the objective {terms!r}: choose from {', '.join(TERMS)}.")
        self.form, self.terms = form, tuple(terms)
        self.scale = margin if form.startswith("triplet") else temperature
        self.mask_same_video, self.gather = mask_same_video, gather
        self.raise_non_finite, self.group = raise_non_finite, group
        self.weights = {term: weight for term, weight in (weights or {}).items() if weight != 1}
        if unknown := sorted(set(self.weights) - set(TERMS)):
            raise PolyvidError(f"There is no term {unknown[0]!r} to weight: choose from {', '.join(TERMS)}.")
        if not 0 <= distill_alpha <= 1:
            raise PolyvidError(f"distill_alpha must lie between 0 and 1, but is {distill_alpha}.")
        if not distill_temperature > 0:
            raise PolyvidError(f"distill_temperature must be greater than 0, not {distill_temperature}.")
        if distill_pool not in POOLS:
            raise PolyvidError(f"Unknown distill_pool {distill_pool!r}: choose from {', '.join(POOLS)}.")
        self.distill_temperature, self.distill_pool = distill_temperature, distill_pool
        if "distill" in self.terms:
            factors = {term: (1 - distill_alpha) if term == "distill" else distill_alpha for term in self.terms}
            self.weights = {term: factor * self.weights.get(term, 1.0) for term, factor in factors.items()}

    def __call__(self, outputs: Mapping[str, Tensor], video_index: Tensor | None = None) -> dict[str, Tensor]:
        """The terms of one batch.

        Args:
            outputs: a model's output or a dict with embeddings `(batch, dim)` under the names in `TERMS`. For
                `distill` also `teacher_text_embeds` and `teacher_video_embeds` `(batch, teachers, width)`; narrower
                ones of several teachers are filled up with zeros, which no cosine sees.
            video_index: `(batch,)` integers, equal where two rows show the same video, on all processes alike.

        Raises:
            NonFiniteEmbeddingsError: if an embedding holds NaN or infinity, on every process; nothing was computed.
                Not with `raise_non_finite=False`.
            PolyvidError: if no term has its embeddings, as `cross` without pivots.
            ValueError: if shapes do not fit, or `mask_same_video` lacks `video_index`.
        """
        pairs = {
            term: present
            for term in self.terms
            if (present := [p for p in TERMS[term] if all(outputs.get(name) is not None for name in p)])
        }
        if any(outputs.get(name) is None for name in TEACHER_EMBEDS[1:]):
            pairs.pop("distill", None)
        taught = "distill" in pairs
        if not pairs:
            raise PolyvidError(f"No embeddings for any of the terms {', '.join(self.terms)}; got {', '.join(outputs)}.")
        if self.mask_same_video and video_index is None:
            raise ValueError("mask_same_video needs the batch's video_index.")

        embeds = {name: outputs[name] for term in pairs.values() for pair in term for name in pair}
        shapes = {name: tuple(tensor.shape) for name, tensor in embeds.items()}
        if len(set(shapes.values())) > 1 or any(len(shape) != 2 or 0 in shape for shape in shapes.values()):
            raise ValueError(f"Embeddings must all have one shape (batch, dim), not empty; got {shapes}.")

        device = next(iter(embeds.values())).device
        sizes = rows_per_process(len(next(iter(embeds.values()))), device, self.group) if self.gather else None
        # Autocast would run the similarities in bfloat16, where 1 / temperature leaves them two digits.
        with torch.autocast(device.type, enabled=False):
            own = torch.stack([_normalize(tensor) for tensor in embeds.values()])  # (embeddings, batch, dim)
            everyone, start = _gather(own, sizes)  # (embeddings, global batch, dim)
            # The one look at values: each entry is at most 1, so a sum is finite if and only if all of it is.
            if self.raise_non_finite and not all(finite := everyone.detach().sum(dim=(1, 2)).isfinite().tolist()):
                bad = {name: tensor for name, tensor, ok in zip(embeds, everyone, finite, strict=True) if not ok}
                raise NonFiniteEmbeddingsError(bad, pairs, range(start, start + own.shape[1]))

            # (batch, global batch), true at (i, j) where j is not a negative of i: itself, or the same video
            ignored = torch.ones(own.shape[1], everyone.shape[1], dtype=torch.bool, device=device)
            ignored = ignored.triu(start).tril(start)
            if self.mask_same_video and video_index is not None:
                index = video_index.to(device)[None, :, None]
                ignored = index[0] == _gather(index, sizes)[0][0].T

            ours, theirs = dict(zip(embeds, own, strict=True)), dict(zip(embeds, everyone, strict=True))

            teachers_say = self._teachers_say([outputs[name] for name in TEACHER_EMBEDS[1:]], sizes) if taught else []

            def loss(form: str, a: str, b: str) -> Tensor:
                rows, columns = ours[a] @ theirs[b].T, ours[b] @ theirs[a].T  # s(a_i, b_j), s(a_j, b_i)
                negatives = torch.stack([rows, columns]).masked_fill(ignored, float("-inf"))
                losses = ALL_FORMS[form](rows.diagonal(start), negatives, self.scale)  # (batch,)
                # The mean of this over processes is the mean of the losses over the global batch.
                return losses.sum() * (len(sizes or [1]) / everyone.shape[1])

            def distill(a: str, b: str) -> Tensor:
                rows, columns = ours[a] @ theirs[b].T, ours[b] @ theirs[a].T
                losses = _sum(
                    distillation_loss(own, teachers, self.distill_temperature, self.distill_pool)[0]
                    for own, teachers in zip((rows, columns), teachers_say, strict=True)
                )
                return losses.sum() * (len(sizes or [1]) / everyone.shape[1])

            terms = {
                term: _sum(
                    distill(a, b) if term == "distill" else loss(FORM_OF_TERM.get(term, self.form), a, b)
                    for a, b in present
                )
                for term, present in pairs.items()
            }
            weighted = (value * self.weights[term] if term in self.weights else value for term, value in terms.items())
            return terms | {"loss": _sum(weighted)}

    def _teachers_say(self, lessons: list[Tensor], sizes: list[int] | None) -> list[Tensor]:
        """Cosines of teachers, (teachers, batch, global batch): of own texts and all videos, and the reverse.

        `lessons` are embeddings of texts and of videos, each (batch, teachers, width).
        """
        own = torch.stack([_normalize(embeds) for embeds in lessons]).transpose(1, 2)  # (2, teachers, batch, width)
        everyone = _gather(own.flatten(0, 1), sizes)[0].unflatten(0, own.shape[:2])
        return [own[0] @ everyone[1].mT, own[1] @ everyone[0].mT]


class NonFiniteEmbeddingsError(ArithmeticError):
    """NaN or infinity in a batch's embeddings; raised before anything was differentiated, on every process.

    Attributes:
        rows: indices of the bad rows among this process's own rows.
    """

    def __init__(self, bad: dict[str, Tensor], pairs: dict[str, list[tuple[str, str]]], own_rows: range):
        parts, rows = [], set()
        for name, tensor in bad.items():
            terms = [term for term, present in pairs.items() if any(name in pair for pair in present)]
            where = (~tensor.isfinite()).any(dim=1).nonzero().flatten().tolist()
            rows |= {row - own_rows.start for row in where if row in own_rows}
            shown = ", ".join(map(str, where[:8])) + (", ..." if len(where) > 8 else "")
            parts.append(f"{' and '.join(terms)}: {name} row {shown}")
        self.rows = sorted(rows)
        super().__init__(
            f"NaN or infinity in the embeddings of {len(bad)} input(s) of the objective ({'; '.join(parts)} of a "
            f"global batch of {next(iter(bad.values())).shape[0]}). No gradient was computed. Look for NaN in these "
            "rows' features, or lower the learning rate."
        )


# What the pairs cost, `(batch,)`. `pairs` `(batch,)` are the similarities s(a_i, b_i); `negatives` `(2, batch, global
# batch)` the similarities s(a_i, b_j) and s(a_j, b_i), -inf where j does not count.


def _joint(pairs: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    return (torch.cat([pairs[:, None], *negatives], dim=1) / temperature).logsumexp(dim=1) - pairs / temperature


def _symmetric(pairs: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    logits = torch.cat([pairs.expand(2, -1)[:, :, None], negatives], dim=2) / temperature
    return logits.logsumexp(dim=2).mean(dim=0) - pairs / temperature


def _triplet_hard(pairs: Tensor, negatives: Tensor, margin: float) -> Tensor:
    return F.relu(margin + negatives.amax(dim=2) - pairs).sum(dim=0)


def _triplet_all(pairs: Tensor, negatives: Tensor, margin: float) -> Tensor:
    return F.relu(margin + negatives - pairs[:, None]).sum(dim=(0, 2))


def _squared(pairs: Tensor, negatives: Tensor, _: float) -> Tensor:
    return 2 - 2 * pairs


FORMS = {"joint": _joint, "symmetric": _symmetric, "triplet_hard": _triplet_hard, "triplet_all": _triplet_all}
ALL_FORMS = FORMS | {"squared": _squared}


def _sum(losses: Iterable[Tensor]) -> Tensor:
    return functools.reduce(operator.add, losses)


def _normalize(embeds: Tensor) -> Tensor:
    """Rows of length 1, at least float32; a row of zeros stays zero and gets a finite gradient.

    Dividing by the largest entry first (a constant: the cosine does not see scale) keeps squares from overflowing or
    vanishing, and leaves every other row a length of at least 1.
    """
    embeds = embeds.to(torch.promote_types(embeds.dtype, torch.float32))
    largest = embeds.detach().abs().amax(dim=-1, keepdim=True)
    return F.normalize(embeds / largest.masked_fill(largest == 0, 1.0), dim=-1, eps=1.0)


def rows_per_process(rows: int, device: torch.device, group: dist.ProcessGroup | None) -> list[int] | None:
    """How many rows each process holds; None where there is one process.

    Asked over the CPU where the process group has a CPU backend, so that no accelerator is waited for.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None
    device = torch.device("cpu") if "cpu" in dist.get_backend_config(group) else device
    sizes = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([rows], device=device), group=group)
    return torch.cat(sizes).tolist()


def _gather(own: Tensor, sizes: list[int] | None) -> tuple[Tensor, int]:
    """All processes' `(k, batch, dim)` joined along `batch`, with gradient, and where our own rows start in it."""
    return (own, 0) if sizes is None else (_Gather.apply(own, sizes), sum(sizes[: dist.get_rank()]))


class _Gather(torch.autograd.Function):
    """One collective each way: rows padded to the largest batch forward, the sum of all processes' gradients back."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = F.pad(own, (0, 0, 0, max(sizes) - own.shape[1])).contiguous()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.split(ctx.sizes, dim=1)[dist.get_rank()], None
