"""What a run leaves on disk, each folder written under a temporary name and then renamed.

output_dir/                          the selected model as a Hub repository, once the run is finished
output_dir/steps.jsonl               loss terms, gradient norm and learning rate of every step
output_dir/checkpoints/best/         the selected model, likewise a repository, as of the newest checkpoint
output_dir/checkpoints/step-00001200/   state to resume from: a repository plus what was selected up to this step
                                        (best.pt: trained weights), optimizer, generators, position
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers.utils import logging

from polyvid.modeling import MMPConfig, MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.loop.curves import plot_curves
from polyvid.train.loop.processes import Processes
from polyvid.train.recipe import Recipe, differences, load_recipe, save_recipe

# What may change between a run and its continuation, because no step depends on it.
CHANGEABLE = {"name", "output_dir", "data.frozen_states", "training.num_workers"}
CHANGEABLE |= {f"training.{key}" for key in ("save_minutes", "keep_last", "log_steps", "trackers")}
CHANGEABLE |= {"training.max_skipped_steps", "training.divergence"}
PATHS = {"data.clips", "data.data_dir", "data.features", "data.translations", "model.backbone", "model.init_from"}


Weights = dict[str, torch.Tensor]
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def whole_weights(model: nn.Module) -> Weights:
    """The state of a model on the CPU, of its shards and wrappers unmade; nothing but on the main process.

    Where the model lies on the CPU unsharded, these are its own tensors. Every process must make the call.
    """
    return get_model_state_dict(model, options=WHOLE)


def trained_weights(model: nn.Module) -> Weights:
    """A copy of what training changes: without the frozen layers, which in the demo are nine tenths of a model."""
    trained = get_model_state_dict(model, options=replace(WHOLE, ignore_frozen_params=True))
    return {name: value.clone() for name, value in trained.items()}


def save_model(config: MMPConfig, weights: Weights, processor: MMPProcessor, recipe: Recipe, folder: Path) -> None:
    """Weights, configuration, remote code, processor and recipe: all that `AutoModel` and a reader need."""
    with torch.device("meta"):  # without weights of its own, and of a class that nothing has wrapped
        model = MMPModel(config).to(next(iter(weights.values())).dtype)
    logging.disable_progress_bar()  # a bar per file would break the run's own
    model.save_pretrained(folder, state_dict=weights)
    logging.enable_progress_bar()
    processor.save_pretrained(folder)
    save_recipe(recipe, folder / "recipe.yaml")
    (folder / "model.safetensors").chmod(0o644)  # written readable to its owner only, which web servers stumble over


class Checkpoints:
    """Saves and restores a `Trainer`. Every process must make every call."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, processes: Processes):
        self.recipe, self.accelerator, self.processes = recipe, accelerator, processes
        self.output_dir = Path(recipe.output_dir)
        self.folder = self.output_dir / "checkpoints"
        self.best = self.folder / "best"
        self._score_of_best: float | None = None  # of the model that lies in `best`, where this process wrote it

    def is_finished(self) -> bool:
        """Whether the output folder holds the finished model of this recipe.

        Raises:
            PolyvidError: if it holds that of another one.
        """
        if not (self.output_dir / "model.safetensors").exists():
            return False
        self._check_recipe(self.output_dir, CHANGEABLE)
        return True

    def to_resume(self) -> Path | None:
        """The newest complete checkpoint."""
        return max(self.folder.glob("step-*"), default=None)

    def save(self, trainer) -> None:
        """Write all that `resume` needs, and remove the oldest checkpoint if there are more than `keep_last`."""
        folder = self.folder / f"step-{trainer.step:08d}"
        if self.processes.from_main(folder.exists()):
            return  # stopped before another step was made
        own = {"cpu": torch.get_rng_state(), "batches": trainer.batches.state_dict()}
        if torch.cuda.is_available():
            own["cuda"] = torch.cuda.get_rng_state()
        states = self.processes.gather(own)
        weights, optimizer = whole_weights(trainer.model), trainer.optimizer.optimizer
        optimizer_state = get_optimizer_state_dict(trainer.model, optimizer, options=WHOLE)

        def write(folder: Path) -> None:
            trainer.save(folder, weights)
            torch.save(trainer.best_weights, folder / "best.pt")
            torch.save(optimizer_state, folder / "optimizer.pt")
            torch.save(trainer.state_dict(), folder / "progress.pt")
            torch.save(states, folder / "processes.pt")

        self._write(folder, write)
        if self.processes.rank == 0:
            for old in sorted(self.folder.glob("step-*"))[: -self.recipe.training.keep_last]:
                _remove(old)
        # After the checkpoint, which holds all that resuming needs: this is for whoever wants to try it meanwhile.
        if trainer.best_weights is not None and self._score_of_best != trainer.best_score:
            self._write(self.best, lambda folder: trainer.save(folder, weights | trainer.best_weights))
            self._score_of_best = trainer.best_score

    def resume(self, trainer) -> None:
        """Bring the trainer to where the newest checkpoint was written, if there is one.

        Raises:
            PolyvidError: if it was written by another recipe or by another number of processes.
        """
        last = self.processes.from_main(self.to_resume())  # before anybody can write another
        if last is None:
            return
        self._check_recipe(last, CHANGEABLE | PATHS)
        states = torch.load(last / "processes.pt", weights_only=True)
        if len(states) != self.processes.count:
            raise PolyvidError(
                f"{last} was written by {len(states)} process(es), this launch has {self.processes.count}: launch as "
                f"before, or start anew from its weights: model.init_from={last} in another output_dir."
            )
        every = StateDictOptions(full_state_dict=True)  # each process reads all of it and keeps its shard
        saved = MMPModel.from_pretrained(last)
        set_model_state_dict(trainer.model, saved.state_dict(), options=every)
        optimizer_state = torch.load(last / "optimizer.pt", weights_only=True)
        set_optimizer_state_dict(trainer.model, trainer.optimizer.optimizer, optimizer_state, options=every)
        trainer.load_state_dict(torch.load(last / "progress.pt", weights_only=True))
        trainer.best_weights = torch.load(last / "best.pt", weights_only=True)
        own = states[self.processes.rank]
        trainer.batches.load_state_dict(own["batches"])
        torch.set_rng_state(own["cpu"])
        if "cuda" in own and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["cuda"])

    def finish(self, trainer) -> None:
        """Make the selected model the content of the output folder; the state to resume from is not needed any more."""
        weights = whole_weights(trainer.model) | (trainer.best_weights or {})
        self._write(self.best, lambda folder: trainer.save(folder, weights))

        def publish() -> None:
            plot_curves(self.output_dir / "steps.jsonl", trainer.history, self.best / "curves.png")
            # Linked, not moved: killed half-way, the run is resumed and gets here again. The weights come last, because
            # their presence says that the run is finished.
            for path in sorted(self.best.iterdir(), key=lambda path: path.suffix == ".safetensors"):
                (self.output_dir / path.name).unlink(missing_ok=True)
                os.link(path, self.output_dir / path.name)
            shutil.rmtree(self.folder)

        self._on_main(publish)

    def _check_recipe(self, folder: Path, ignored: set[str]) -> None:
        found = differences(load_recipe(folder / "recipe.yaml"), self.recipe, ignored)
        if found:
            raise PolyvidError(
                f"{folder} is of another recipe ({'; '.join(found)}): set it back, or choose another output_dir."
            )

    def _write(self, folder: Path, write: Callable[[Path], None]) -> None:
        def write_and_rename() -> None:
            unfinished = folder.with_name(f".{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            try:
                write(unfinished)
                for path in unfinished.iterdir():  # on disk before the name is: the machine may go down too
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            if folder.exists():
                shutil.rmtree(_outdated(folder), ignore_errors=True)
                os.replace(folder, _outdated(folder))
            os.replace(unfinished, folder)
            shutil.rmtree(_outdated(folder), ignore_errors=True)

        self._on_main(write_and_rename, f"Cannot write {folder}")

    def _on_main(self, work: Callable[[], None], problem: str = "Cannot finish") -> None:
        """Do it on the main process; where it fails, every process raises the same OSError instead of waiting."""
        error = None
        if self.processes.rank == 0:
            try:
                work()
            except (OSError, SafetensorError, RuntimeError) as caught:  # torch.save turns a full disk into the last
                last = self.to_resume()
                going_on = f"the same command goes on from {last}" if last else "nothing was saved before it"
                error = f"{problem} ({' '.join(str(caught).split())[:200]}). Make room; {going_on}."
        error = self.processes.from_main(error)
        if error:
            raise OSError(error)


def _outdated(folder: Path) -> Path:
    """Where a folder waits while its successor takes its place."""
    return folder.with_name(f".{folder.name}.outdated")


def _remove(folder: Path) -> None:
    """A folder half removed must not be taken for a checkpoint."""
    outdated = _outdated(folder)
    os.replace(folder, outdated)
    shutil.rmtree(outdated, ignore_errors=True)
