"""Forward pass, objective and backward pass of one batch, in the memory of the batch or a micro-batch (GradCache)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.losses_mmp import TEACHER_EMBEDS, TERMS, MMPObjective, rows_per_process


def contrastive_step(
    model: nn.Module,
    batch: dict[str, Tensor],
    objective: MMPObjective,
    accelerator: Accelerator | None = None,
    micro_batch_size: int | None = None,
) -> dict[str, Tensor]:
    """Add the gradient of the objective on one batch to the model's parameters.

    A contrastive loss is not a sum of losses over micro-batches, because each row is a negative for every other row.
    With `micro_batch_size`, the step follows GradCache (Gao et al., 2021). First, embed the micro-batches without a
    graph. Then differentiate the objective with respect to all embeddings of the batch, on all processes. Finally,
    embed each micro-batch again, now with a graph and the same random numbers, so that dropout drops the same units,
    and backpropagate the gradients of the embeddings. The result is the gradient of the full batch, at the cost of a
    second forward pass.

    Under DDP, processes exchange parameter gradients once, in the backward pass of the last micro-batch. They may
    have different numbers of rows. Under FSDP each forward pass gathers parameters from all processes, so they all
    make the same number of micro-batches.

    Args:
        model: an `MMPModel`, possibly wrapped by `Accelerator.prepare` or DDP. Called with `return_loss=False`.
        batch: tensors with `batch` rows on the model's device, as made by `MMPCollator`.
        objective: applied to the model's outputs.
        accelerator: provides mixed precision, gradient scaling and accumulation.
        micro_batch_size: rows embedded at a time, the same on every process; None embeds all at once.

    Returns:
        The terms of the objective on the global batch: detached, and the same on every process.

    Raises:
        NonFiniteEmbeddingsError: on every process, if an embedding is NaN or infinite; gradients are unchanged. If the
            objective does not raise, the terms and gradients are NaN instead.
        PolyvidError: for a micro-batch of less than one row, or under DeepSpeed, which steps on every backward pass.
    """
    if micro_batch_size is not None and micro_batch_size < 1:
        raise PolyvidError(f"micro_batch_size must be at least 1 row, not {micro_batch_size}.")
    if micro_batch_size and accelerator and accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise PolyvidError("micro_batch_size does not work with DeepSpeed, which steps at every backward: use FSDP2.")
    backward = accelerator.backward if accelerator else Tensor.backward
    no_sync = accelerator.no_sync if accelerator else lambda model: getattr(model, "no_sync", nullcontext)()
    inputs = dict(batch)
    video_index = inputs.pop("video_index", None)
    given = {name: inputs.pop(name) for name in TEACHER_EMBEDS if name in inputs}
    num_rows, device = len(inputs["attention_mask"]), inputs["attention_mask"].device

    # Decided by the setting, not by the number of rows: the two paths order DDP's collectives differently, and all
    # processes must take the same one.
    if micro_batch_size is None:
        terms = objective(_embeds(model(**inputs, return_loss=False)) | given, video_index)
        backward(terms["loss"])
        return _mean_over_processes(terms)

    sharded = accelerator is not None and accelerator.distributed_type == DistributedType.FSDP
    rows = rows_per_process(num_rows, device, objective.group) if sharded else None
    sizes = _sizes_of_micro_batches(num_rows, micro_batch_size, rows)
    parts_of = {key: value.split(sizes) for key, value in inputs.items()}
    micro_batches = [{key: values[i] for key, values in parts_of.items()} for i in range(len(sizes))]
    states, parts = [], []
    with torch.no_grad():
        for micro_batch in micro_batches:
            states.append(_random_state(device))
            parts.append(_embeds(model(**micro_batch, return_loss=False)))
    # If autocast wraps the whole step, older versions of torch take the weights of the second forward pass from the
    # autocast cache, where they have no graph (pytorch/pytorch#112583).
    torch.clear_autocast_cache()

    # At least float32: float16 would lose small gradients, which are only scaled in the backward pass of the model.
    embeds = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    embeds = {name: e.to(torch.promote_types(e.dtype, torch.float32)).requires_grad_() for name, e in embeds.items()}
    terms = objective(embeds | given, video_index)
    found = torch.autograd.grad(terms["loss"], list(embeds.values()), allow_unused=True)
    gradients = {name: g.split(sizes) for name, g in zip(embeds, found, strict=True) if g is not None}

    for i, (micro_batch, state) in enumerate(zip(micro_batches, states, strict=True)):
        is_last = i == len(micro_batches) - 1
        with nullcontext() if is_last else no_sync(model):
            with _replay(state, device):
                part = _embeds(model(**micro_batch, return_loss=False))
            # A scalar with the same gradient with respect to these embeddings as the objective.
            backward(torch.stack([(part[name] * gradient[i]).sum() for name, gradient in gradients.items()]).sum())
    return _mean_over_processes(terms)


def _sizes_of_micro_batches(num_rows: int, limit: int, rows: list[int] | None) -> list[int]:
    """Of the rows of this process, at most `limit` each.

    With `rows`, those of every process, all processes get the same number of micro-batches. Their sizes then exceed the
    limit only where a process has too few rows for so many.
    """
    if rows is None:
        return [min(limit, num_rows - start) for start in range(0, num_rows, limit)]
    count = min(-(-max(rows) // limit), min(rows))
    return [len(part) for part in torch.arange(num_rows).tensor_split(count)]


def _embeds(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = dict.fromkeys(name for pairs in TERMS.values() for pair in pairs for name in pair)
    return {name: outputs[name] for name in names if outputs.get(name) is not None}


def _mean_over_processes(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    values = torch.stack([term.detach() for term in terms.values()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return dict(zip(terms, values, strict=True))


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The state of the random generators used by dropout: of the CPU, and of the device if it is another."""
    own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    return torch.get_rng_state(), own


@contextmanager
def _replay(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Use the random state `state` inside the block, and restore the current one afterwards."""
    now = _random_state(device)
    _set_random_state(state, device)
    try:
        yield
    finally:
        _set_random_state(now, device)


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1], device)
