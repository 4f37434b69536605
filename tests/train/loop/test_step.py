"""One training step: the same loss and the same gradient of every parameter, however the batch is cut up."""

import functools
import os
from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.nn.parallel import DistributedDataParallel

from polyvid.modeling import MMPConfig, MMPModel, MMPObjective
from polyvid.modeling.losses_mmp import TEACHER_EMBEDS, NonFiniteEmbeddingsError
from polyvid.train.loop.step import _sizes_of_micro_batches, contrastive_step
from tiny import BACKBONES, enable_checkpointing

BATCH = 11


def make_model(dropout=0.0):
    """The tiny model in training mode; backbone and heads drop the same share."""
    torch.manual_seed(0)
    backbone = BACKBONES["bert"] | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = MMPConfig(
        text_config=backbone, output_layer=3, freeze_below=1, embed_dim=24, video_feature_dim=6, pooler_dropout=dropout
    )
    return MMPModel(config).train()


def make_batch(rows=slice(None)):
    """All views of 11 rows that show 8 videos, some padded; the rows asked for."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 8, (3, BATCH), generator=generator)
    ids = torch.randint(5, 50, (4, BATCH, 7), generator=generator)
    videos = torch.randn(2, BATCH, 7, 6, generator=generator)
    mask, pivot_mask, video_mask = (torch.arange(7) < lengths[..., None]).long()
    batch = {
        "input_ids": ids[0],
        "attention_mask": mask,
        "video_features": videos[0],
        "video_mask": video_mask,
        "noisy_input_ids": ids[1],
        "noisy_video_features": videos[1],
        "pivot_input_ids": ids[2],
        "pivot_attention_mask": pivot_mask,
        "noisy_pivot_input_ids": ids[3],
        "video_index": torch.tensor([3, 4, 5, 4, 6, 7, 3, 8, 9, 3, 2]),
        "teacher_embeds": torch.randn(BATCH, 24, generator=generator),
        "teacher_text_embeds": torch.randn(BATCH, 2, 9, generator=generator),
        "teacher_video_embeds": torch.randn(BATCH, 2, 9, generator=generator),
    }
    return {key: value[rows] for key, value in batch.items()}


def gradients(model):
    return {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }


def assert_same(actual, expected, tolerance=1e-5):
    terms, grads = actual
    expected_terms, expected_grads = expected
    assert list(terms) == list(expected_terms) and set(grads) == set(expected_grads)
    for name, value in expected_terms.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=tolerance), name
    for name, grad in expected_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}")  # noqa: B023


def step_of_one_process(objective, dropout=0.0, **options):
    model = make_model(dropout)
    torch.manual_seed(2)
    terms = contrastive_step(model, make_batch(), objective, **options)
    return terms, gradients(model)


def step_keeping_every_graph(objective, micro_batch_size, dropout):
    """What GradCache must equal: the same micro-batches, with all their graphs in memory at once."""
    model = make_model(dropout)
    torch.manual_seed(2)
    inputs, parts = make_batch(), []
    for name in ("video_index", *TEACHER_EMBEDS):
        inputs.pop(name)
    for start in range(0, BATCH, micro_batch_size):
        parts.append(model(**{key: value[start : start + micro_batch_size] for key, value in inputs.items()}))
    terms = objective({name: torch.cat([p[name] for p in parts]) for name in parts[0] if name.endswith("_embeds")})
    terms["loss"].backward()
    return terms, gradients(model)


OBJECTIVES = {
    "Eq. 1-6": MMPObjective(),
    "same video masked": MMPObjective(mask_same_video=True),
    "symmetric": MMPObjective(form="symmetric"),
    "triplet, hard": MMPObjective(form="triplet_hard"),
    "triplet, all, inter only": MMPObjective(form="triplet_all", terms=("inter",)),
    "between texts": MMPObjective(terms=("inter", "align", "teach"), weights={"align": 0.5, "teach": 3.0}),
    "C2KD": MMPObjective(terms=("inter", "distill"), distill_alpha=0.3, distill_pool="min"),
}


@functools.cache
def plain_step(name):
    return step_of_one_process(OBJECTIVES[name])


@pytest.mark.parametrize(
    "name, micro_batch_size", [*((name, 4) for name in OBJECTIVES), ("Eq. 1-6", 1), ("Eq. 1-6", 10), ("Eq. 1-6", 64)]
)
def test_micro_batches_give_the_gradient_of_the_whole_batch(name, micro_batch_size):
    plain = plain_step(name)
    assert all(grad.any() for name, grad in plain[1].items() if "k_proj.bias" not in name and "key.bias" not in name)
    assert_same(step_of_one_process(OBJECTIVES[name], micro_batch_size=micro_batch_size), plain)


def test_the_second_forward_drops_what_the_first_dropped():
    expected = step_keeping_every_graph(MMPObjective(), micro_batch_size=4, dropout=0.3)
    random_numbers = torch.rand(3)
    assert_same(step_of_one_process(MMPObjective(), dropout=0.3, micro_batch_size=4), expected, tolerance=1e-6)
    # and the step draws as many random numbers as one forward
    assert torch.equal(torch.rand(3), random_numbers)


def test_micro_batches_under_bfloat16_autocast():
    # Without its cache of cast weights, autocast adds gradients of one weight up in float32, so order is no matter.
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        expected = step_keeping_every_graph(MMPObjective(), micro_batch_size=4, dropout=0.3)
        assert_same(step_of_one_process(MMPObjective(), dropout=0.3, micro_batch_size=4), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, grads = step_of_one_process(MMPObjective(), dropout=0.3, micro_batch_size=4)
    assert set(grads) == set(expected[1])
    for name, grad in grads.items():
        assert (grad - expected[1][name]).norm() <= 0.02 * expected[1][name].norm() + 1e-4, name
    with pytest.raises(AssertionError):  # it really ran in bfloat16
        assert_same(step_keeping_every_graph(MMPObjective(), 4, dropout=0.3), expected)


def test_micro_batches_with_gradient_checkpointing():
    model = make_model(dropout=0.3)
    enable_checkpointing(model)
    torch.manual_seed(2)
    terms = contrastive_step(model, make_batch(), MMPObjective(), micro_batch_size=4)
    assert_same((terms, gradients(model)), step_keeping_every_graph(MMPObjective(), 4, dropout=0.3), tolerance=1e-6)


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_the_step_waits_for_no_device(monkeypatch, micro_batch_size):
    """Tensors on the meta device have no values: a look at one, which would wait for an accelerator, is an error."""
    monkeypatch.setattr("torch.autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr("polyvid.train.loop.step._random_state", lambda _: (torch.get_rng_state(), None))
    batch = {name: value.to("meta") for name, value in make_batch().items()}
    model = make_model(dropout=0.3).to("meta")
    objective = MMPObjective(raise_non_finite=False)
    terms = contrastive_step(model, batch, objective, micro_batch_size=micro_batch_size)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.2)
    assert set(terms) == {"inter", "intra", "cross", "loss"} and norm.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        contrastive_step(model, batch, MMPObjective())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("without_padding", [False, True])
def test_what_is_computed_without_a_look_is_the_same(monkeypatch, attention, without_padding):
    def step():
        model, batch = make_model(), make_batch()
        model.set_attn_implementation(attention)
        if without_padding:
            batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        return contrastive_step(model, batch, MMPObjective(raise_non_finite=False)), gradients(model)

    expected = step()
    monkeypatch.setattr("polyvid.modeling.inputs_mmp._may_look_at", lambda *_: False)
    assert_same(step(), expected)


# ---- several processes ----

LAUNCHED = {
    name: OBJECTIVES[name] for name in ("Eq. 1-6", "same video masked", "triplet, hard", "between texts", "C2KD")
}
SPLITS = {1: [11], 2: [7, 4], 3: [1, 6, 4]}  # rows of each process: as uneven as a last batch can be


def rows_of(rank, world_size):
    start = sum(SPLITS[world_size][:rank])
    return slice(start, start + SPLITS[world_size][rank])


def steps_of_one_rank(rank, world_size, folder):
    """Everything the tests below look at, in one launch: {case: (terms, gradients)}, saved as `rank<n>.pt`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=300),  # collectives that do not match fail instead of waiting for each other
    )
    batch, results = make_batch(rows_of(rank, world_size)), {}
    for name, objective in LAUNCHED.items():
        for micro_batch_size in (None, 4):
            model = DistributedDataParallel(make_model())
            terms = contrastive_step(model, batch, objective, micro_batch_size=micro_batch_size)
            results[name, micro_batch_size] = terms, gradients(model)

    # Embeddings overflow on the last process only; all stop, and all can go on.
    model = DistributedDataParallel(make_model())
    bad = dict(batch)
    if rank == world_size - 1:
        bad["noisy_video_features"] = torch.full_like(batch["noisy_video_features"], 3e38)
    for micro_batch_size in (None, 4):
        try:
            contrastive_step(model, bad, MMPObjective(), micro_batch_size=micro_batch_size)
        except NonFiniteEmbeddingsError as error:
            results["overflow", micro_batch_size] = str(error), error.rows, gradients(model)
        terms = contrastive_step(model, batch, MMPObjective(), micro_batch_size=micro_batch_size)
        results["after overflow", micro_batch_size] = terms, gradients(model)
        model.zero_grad()

    # Accelerate: two batches accumulated into one gradient, as inside a training loop.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # asked for, not used: we have met already
    AcceleratorState._reset_state(True)  # of the process we were forked from
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    assert accelerator.num_processes == world_size
    model = accelerator.prepare(make_model())
    for micro_batch_size in (None, 4):
        for _ in range(2):
            with accelerator.accumulate(model):
                terms = contrastive_step(model, batch, MMPObjective(), accelerator, micro_batch_size)
        results["accumulated", micro_batch_size] = terms, gradients(model)
        model.zero_grad()

    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=SPLITS, ids="{} processes".format)
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"{request.param}-processes")
    mp.start_processes(steps_of_one_rank, (request.param, folder), nprocs=request.param, start_method="fork")
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("micro_batch_size", [None, 4])
@pytest.mark.parametrize("name", LAUNCHED)
def test_any_number_of_processes_gives_the_loss_and_gradient_of_one(ranks, name, micro_batch_size):
    expected = plain_step(name)
    for results in ranks:
        assert_same(results[name, micro_batch_size], expected)


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_embeddings_that_overflow_on_one_process_stop_the_step_on_all(ranks, micro_batch_size):
    expected = plain_step("Eq. 1-6")
    for rank, results in enumerate(ranks):
        message, rows, grads = results["overflow", micro_batch_size]
        assert "intra: noisy_video_embeds row" in message and "of a global batch of 11" in message
        assert rows == (list(range(SPLITS[len(ranks)][-1])) if rank == len(ranks) - 1 else [])
        assert not grads
        assert_same(results["after overflow", micro_batch_size], expected)


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_accelerate_accumulates_gradients(ranks, micro_batch_size):
    expected = plain_step("Eq. 1-6")
    for results in ranks:
        assert_same(results["accumulated", micro_batch_size], expected)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="at least 1 row"):
        contrastive_step(make_model(), make_batch(), MMPObjective(), micro_batch_size=0)
    with pytest.raises(ValueError, match="FSDP2"):
        deepspeed = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
        contrastive_step(make_model(), make_batch(), MMPObjective(), deepspeed, micro_batch_size=4)


@pytest.mark.parametrize("rows, limit", [([3, 2], 2), ([5, 4], 2), ([4, 4], 2), ([3, 2], 1), ([64, 64, 63], 16)])
def test_sharded_processes_make_the_same_number_of_micro_batches(rows, limit):
    """Each forward pass gathers parameters: a process with one more would wait for the others for ever."""
    sizes = [_sizes_of_micro_batches(own, limit, rows) for own in rows]
    assert [sum(own) for own in sizes] == rows and len({len(own) for own in sizes}) == 1
    assert all(0 < size <= max(limit, 2) for own in sizes for size in own)
