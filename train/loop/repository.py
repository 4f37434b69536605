"""Writes a model as a Hub repository: what `AutoModel`, `AutoProcessor` and the model card need."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging

from polyvid.modeling import MMPConfig, MMPModel, MMPProcessor
from polyvid.train.loop.state import TrainingState, Weights
from polyvid.train.recipe import Recipe, save_recipe
from polyvid.train.scoring.results import environment


@dataclass(frozen=True)
class ModelRepository:
    """Writes the models of one run, which differ only in their weights.

    Args:
        config: of the model.
        processor: saved with it.
        recipe: of the run.
        num_processes: of the run, for the card.
    """

    config: MMPConfig
    processor: MMPProcessor
    recipe: Recipe
    num_processes: int

    def write(self, folder: Path, weights: Weights, state: TrainingState) -> None:
        """Write weights, configuration, remote code, processor, recipe, and the history up to `state`."""
        save_model(self.config, weights, self.processor, self.recipe, folder)
        record = {
            "step": state.progress.step,
            "best_score": state.progress.best_score,
            "skipped_steps": state.step_log["skipped"],
            "gradient_spikes": state.step_log["spikes"],
            "history": state.progress.history,
            "environment": environment() | {"processes": self.num_processes},
        }
        (folder / "trainer_state.json").write_text(json.dumps(record, indent=1) + "\n")


def save_model(config: MMPConfig, weights: Weights, processor: MMPProcessor, recipe: Recipe, folder: Path) -> None:
    """Write weights, configuration, remote code, processor and recipe."""
    with torch.device("meta"):  # no weights allocated, and no wrapper around the class
        model = MMPModel(config).to(next(iter(weights.values())).dtype)
    logging.disable_progress_bar()  # a bar per file would disturb the bar of the run
    model.save_pretrained(folder, state_dict=weights)
    logging.enable_progress_bar()
    processor.save_pretrained(folder)
    save_recipe(recipe, folder / "recipe.yaml")
    (folder / "model.safetensors").chmod(0o644)  # written as readable by the owner only, which breaks web servers
