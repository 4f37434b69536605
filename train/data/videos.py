"""Loads what a recipe names into memory: videos with their captions, and the features of videos."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder
from polyvid.dataset_scripts.building import find_shards, load_builder, read_shard
from polyvid.dataset_scripts.features import FEATURES, features_from_row, recorded_encoders
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.dataset_scripts.translations import Translations
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.recipe import DataRecipe


def load_videos(
    data: DataRecipe, split: str, languages: Sequence[str] | Literal["all"] | None = None
) -> list[dict[str, Any]]:
    """The videos of a split with their captions: rows of `polyvid.dataset_scripts.schema.CAPTIONS`, possibly with more.

    Args:
        data: names the dataset and its options.
        split: of the protocol.
        languages: of the captions. Languages without original captions come from `data.translations`. `"all"`: every
            language with captions, including translations. Default: the languages with original captions.

    Raises:
        PolyvidError: for an unknown dataset, config or split, or if languages or counts do not match the files.
        FileNotFoundError: if files are missing; the message names them.
    """
    if data.dataset is None:
        raise PolyvidError("data.dataset is missing: it names the videos and their captions.")
    builder_class = load_builder(data.dataset)
    options: dict[str, Any] = {}
    if issubclass(builder_class, BenchmarkBuilder):
        if languages == "all":
            languages = _languages_with_captions(builder_class, data) if data.translations is not None else None
        options = {"splits": split, "languages": languages and list(languages), "check_counts": data.check_counts}
        if languages is not None and data.translations is not None:
            options["translations"] = data.translations
    builder = builder_class(config_name=data.config, data_dir=data.data_dir, **options)
    splits = builder.as_streaming_dataset()
    if split not in splits:
        raise PolyvidError(f"{data.dataset} has no split {split!r}: choose from {' '.join(splits)}.")
    videos = list(splits[split])
    if data.caption_kinds is not None:
        for video in videos:
            video["captions"] = [c for c in video["captions"] if c["caption_id"] in data.caption_kinds]
    return videos


def _languages_with_captions(builder_class: type[BenchmarkBuilder], data: DataRecipe) -> list[str]:
    written = builder_class(config_name=data.config).protocol.languages
    translated = Translations(data.translations).languages if data.translations is not None else []
    return [language for language in LANGUAGES if language in (*written, *translated)]


class VideoFeatures(Mapping):
    """The features of all videos in a folder of shards, held in memory: video id -> float16 (seconds, dim).

    Attributes:
        encoders: the networks that made them, see `polyvid.modeling.provenance_mmp`; None if not recorded.

    Raises:
        FileNotFoundError: if the folder holds no shards.
        PolyvidError: if one of them is damaged.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.encoders = recorded_encoders(folder)
        self._arrays: dict[str, np.ndarray] = {}
        for shard in find_shards(folder):
            for row in read_shard(shard, list(FEATURES)).to_pylist():
                self._arrays[row["video_id"]] = features_from_row(row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, video_id: str) -> np.ndarray:
        try:
            return self._arrays[video_id]
        except KeyError:
            raise KeyError(f"No features of video {video_id} in {self.folder}: extract them first.") from None
