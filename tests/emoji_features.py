"""Random features of all clips of Fluent-Emoji-9, as `polyvid extract` would store them."""

from pathlib import Path

import numpy as np

from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.dataset_scripts.fluent_emoji_9 import build

FOLDER = Path(build.__file__).parent


def write_features(folder: Path, dim: int = 1280) -> Path:
    """Random features of every clip."""
    generator = np.random.default_rng(0)
    video_ids = sorted(path.stem for path in (FOLDER / "clips").glob("*.mp4"))
    rows = [features_to_row(video_id, generator.normal(size=(2, dim))) for video_id in video_ids]
    folder.mkdir()
    write_shard([rows_to_table(rows)], folder / shard_name("train", 0, 1), FEATURES.arrow_schema.remove_metadata())
    return folder
