"""The training loop: one step after the other, validation after each epoch, and checkpoints to resume from exactly.

What a step does depends only on (recipe, step number): batches are slices of a permutation drawn from (seed, epoch),
texts and noise are drawn from (seed, epoch, video), and a checkpoint keeps the state of the random number generators
that dropout draws from. So a run that was killed and resumed equals one that was not.
"""

import json
import signal
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import get_scheduler

from polyvid.modeling import MMPModel, MMPObjective, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.batches import CaptionBatches, ClipBatches
from polyvid.train.data.clips import ClipDataset
from polyvid.train.data.collate import MMPCollator
from polyvid.train.loop.checkpoints import Checkpoints, Weights, save_model, trained_weights
from polyvid.train.loop.frozen_states import FrozenStates
from polyvid.train.loop.processes import Processes
from polyvid.train.loop.step import contrastive_step
from polyvid.train.loop.step_log import StepLog
from polyvid.train.loop.validation import ValidationSet
from polyvid.train.recipe import Recipe
from polyvid.train.scoring.results import environment


class Stopped(Exception):
    """The run was asked to stop (SIGTERM or Ctrl-C) and has written a checkpoint."""


class Trainer:
    """Trains a model by a recipe.

    Args:
        recipe: what to do.
        model: on any device; moved by Accelerate.
        processor: saved with the model.
        train_set: rows as `MMPCollator` takes them, with `set_epoch`: a `PivotSampler`, or a `ClipDataset` to stream.
        validation_set: searched after each epoch; the model with the highest R@1 + R@5 + R@10 in its first language
            is kept (App. C). None: the last model is kept.
        accelerator: by default a new one.

    Raises:
        PolyvidError: if the data do not make a batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: MMPModel,
        processor: MMPProcessor,
        train_set: Dataset | ClipDataset,
        validation_set: ValidationSet | None = None,
        accelerator: Accelerator | None = None,
    ):
        training, data, objective = recipe.training, recipe.data, recipe.objective
        self.accelerator = accelerator or Accelerator(step_scheduler_with_optimizer=False)
        self.processes = Processes()
        set_seed(training.seed, device_specific=True)
        self.recipe, self.processor = recipe, processor
        self.train_set, self.validation_set = train_set, validation_set
        self.output_dir = Path(recipe.output_dir)
        self.objective = MMPObjective(
            objective.form,
            objective.temperature,
            objective.margin,
            tuple(objective.terms),
            objective.mask_same_video,
            raise_non_finite=False,  # found on the device, see `training_step`
            group=self.processes.group,
        )
        limits = (data.max_text_length, data.max_video_length)
        collator = MMPCollator(processor, *limits, objective.mask_ratio, training.seed)
        if isinstance(train_set, ClipDataset):
            self.batches = ClipBatches(
                train_set, collator, training.batch_size, self.processes, num_workers=training.num_workers
            )
        else:
            self.batches = CaptionBatches(
                train_set,
                collator,
                training.batch_size,
                training.seed,
                self.processes,
                num_workers=training.num_workers,
                noise_cycle=data.noise_cycle,
                group_by_length=training.group_by_length,
            )
        self.total_steps = self.batches.steps(0) * training.epochs  # of streamed epochs some are a little longer
        # Fused: it can be told on the device to leave out a step, which nothing has to wait for.
        optimizer = torch.optim.Adam(parameter_groups(model, training.learning_rate), fused=True)
        self.scheduler = get_scheduler(training.schedule, optimizer, training.warmup_steps, self.total_steps)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.frozen_states = None
        if data.frozen_states:
            # Of several processes each sees rows of its own and keeps a file of its own.
            suffix = f"-{self.processes.rank}" if self.processes.rank else ""
            self.frozen_states = FrozenStates(f"{data.frozen_states}{suffix}", model)
        self.checkpoints = Checkpoints(recipe, self.accelerator, self.processes)
        steps_file = self.output_dir / "steps.jsonl" if self.processes.rank == 0 else None
        self.step_log = StepLog(steps_file, training, self.accelerator)
        self.step = 0
        self.epoch = 0
        self.batch_in_epoch = 0
        self.history: list[dict] = []
        self.best_score = -1.0
        self.best_weights: Weights | None = None  # trained ones of the selected model, on the main process
        self.stop_requested = False
        self.last_save = time.monotonic()

    def fit(self) -> dict:
        """Train to the end, from the newest checkpoint if there is one. Returns the last entry of the history.

        The output folder then is the Hub repository of the selected model.

        Raises:
            Stopped: after SIGTERM or Ctrl-C; everything so far is in a checkpoint.
            TrainingFailed: if loss or gradients stay non-finite, or the loss diverges.
            OSError: if a checkpoint cannot be written; the last one is intact.
            PolyvidError: if the checkpoint in the output folder belongs to another recipe or launch.
        """
        self.checkpoints.resume(self)
        if self.step == 0 and self.step_log.path is not None:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self.step_log.path.unlink(missing_ok=True)
        self._start_trackers()
        handlers = {name: signal.signal(name, self._request_stop) for name in (signal.SIGTERM, signal.SIGINT)}
        progress = tqdm(
            total=self.total_steps,
            initial=self.step,
            desc=self.recipe.name,
            unit="step",
            disable=self.processes.rank != 0,
        )
        try:
            with progress:
                if self.step == 0 and self.recipe.model.start == "warm" and self.validation_set is not None:
                    self._select(self.processes.from_main(self.validate()))  # training may make nothing better
                while self.epoch < self.recipe.training.epochs:
                    self._train_epoch(progress)
                    self._finish_epoch()
                    progress.set_postfix({k: f"{v:.2f}" for k, v in self.history[-1].items() if k in ("loss", "R@1")})
            if self.frozen_states:
                self.frozen_states.save()
            self.checkpoints.finish(self)
        finally:
            for name, handler in handlers.items():
                signal.signal(name, handler)
        return self.history[-1]

    def training_step(self, batch: dict[str, torch.Tensor]) -> None:
        """One update of the weights; none, if the loss or the gradient is not finite.

        Nothing here waits for the device, so that it always has work: that a step is to be left out is found there and
        told to the optimizer there; `StepLog` counts it later.
        """
        rows = len(batch["attention_mask"]) * self.processes.count
        position = {"step": self.step + 1, "epoch": self.epoch, "learning_rate": self.scheduler.get_last_lr()[0]}
        terms = contrastive_step(
            self.model, self._prepare(batch), self.objective, self.accelerator, self.recipe.training.micro_batch_size
        )
        norm = self.accelerator.clip_grad_norm_(
            [p for group in self.optimizer.param_groups for p in group["params"]], self.recipe.training.gradient_clip
        )
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.accelerator.scaler is None:  # a scaler looks for itself
            self.optimizer.optimizer.found_inf = (~torch.isfinite(norm + terms["loss"])).float()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.step_log.add(position, terms | {"gradient_norm": norm}, rows)
        self.step += 1

    def _train_epoch(self, progress: tqdm) -> None:
        training = self.recipe.training
        self.model.train()
        for batch in self.batches.read(self.epoch, self.batch_in_epoch):
            self.training_step(batch)
            self.batch_in_epoch += 1
            progress.update()
            if self.step % training.log_steps == 0:
                self.step_log.flush()
            is_time = time.monotonic() - self.last_save > 60 * training.save_minutes
            stop, is_time = self.processes.any([self.stop_requested, is_time])
            if stop or is_time:
                self.step_log.flush()
                self.checkpoints.save(self)
                self.last_save = time.monotonic()
            if stop:
                raise Stopped(f"Stopped in epoch {self.epoch + 1}; the same command goes on from there.")

    def _finish_epoch(self) -> None:
        entry: dict[str, Any] = {"epoch": self.epoch + 1, **self.step_log.end_epoch()}
        if self.validation_set is not None:
            scores = self.processes.from_main(self.validate())
            selecting = next(iter(scores.values()))
            entry |= selecting
            entry |= {f"R@1 {language}": values["R@1"] for language, values in scores.items()}
            if self.accelerator.trackers:
                values = {f"validation/{k}": v for k, v in entry.items() if k.startswith("R@")}
                self.accelerator.log(values, step=self.step)
            self._select(scores)
        self.history.append(entry)
        self.epoch += 1
        self.batch_in_epoch = 0

    def _select(self, scores: dict[str, dict[str, float]]) -> None:
        """Keep the weights if they score best so far in the first language."""
        if (score := sum(next(iter(scores.values())).values())) > self.best_score:
            self.best_score = score
            self.best_weights = trained_weights(self.model)

    @torch.inference_mode()
    def validate(self) -> dict[str, dict[str, float]]:
        """R@1, R@5, R@10 of the validation texts over the validation videos, in percent, for each language."""
        self.model.eval()
        limits = (self.recipe.data.max_text_length, self.recipe.data.max_video_length)
        return self.validation_set.recall(lambda batch: self.model(**self._prepare(batch)), self.processor, *limits)

    def _prepare(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.frozen_states:
            batch = self.frozen_states.replace_tokens(batch)
        return {name: value.to(self.accelerator.device, non_blocking=True) for name, value in batch.items()}

    def _start_trackers(self) -> None:
        if not self.recipe.training.trackers:
            return
        # Steps after the checkpoint are made and logged again: TensorBoard is told to forget the first time.
        options = {"tensorboard": {"purge_step": self.step + 1}}
        self.accelerator.init_trackers(self.recipe.name, init_kwargs=options)

    def _request_stop(self, number, frame) -> None:
        self.stop_requested = True

    def state_dict(self) -> dict:
        """Where the run stands, beside the weights and the optimizer's state."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch_in_epoch": self.batch_in_epoch,
            "history": self.history,
            "best_score": self.best_score,
            "steps_per_epoch": self.batches.steps(0),
            "step_log": self.step_log.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        if state["steps_per_epoch"] != self.batches.steps(0):
            raise PolyvidError(
                f"The data have changed: an epoch of the checkpoint in {self.output_dir} has "
                f"{state['steps_per_epoch']} steps, one of these data {self.batches.steps(0)}. Put the data back, or "
                "start in another output_dir."
            )
        for name in ("step", "epoch", "batch_in_epoch", "history", "best_score"):
            setattr(self, name, state[name])
        self.step_log.load_state_dict(state["step_log"], self.step)
        self.scheduler.load_state_dict(state["scheduler"])

    def save(self, folder: Path, weights: Weights) -> None:
        """Write a model of these weights as a Hub repository, with the recipe and the history of this run."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        save_model(model.config, weights, self.processor, self.recipe, folder)
        state = {
            "step": self.step,
            "best_score": self.best_score,
            "skipped_steps": self.step_log.skipped,
            "history": self.history,
            "environment": environment() | {"processes": self.processes.count},  # for the card
        }
        (folder / "trainer_state.json").write_text(json.dumps(state, indent=1) + "\n")


def parameter_groups(model: MMPModel, learning_rate: float) -> list[dict]:
    """Trained parameters, grouped by learning rate: the model says which modules learn faster (§5.6)."""
    multipliers = model.learning_rate_multipliers
    groups: dict[float, list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(multipliers.get(name.split(".")[0], 1.0), []).append(parameter)
    return [{"params": parameters, "lr": learning_rate * factor} for factor, parameters in groups.items()]
