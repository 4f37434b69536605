"""A trainer with a tiny model on videos that each are one word."""

from pathlib import Path

import numpy as np
import torch

from polyvid.train.data.captions import PivotSampler
from polyvid.train.loop.setup import assemble
from polyvid.train.loop.trainer import Trainer
from polyvid.train.loop.validation import ValidationSet
from polyvid.train.recipe import DataRecipe, Recipe, TrainingRecipe
from tiny import VIDEO_FEATURE_DIM, WORDS, tiny_model, tiny_processor


def videos_and_features(count: int = 16):
    """The features of each video point in a direction of their own."""
    generator = np.random.default_rng(0)
    features = {f"video{i}": generator.normal(size=(3, VIDEO_FEATURE_DIM)).astype(np.float16) for i in range(count)}
    captions = [{"caption_id": "0", "language": "en", "text": WORDS[i], "source": "human"} for i in range(count)]
    return [{"video_id": f"video{i}", "captions": [captions[i]]} for i in range(count)], features


def tiny_trainer(
    output_dir: Path, pooler_dropout: float = 0.3, freeze_below: int = 2, accelerator=None, **training
) -> Trainer:
    """16 videos in three batches an epoch, unless `training` says otherwise."""
    recipe = Recipe(
        name="test",
        output_dir=str(output_dir),
        data=DataRecipe(dataset="none", features="none"),
        training=TrainingRecipe(**({"epochs": 3, "batch_size": 6, "learning_rate": 2e-3} | training)),
    )
    videos, features = videos_and_features()
    train_set = PivotSampler(videos, features, seed=recipe.training.seed)
    model = tiny_model(pooler_dropout=pooler_dropout, freeze_below=freeze_below)
    return assemble(recipe, model, tiny_processor(), train_set, ValidationSet(videos, features), accelerator)


def spoil_loss(trainer, steps: set[int], factor: float = torch.inf) -> None:
    """The loss of these steps is infinite, or multiplied by `factor`; everything else is unchanged."""
    objective = trainer.objective

    def spoiled(outputs, video_index):
        terms = objective(outputs, video_index)
        return terms | {"loss": terms["loss"] * factor} if trainer.progress.step + 1 in steps else terms

    trainer.objective = spoiled
