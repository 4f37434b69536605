"""The state of a run between two steps: all that the next step depends on, besides the recipe and the data."""

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
    """How far a run has got, and its results so far."""

    step: int = 0  # steps done
    epoch: int = 0  # epochs done
    batch_in_epoch: int = 0  # batches done in the current epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry per epoch: loss terms, R@k
    best_score: float = -1.0  # R@1 + R@5 + R@10 of the selected model


@dataclass
class ProcessState:
    """What belongs to one process: the random generators used by dropout, and its position in the data."""

    cpu: Tensor
    cuda: Tensor | None
    batches: dict[str, Any] | None

    @classmethod
    def now(cls, batches: dict[str, Any] | None) -> "ProcessState":
        """The current state of this process."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return cls(torch.get_rng_state(), cuda, batches)

    def restore_generators(self) -> None:
        """Restore the generators to their state when `now` was called."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.cuda)


@dataclass
class TrainingState:
    """Weights and optimizer state are complete (not sharded) and on the CPU; when saving, only on the main process."""

    progress: Progress
    steps_per_epoch: int  # to detect changed data
    weights: Weights
    best_weights: Weights | None  # trained weights of the selected model
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    step_log: dict[str, Any]
    processes: list[ProcessState]
    scaler: dict[str, Any] | None = None  # of the loss, under fp16


def whole_weights(model: nn.Module) -> Weights:
    """The full state of a model on the CPU, unsharded and unwrapped; empty except on the main process.

    If the model is on the CPU and not sharded, these are its own tensors, not copies. Every process must call this.
    """
    return cast(Weights, get_model_state_dict(model, options=WHOLE))


def trained_weights(model: nn.Module) -> Weights:
    """A copy of the weights that training changes. Frozen layers, nine tenths of the demo's model, are left out."""
    trained = cast(Weights, get_model_state_dict(model, options=replace(WHOLE, ignore_frozen_params=True)))
    return {name: value.clone() for name, value in trained.items()}


def whole_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer state by parameter name, complete like `whole_weights`. Every process must call this."""
    return get_optimizer_state_dict(model, optimizer, options=WHOLE)


def load_weights(
    model: nn.Module, optimizer: torch.optim.Optimizer, weights: Weights, optimizer_state: dict[str, Any]
) -> None:
    """Load both from complete states; each process keeps its shard of a sharded model. Every process must call this."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, cast(dict[str, Any], weights), options=options)
    set_optimizer_state_dict(model, optimizer, optimizer_state, options=options)
