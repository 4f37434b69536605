"""What a run leaves on disk, each folder written under a temporary name and then renamed.

output_dir/                      the selected model as a Hub repository, once the run is finished
output_dir/checkpoints/best/     the selected model so far, likewise a repository
output_dir/checkpoints/last/     the newest state to resume from: a repository plus optimizer, generators, position
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers.utils import logging

from mmp.modeling import MMPModel, MMPProcessor
from mmp.train.recipe import Recipe, save_recipe


def save_model(model: MMPModel, processor: MMPProcessor, recipe: Recipe, folder: Path) -> None:
    """Weights, configuration, remote code, processor and recipe: all that `AutoModel` and a reader need."""
    logging.disable_progress_bar()  # a bar per file would break the run's own
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    processor.save_pretrained(folder)
    save_recipe(recipe, folder / "recipe.yaml")
    (folder / "model.safetensors").chmod(0o644)  # written readable to its owner only, which web servers stumble over


class Checkpoints:
    """Saves and restores a `Trainer`."""

    def __init__(self, output_dir: Path, accelerator: Accelerator):
        self.output_dir, self.accelerator = output_dir, accelerator
        self.best = output_dir / "checkpoints" / "best"
        self.last = output_dir / "checkpoints" / "last"

    def is_finished(self) -> bool:
        return (self.output_dir / "model.safetensors").exists()

    def save_best(self, trainer) -> None:
        self._write(self.best, trainer.save)

    def save(self, trainer) -> None:
        """Write all that `resume` needs. Every process must make the call: each has generators of its own."""

        def write(folder: Path) -> None:
            trainer.save(folder)
            torch.save(trainer.optimizer.state_dict(), folder / "optimizer.pt")
            torch.save(trainer.state_dict(), folder / "progress.pt")

        generators = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        states = self._gather(generators)

        def write_all(folder: Path) -> None:
            write(folder)
            torch.save(states, folder / "generators.pt")

        self._write(self.last, write_all)

    def resume(self, trainer) -> None:
        if not self.last.exists():
            if not _outdated(self.last).exists():
                return
            os.replace(_outdated(self.last), self.last)  # killed between two renames
        model = self.accelerator.unwrap_model(trainer.model)
        saved = type(model).from_pretrained(self.last, dtype=model.dtype)
        model.load_state_dict(saved.state_dict())
        trainer.optimizer.load_state_dict(torch.load(self.last / "optimizer.pt", weights_only=True))
        trainer.load_state_dict(torch.load(self.last / "progress.pt", weights_only=True))
        states = torch.load(self.last / "generators.pt", weights_only=True)[self.accelerator.process_index]
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"])

    def finish(self, trainer) -> None:
        """Make the selected model the content of the output folder; the state to resume from is not needed any more."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            trainer.write_history(self.best / "trainer_state.json")
            # Linked, not moved: killed half-way, the run is resumed and gets here again. The weights come last, because
            # their presence says that the run is finished.
            for path in sorted(self.best.iterdir(), key=lambda path: path.suffix == ".safetensors"):
                (self.output_dir / path.name).unlink(missing_ok=True)
                os.link(path, self.output_dir / path.name)
            shutil.rmtree(self.output_dir / "checkpoints")
        self.accelerator.wait_for_everyone()

    def _gather(self, item: dict) -> list[dict]:
        if self.accelerator.num_processes == 1:
            return [item]
        items = [None] * self.accelerator.num_processes
        torch.distributed.all_gather_object(items, item)
        return items

    def _write(self, folder: Path, write: Callable[[Path], None]) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            unfinished = folder.with_name(f".{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write(unfinished)
            outdated = _outdated(folder)
            shutil.rmtree(outdated, ignore_errors=True)
            if folder.exists():
                os.replace(folder, outdated)
            os.replace(unfinished, folder)
            shutil.rmtree(outdated, ignore_errors=True)
        self.accelerator.wait_for_everyone()


def _outdated(folder: Path) -> Path:
    """Where a folder waits while its successor takes its place."""
    return folder.with_name(f".{folder.name}.outdated")
