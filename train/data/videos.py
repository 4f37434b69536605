"""Loads what a recipe names into memory: videos with their captions, and the features of videos."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder
from polyvid.dataset_scripts.building import all_shards, load_builder, read_shard
from polyvid.dataset_scripts.features import FEATURES, features_from_row, recorded_encoders
from polyvid.dataset_scripts.own_data.opening import OwnDataset, known_dataset, open_own
from polyvid.dataset_scripts.schema import in_table_order
from polyvid.dataset_scripts.translations import Translations, translated_captions
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.extraction.listing import list_videos
from polyvid.train.recipe import DataRecipe


def load_videos(
    data: DataRecipe, split: str, languages: Sequence[str] | Literal["all"] | None = None
) -> list[dict[str, Any]]:
    """The videos of a split with their captions: rows of `polyvid.dataset_scripts.schema.CAPTIONS`, possibly with more.

    Args:
        data: names the dataset and its options.
        split: of the protocol, or of one's own dataset.
        languages: of the captions. Languages without original captions come from `data.translations`. `"all"`: every
            language with captions, including translations. Default: the languages with original captions.

    Raises:
        PolyvidError: for an unknown dataset, config or split, or if languages or counts do not match the files.
        FileNotFoundError: if files are missing; the message names them.
    """
    if data.dataset is None:
        raise PolyvidError("data.dataset is missing: it names the videos and their captions.")
    if (known := known_dataset(data.dataset)) is None:
        return _with_kinds(_own_videos(data, split, languages), data)
    builder_class = load_builder(known)
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
    return _with_kinds(list(splits[split]), data)


def open_dataset(data: DataRecipe) -> OwnDataset | None:
    """The dataset of a recipe, if it is one's own; None if it is one of this package.

    Raises:
        FileNotFoundError, PolyvidError: if there is none, or it is wrong; see `open_own`.
    """
    if data.dataset is None or known_dataset(data.dataset) is not None:
        return None
    return open_own(data.dataset, data.config, data.data_dir, data.columns, data.split_seed)


def write_splits(data: DataRecipe, folder: Path) -> None:
    """Write down which of one's own videos are in which split, as `split.csv`, where nothing but a seed says it."""
    own = open_dataset(data)
    if own is not None and own.is_drawn:
        own.write_splits(folder / "split.csv")
        print(f"Which video is in which split was drawn, and is written in {folder / 'split.csv'}.")


def caption_languages(videos: Iterable[Mapping[str, Any]]) -> list[str]:
    """Languages with captions, that with the most first."""
    counts = Counter(caption["language"] for video in videos for caption in video["captions"])
    return sorted(counts, key=lambda language: (-counts[language], language))


def _own_videos(data: DataRecipe, split: str, languages: Sequence[str] | Literal["all"] | None) -> list[dict[str, Any]]:
    own = open_dataset(data)
    assert own is not None
    videos = own.rows(split)
    written = own.languages
    if data.translations is not None and languages is not None:
        wanted = None if languages == "all" else [language for language in languages if language not in written]
        if wanted is None or wanted:
            translations = Translations(data.translations, wanted)
            written += [language for language in translations.languages if language not in written]
            for video in videos:
                video["captions"] += [c for _, c in translated_captions(video, translations) if c is not None]
    if languages is None or languages == "all":
        return videos
    if missing := [language for language in languages if language not in written]:
        raise PolyvidError(
            f"{own.name} has no captions in {' '.join(missing)}: it has {' '.join(written)}. Set data.languages and "
            "data.validation_languages to some of these ([all] takes all), or data.translations."
        )
    for video in videos:
        video["captions"] = [caption for caption in video["captions"] if caption["language"] in languages]
    return videos


def _with_kinds(videos: list[dict[str, Any]], data: DataRecipe) -> list[dict[str, Any]]:
    if data.caption_kinds is not None:
        for video in videos:
            video["captions"] = [c for c in video["captions"] if c["caption_id"] in data.caption_kinds]
    return videos


def _languages_with_captions(builder_class: type[BenchmarkBuilder], data: DataRecipe) -> list[str]:
    written = builder_class(config_name=data.config).protocol.languages
    translated = Translations(data.translations).languages if data.translations is not None else []
    return in_table_order([*written, *translated])


def feature_width(data: DataRecipe, features: Mapping[str, np.ndarray] | None) -> int:
    """Width of the features that a recipe names.

    Raises:
        PolyvidError: if there are none, or streamed ones do not say it.
    """
    if features:
        return int(next(iter(features.values())).shape[1])
    folder = data.clips or data.features
    columns = [record.get("columns") for record in recorded_encoders(folder) or []] if folder is not None else []
    if not columns or None in columns:
        raise PolyvidError("How wide the features are is not recorded: set model.video_feature_dim to a number.")
    return sum(column for column in columns if column is not None)


class VideoFiles(Mapping):
    """The video files of a folder or a list: video id → path, for models that see videos themselves.

    Raises:
        FileNotFoundError: if there is no such folder or list.
        PolyvidError: as `list_videos`.
    """

    encoders = None  # nothing was extracted

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._paths = list_videos(folder)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, video_id: str) -> Path:
        return self._paths[video_id]


class VideoFeatures(Mapping):
    """The features of all videos in a folder of shards, held in memory: video id -> float16 (seconds, dim).

    Shards of features alone are one split, `train`; joined with captions they are of every split, and all are read.

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
        for shard in all_shards(folder):
            table = read_shard(shard, list(FEATURES))
            if table.schema.field("video_id").type not in (pa.string(), pa.large_string()):
                raise PolyvidError(f"{shard} is damaged (video_id holds no text): delete it and make it again.")
            for row in table.to_pylist():
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
