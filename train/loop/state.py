"""The state of a run between two steps: everything the next step depends on besides the recipe and the data."""

from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

Weights = dict[str, Tensor]
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class Progress:
    """How far a run has come, and what it has found so far."""

    step: int = 0  # steps done
    epoch: int = 0  # epochs done
    batch_in_epoch: int = 0  # batches done of the next epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # an entry per epoch: loss terms, R@k
    best_score: float = -1.0  # R@1 + R@5 + R@10 of the selected model


@dataclass
class ProcessState:
    """What belongs to one process: the generators dropout draws from, and its position in the data."""

    cpu: Tensor
    cuda: Tensor | None
    batches: dict[str, Any] | None

    @classmethod
    def now(cls, batches: dict[str, Any] | None) -> "ProcessState":
        """Of this process."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return cls(torch.get_rng_state(), cuda, batches)

    def restore_generators(self) -> None:
        """Draw from now on what was drawn after `now`."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.cuda)


@dataclass
class TrainingState:
    """Weights and optimizer state are whole, not sharded, and on the CPU; when saving, on the main process only."""

    progress: Progress
    steps_per_epoch: int  # to notice other data
    weights: Weights
    best_weights: Weights | None  # the trained ones of the selected model
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    step_log: dict[str, Any]
    processes: list[ProcessState]


def whole_weights(model: nn.Module) -> Weights:
    """The state of a model on the CPU, its shards put together and its wrappers removed; empty but on the main process.

    Where the model is on the CPU and not sharded, these are its own tensors. Every process must make the call.
    """
    return cast(Weights, get_model_state_dict(model, options=WHOLE))


def trained_weights(model: nn.Module) -> Weights:
    """A copy of what training changes: without the frozen layers, which in the demo are nine tenths of a model."""
    trained = cast(Weights, get_model_state_dict(model, options=replace(WHOLE, ignore_frozen_params=True)))
    return {name: value.clone() for name, value in trained.items()}


def whole_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by names of parameters, like `whole_weights`. Every process must make the call."""
    return get_optimizer_state_dict(model, optimizer, options=WHOLE)


def load_weights(
    model: nn.Module, optimizer: torch.optim.Optimizer, weights: Weights, optimizer_state: dict[str, Any]
) -> None:
    """Load both whole; of a sharded model each process keeps its shard. Every process must make the call."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, cast(dict[str, Any], weights), options=options)
    set_optimizer_state_dict(model, optimizer, optimizer_state, options=options)
