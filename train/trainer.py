"""The training loop: one step after the other, validation after each epoch, and checkpoints to resume from exactly.

What a step does depends only on (recipe, step number): batches are slices of a permutation drawn from (seed, epoch),
texts and noise are drawn from (seed, epoch, video), and a checkpoint keeps the state of the random number generators
that dropout draws from. So a run that was killed and resumed equals one that was not.
"""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from mmp.modeling import MMPModel, MMPObjective, MMPProcessor
from mmp.train.checkpoints import Checkpoints, save_model
from mmp.train.collator import MMPCollator
from mmp.train.contrastive_step import contrastive_step
from mmp.train.frozen_states import FrozenStates
from mmp.train.recipe import Recipe
from mmp.train.retrieval_metrics import ranks_of_targets, recall_at_k


class Stopped(Exception):
    """The run was asked to stop (SIGTERM or Ctrl-C) and has written a checkpoint."""


class GlobalBatches(Sampler):
    """The part of each global batch that belongs to this process, for one epoch.

    The permutation is drawn from (seed, epoch) and is the same on all processes. The last, smaller batch is used too,
    unless it has fewer rows than there are processes or a single row (which has no negatives).
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, num_processes: int = 1):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.num_processes = rank, num_processes
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.batch_size)
        return whole + (rest >= max(2, self.num_processes))

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for number in range(self.first_batch, len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield np.array_split(batch, self.num_processes)[self.rank].tolist()


class Trainer:
    """Trains a model by a recipe.

    Args:
        recipe: what to do.
        model: on any device; moved by Accelerate.
        processor: saved with the model.
        train_set: rows as `MMPCollator` takes them, with `set_epoch`.
        validation_set: rows; after each epoch their texts search their videos, and the model with the highest R@1 +
            R@5 + R@10 is kept (App. C). None: the last model is kept.
        accelerator: by default a new one.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: MMPModel,
        processor: MMPProcessor,
        train_set: Dataset,
        validation_set: Dataset | None = None,
        accelerator: Accelerator | None = None,
    ):
        self.accelerator = accelerator or Accelerator(step_scheduler_with_optimizer=False)
        set_seed(recipe.training.seed, device_specific=True)
        self.recipe, self.processor = recipe, processor
        self.train_set, self.validation_set = train_set, validation_set
        self.output_dir = Path(recipe.output_dir)
        objective = recipe.objective
        self.objective = MMPObjective(
            objective.form, objective.temperature, objective.margin, tuple(objective.terms), objective.mask_same_video
        )
        limits = (recipe.data.max_text_length, recipe.data.max_video_length)
        self.collator = MMPCollator(processor, *limits, objective.mask_ratio, recipe.training.seed)
        self.clean_collator = MMPCollator(processor, *limits, mask_ratio=0)
        optimizer = torch.optim.Adam(parameter_groups(model, recipe.training.learning_rate))
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.frozen_states = FrozenStates(recipe.data.frozen_states, model) if recipe.data.frozen_states else None

        self.batches = GlobalBatches(
            len(train_set),
            recipe.training.batch_size,
            recipe.training.seed,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        if len(self.batches) == 0:
            raise ValueError(f"{len(train_set)} training clip(s) do not make a batch: contrast needs at least two.")
        self.checkpoints = Checkpoints(self.output_dir, self.accelerator)
        self.epoch = 0
        self.batch_in_epoch = 0
        self.history: list[dict] = []
        self.best_score = -1.0
        self.stop_requested = False

    def fit(self) -> dict:
        """Train to the end, from the newest checkpoint if there is one. Returns the last entry of the history.

        The output folder then is the Hub repository of the selected model.

        Raises:
            Stopped: after SIGTERM or Ctrl-C; everything so far is in a checkpoint.
        """
        self.checkpoints.resume(self)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._request_stop)
        progress = tqdm(
            total=len(self.batches) * self.recipe.training.epochs,
            initial=self.epoch * len(self.batches) + self.batch_in_epoch,
            desc=self.recipe.name,
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        with progress:
            while self.epoch < self.recipe.training.epochs:
                self._train_epoch(progress)
                self._finish_epoch()
                progress.set_postfix({k: f"{v:.2f}" for k, v in self.history[-1].items() if k in ("loss", "R@1")})
        if self.validation_set is None:
            self.checkpoints.save_best(self)
        if self.frozen_states and self.accelerator.is_main_process:
            self.frozen_states.save()
        self.checkpoints.finish(self)
        return self.history[-1]

    def _train_epoch(self, progress: tqdm) -> None:
        self.model.train()
        self.train_set.set_epoch(self.epoch)
        self.collator.set_epoch(self.epoch % (self.recipe.data.noise_cycle or self.recipe.training.epochs))
        self.batches.epoch, self.batches.first_batch = self.epoch, self.batch_in_epoch
        if self.batch_in_epoch == 0:
            self.epoch_terms: list[dict[str, float]] = []
        started = time.monotonic()
        # A generator of their own: loaders draw a seed when they start, which must not move on the one dropout uses.
        loader = DataLoader(
            self.train_set, batch_sampler=self.batches, collate_fn=self.collator, generator=torch.Generator()
        )
        for batch in loader:
            terms = contrastive_step(
                self.model,
                self._prepare(batch),
                self.objective,
                self.accelerator,
                self.recipe.training.micro_batch_size,
            )
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.training.gradient_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.epoch_terms.append({name: value.item() for name, value in terms.items()})
            self.batch_in_epoch += 1
            progress.update()
            if self._must_stop():
                self.checkpoints.save(self)
                raise Stopped(f"Stopped in epoch {self.epoch + 1}; the same command goes on from there.")
            if time.monotonic() - started > 60 * self.recipe.training.save_minutes:
                self.checkpoints.save(self)
                started = time.monotonic()

    def _finish_epoch(self) -> None:
        entry = {"epoch": self.epoch + 1}
        entry |= {name: float(np.mean([terms[name] for terms in self.epoch_terms])) for name in self.epoch_terms[0]}
        if self.validation_set is not None:
            entry |= self.validate()
        self.history.append(entry)
        self.epoch += 1
        self.batch_in_epoch = 0
        score = sum(value for name, value in entry.items() if name.startswith("R@"))
        if self.validation_set is not None and score > self.best_score:
            self.best_score = score
            self.checkpoints.save_best(self)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """R@1, R@5, R@10 of the validation texts over the validation videos, in percent."""
        model = self.accelerator.unwrap_model(self.model).eval()
        texts, videos, indices = [], [], []
        for batch in DataLoader(self.validation_set, batch_size=128, collate_fn=self.clean_collator):
            batch = self._prepare(batch)
            indices.append(batch.pop("video_index"))
            output = model(**batch)
            texts.append(output.text_embeds)
            videos.append(output.video_embeds)
        # A video with several texts is one candidate; which of its equal embeddings stands for it does not matter.
        unique, targets = torch.cat(indices).unique(return_inverse=True)
        candidates = torch.cat(videos).new_empty(len(unique), videos[0].shape[1])
        candidates[targets] = torch.cat(videos)
        return recall_at_k(ranks_of_targets(torch.cat(texts), candidates, targets))

    def _prepare(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
        return self.frozen_states.replace_tokens(batch) if self.frozen_states else batch

    def _request_stop(self, number, frame) -> None:
        self.stop_requested = True

    def _must_stop(self) -> bool:
        """True on all processes as soon as one of them was asked to stop."""
        if self.accelerator.num_processes == 1:
            return self.stop_requested
        flag = torch.tensor([int(self.stop_requested)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag).item())

    def state_dict(self) -> dict:
        """Where the run stands, beside the weights and the optimizer's state."""
        return {
            "epoch": self.epoch,
            "batch_in_epoch": self.batch_in_epoch,
            "epoch_terms": self.epoch_terms,
            "history": self.history,
            "best_score": self.best_score,
        }

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def save(self, folder: Path) -> None:
        """Write the model as a Hub repository, with the recipe and the history of this run."""
        model = self.accelerator.unwrap_model(self.model)
        save_model(model, self.processor, self.recipe, folder)
        self.write_history(folder / "trainer_state.json")

    def write_history(self, path: Path) -> None:
        path.write_text(json.dumps({"history": self.history, "best_score": self.best_score}, indent=1))


def parameter_groups(model: MMPModel, learning_rate: float) -> list[dict]:
    """Trained parameters, grouped by learning rate: the model says which modules learn faster (§5.6)."""
    multipliers = model.learning_rate_multipliers
    groups: dict[float, list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(multipliers.get(name.split(".")[0], 1.0), []).append(parameter)
    return [{"params": parameters, "lr": learning_rate * factor} for factor, parameters in groups.items()]
