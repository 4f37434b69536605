"""What training leaves, in small: folders as `polyvid train` writes them, for cards and pushes."""

import csv
import json
from pathlib import Path

import numpy as np

from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.train.recipe import DataRecipe, ModelRecipe, Recipe, TrainingRecipe, save_recipe
from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor

EMOJI = Path(__file__).parents[1] / "dataset_scripts" / "fluent_emoji_9"


def emoji_ids(split: str) -> list[str]:
    with open(EMOJI / "splits.csv", newline="") as file:
        return [row["video_id"] for row in csv.DictReader(file) if row["split_0"] == split]


def write_features(folder: Path, video_ids: list[str]) -> None:
    """Random features, and what they are said to have been extracted with."""
    generator = np.random.default_rng(0)
    rows = [features_to_row(video_id, generator.normal(size=(2, VIDEO_FEATURE_DIM))) for video_id in video_ids]
    write_shard([rows_to_table(rows)], folder / shard_name("train", 0, 1), FEATURES.arrow_schema.remove_metadata())
    encoder = {"name": "net", "fps": 7, "window": 5, "stride": 6, "scaling": None, "dtype": "float32"}
    (folder / "extraction.json").write_text(json.dumps({"encoders": [encoder], "per": "second", "num_shards": 1}))


def write_model(folder: Path, counted: bool = True) -> None:
    """A finished run of two stages: `<folder>_pretrain` in nine languages, then `folder` in English.

    `counted`: on the embedded benchmark, which a card counts; else on clips that are gone, which takes no time.
    """
    pretrained = folder.with_name(f"{folder.name}_pretrain")
    emoji = {"dataset": "fluent_emoji_9", "config": "split_0", "caption_kinds": ["name"]}
    data = emoji if counted else {"clips": str(folder.parent / "gone")}
    data |= {"features": str(folder.parent / "features")}
    shape = {"embed_dim": 16, "video_feature_dim": VIDEO_FEATURE_DIM}
    first = Recipe(
        name=pretrained.name,
        output_dir=str(pretrained),
        model=ModelRecipe(backbone="intfloat/multilingual-e5-small", **shape),
        data=DataRecipe(**data, train_split="pretrain", languages=list(LANGUAGES)),
        training=TrainingRecipe(epochs=31),
    )
    second = Recipe(
        name=folder.name,
        output_dir=str(folder),
        model=ModelRecipe(init_from=str(pretrained), **shape),
        data=DataRecipe(**data, train_split="finetune"),
    )
    for recipe in (first, second):
        output = Path(recipe.output_dir)
        tiny_model().save_pretrained(output)
        tiny_processor().save_pretrained(output)
        save_recipe(recipe, output / "recipe.yaml")
        (output / "trainer_state.json").write_text(json.dumps({"step": 70, "history": []}))
        (output / "steps.jsonl").write_text('{"step": 1}\n')
        (output / "curves.png").write_bytes(b"\x89PNG" + bytes(2000))
