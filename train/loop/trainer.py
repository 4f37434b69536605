"""The training loop: steps, validation after each epoch, and checkpoints from which a run resumes exactly.

Each step depends only on the recipe and the step number. Weights are drawn from the seed, batches are slices of a
permutation drawn from (seed, epoch), texts and noise are drawn from (seed, epoch, video), and a checkpoint keeps the
state of the random number generators used by dropout. So a run that was killed and resumed gives the same result as
one that was not, and two runs of a recipe on one machine are identical.
"""

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from polyvid.modeling import MMPModel, MMPObjective, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.batches import Batch, Batches
from polyvid.train.loop.checkpoints import Checkpoints
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.loop.processes import Processes
from polyvid.train.loop.state import (
    ProcessState,
    Progress,
    TrainingState,
    Weights,
    load_weights,
    trained_weights,
    whole_optimizer_state,
    whole_weights,
)
from polyvid.train.loop.step import contrastive_step
from polyvid.train.loop.step_log import StepLog
from polyvid.train.loop.validation import ValidationSet
from polyvid.train.recipe import Recipe

SELECTING = ("R@1", "R@5", "R@10")  # their sum selects the model (App. C)


class Stopped(Exception):
    """The run was asked to stop (SIGTERM or Ctrl-C) and has written a checkpoint."""


@dataclass(eq=False)
class Trainer:
    """Trains a model with a recipe. `polyvid.train.loop.setup` builds the parts and assembles them.

    Args:
        recipe: the settings.
        model: prepared by Accelerate, so possibly wrapped or sharded.
        optimizer, scheduler: for its trained parameters; the optimizer is prepared by Accelerate, and fused.
        processor: saved with the model.
        objective: must not raise on embeddings that are not finite.
        batches: of the training data.
        validation_set: searched after each epoch. The model with the highest R@1 + R@5 + R@10 in its first language is
            kept (App. C). None keeps the last model.
        frozen_states: caches the output of frozen layers; None computes it at every step.
        checkpoints: saves and restores the run.
        step_log: records the steps.
        accelerator, processes: of the run.
        progress: how far the run has got.
        best_weights: trained weights of the selected model; empty except on the main process.
    """

    recipe: Recipe
    model: torch.nn.Module
    optimizer: AcceleratedOptimizer
    scheduler: LRScheduler
    processor: MMPProcessor
    objective: MMPObjective
    batches: Batches
    validation_set: ValidationSet | None
    frozen_states: FrozenStates | None
    checkpoints: Checkpoints
    step_log: StepLog
    accelerator: Accelerator
    processes: Processes
    progress: Progress = field(default_factory=Progress)
    best_weights: Weights | None = None
    stop_requested: bool = False
    last_save: float = field(default_factory=time.monotonic)

    @property
    def output_dir(self) -> Path:
        """The Hub repository of the selected model, when the run is finished."""
        return self.checkpoints.output_dir

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole run. An estimate for streamed data, whose epochs differ slightly in length."""
        return self.batches.steps(0) * self.recipe.training.epochs

    def fit(self) -> dict[str, Any]:
        """Train to the end, from the newest checkpoint if there is one. Returns the last entry of the history.

        Afterwards the output folder is the Hub repository of the selected model.

        Raises:
            Stopped: after SIGTERM or Ctrl-C; a checkpoint has been written.
            TrainingFailed: if loss or gradients stay non-finite, or the loss diverges.
            OSError: if a checkpoint cannot be written; the previous one remains intact.
            PolyvidError: if another run is writing to the output folder, or its checkpoint belongs to another recipe
                or launch.
        """
        with self.checkpoints.locked():
            if (state := self.checkpoints.load()) is not None:
                self.load_state(state)
            elif self.step_log.path is not None:
                self.output_dir.mkdir(parents=True, exist_ok=True)
                self.step_log.path.unlink(missing_ok=True)
            self._start_trackers()
            handlers = {name: signal.signal(name, self._request_stop) for name in (signal.SIGTERM, signal.SIGINT)}
            try:
                self._train()
                if self.frozen_states is not None:
                    self.frozen_states.save()
                self.checkpoints.finish(self.state())
            finally:
                for name, handler in handlers.items():
                    signal.signal(name, handler)
        return self.progress.history[-1]

    def _train(self) -> None:
        with tqdm(
            total=self.total_steps,
            initial=self.progress.step,
            desc=self.recipe.name,
            unit="step",
            disable=self.processes.rank != 0,
        ) as bar:
            if self.progress.step == 0 and self.recipe.model.start == "warm" and self.validation_set is not None:
                self._select(self.processes.from_main(self.validate()))  # training may not improve on the start
            while self.progress.epoch < self.recipe.training.epochs and not self._is_exhausted():
                self._train_epoch(bar)
                self._finish_epoch()
                last = self.progress.history[-1]
                bar.set_postfix({key: f"{value:.2f}" for key, value in last.items() if key in ("loss", "R@1")})

    def _train_epoch(self, bar: tqdm) -> None:
        training, progress = self.recipe.training, self.progress
        self.model.train()
        for batch in self._batches(progress.epoch, progress.batch_in_epoch):
            self.training_step(batch)
            progress.batch_in_epoch += 1
            bar.update()
            if progress.step % training.log_steps == 0:
                self.step_log.flush()
            is_time = time.monotonic() - self.last_save > 60 * training.save_minutes
            stop, is_time = self.processes.any([self.stop_requested, is_time])
            if stop or is_time:
                self.save()
            if stop:
                raise Stopped(f"Stopped in epoch {progress.epoch + 1}; the same command resumes from there.")

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch, from batch number `first` on."""
        batches = self.batches.read(epoch, first)
        if self.frozen_states is None or self.batches.is_stream:
            return batches
        return self.frozen_states.read_ahead(batches)

    def training_step(self, batch: Batch) -> None:
        """One update of the weights, skipped if the loss or the gradient is not finite.

        Nothing here waits for the device, so that it always has work. The check for non-finite values happens on the
        device, which tells the optimizer to skip the step; `StepLog` counts it later.
        """
        rows = len(batch["attention_mask"]) * self.processes.count
        position = {
            "step": self.progress.step + 1,
            "epoch": self.progress.epoch,
            "learning_rate": self.scheduler.get_last_lr()[0],
        }
        terms = contrastive_step(
            self.model, self._prepare(batch), self.objective, self.accelerator, self.recipe.training.micro_batch_size
        )
        norm = self.accelerator.clip_grad_norm_(
            [p for group in self.optimizer.param_groups for p in group["params"]], self.recipe.training.gradient_clip
        )
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.accelerator.scaler is None:  # a scaler does its own check
            self.optimizer.optimizer.found_inf = (~torch.isfinite(norm + terms["loss"])).float()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.step_log.add(position, terms | {"gradient_norm": norm}, rows)
        self.progress.step += 1

    def _finish_epoch(self) -> None:
        progress = self.progress
        entry: dict[str, Any] = {"epoch": progress.epoch + 1, **self.step_log.end_epoch()}
        if self.validation_set is not None:
            scores = self.processes.from_main(self.validate())
            selecting = next(iter(scores.values()))
            entry |= selecting
            entry |= {f"R@1 {language}": values["R@1"] for language, values in scores.items()}
            if self.accelerator.trackers:
                values = {f"validation/{k}": v for k, v in entry.items() if k.startswith("R@")}
                self.accelerator.log(values, step=progress.step)
            self._select(scores)
        progress.history.append(entry)
        progress.epoch += 1
        progress.batch_in_epoch = 0

    def _is_exhausted(self) -> bool:
        """Whether the best epoch lies `training.patience` epochs back. The history says so, also after a resume."""
        patience = self.recipe.training.patience
        if patience is None or self.validation_set is None:
            return False
        scores = [sum(entry[score] for score in SELECTING) for entry in self.progress.history]
        return len(scores) - 1 - scores.index(max(scores)) >= patience if scores else False

    def _select(self, scores: dict[str, dict[str, float]]) -> None:
        """Keep the weights if they have the best score so far in the first language."""
        if (score := sum(next(iter(scores.values())).values())) > self.progress.best_score:
            self.progress.best_score = score
            self.best_weights = trained_weights(self.model)

    def validate(self) -> dict[str, dict[str, float]]:
        """R@1, R@5, R@10 in percent for each language, from validation captions to validation videos."""
        if self.validation_set is None:
            raise RuntimeError("This trainer has no validation set.")
        model: MMPModel = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        self.model.eval()
        return self.validation_set.recall(model, self.processor, lambda batch: self.model(**self._prepare(batch)))

    def _prepare(self, batch: Batch) -> Batch:
        if self.frozen_states is not None:
            batch = self.frozen_states.replace_tokens(batch)
        return {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}

    def save(self) -> None:
        """Write a checkpoint of the current step. Every process must call this.

        Raises:
            OSError: if it cannot be written; older ones remain intact.
        """
        self.step_log.flush()
        if self.frozen_states is not None:  # first: the resumed run must find exactly the states used here
            self.frozen_states.save()
        if not self.checkpoints.holds(self.progress.step):
            self.checkpoints.save(self.state())
        self.last_save = time.monotonic()

    def state(self) -> TrainingState:
        """Everything needed to resume. Every process must call this."""
        return TrainingState(
            progress=self.progress,
            steps_per_epoch=self.batches.steps(0),
            weights=whole_weights(self.model),
            best_weights=self.best_weights,
            optimizer=whole_optimizer_state(self.model, self.optimizer.optimizer),
            scheduler=self.scheduler.state_dict(),
            step_log=self.step_log.state_dict(),
            processes=self.processes.gather(ProcessState.now(self.batches.state_dict())),
            scaler=None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
        )

    def load_state(self, state: TrainingState) -> None:
        """Continue from this state. Every process must call this.

        Raises:
            PolyvidError: if the data have changed.
        """
        if state.steps_per_epoch != self.batches.steps(0):
            raise PolyvidError(
                f"The data have changed: an epoch of the checkpoint in {self.output_dir} has {state.steps_per_epoch} "
                f"steps, one of these data {self.batches.steps(0)}. Restore the data, or choose another output_dir."
            )
        load_weights(self.model, self.optimizer.optimizer, state.weights, state.optimizer)
        self.progress, self.best_weights = state.progress, state.best_weights
        self.scheduler.load_state_dict(state.scheduler)
        if self.accelerator.scaler is not None and state.scaler:  # without: of an older version, or begun without fp16
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.step_log.load_state_dict(state.step_log, state.progress.step)
        own = state.processes[self.processes.rank]
        self.batches.load_state_dict(own.batches)
        own.restore_generators()

    def _start_trackers(self) -> None:
        if not self.recipe.training.trackers:
            return
        # Steps after the checkpoint are repeated and logged again: TensorBoard must drop the first log.
        options = {"tensorboard": {"purge_step": self.progress.step + 1}}
        self.accelerator.init_trackers(self.recipe.name, init_kwargs=options)

    def _request_stop(self, number: int, frame: object) -> None:
        self.stop_requested = True
