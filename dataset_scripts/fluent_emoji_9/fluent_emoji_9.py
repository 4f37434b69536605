"""Fluent-Emoji-9: 1,607 animated emoji with captions in nine languages, an openly licensed text-video benchmark.

The data are in this folder (`build.py` made them): `clips/{video_id}.mp4`, `captions.parquet`, `splits.csv`.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq

from polyvid.dataset_scripts.building import LocalBuilder
from polyvid.dataset_scripts.schema import CAPTIONS, LANGUAGES

SPLITS = ("pretrain", "finetune", "validation", "test")

FEATURES = datasets.Features({**CAPTIONS, "family": datasets.Value("string"), "clip": datasets.Value("binary")})
"""`CAPTIONS`, plus the variants' common family and the mp4 itself (224 × 224, AV1, 4 frames per second).

A clip has up to two captions in each language, told apart by `caption_id`: `name`, the short name that CLDR's
translators agreed on, and `keywords`, their search terms joined by commas, without the name.
"""


class FluentEmoji9(LocalBuilder, datasets.GeneratorBasedBuilder):
    """Config `split_0` is the benchmark; `split_1` to `split_3` split the same clips differently, to measure spread."""

    BUILDER_CONFIGS = [
        datasets.BuilderConfig(name=name, version=datasets.Version("1.0.0"))
        for name in ("split_0", "split_1", "split_2", "split_3")
    ]
    DEFAULT_CONFIG_NAME = "split_0"

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Fluent emoji animations with Unicode CLDR names and keywords in nine languages",
            features=FEATURES,
            license="MIT (animations), Unicode-3.0 (captions)",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        folder = Path(self.config.data_dir or self.base_path or Path(__file__).parent)
        for name in ("captions.parquet", "splits.csv", "clips"):
            if not (folder / name).exists():
                raise FileNotFoundError(f"{folder} holds no {name}: pass data_dir, the folder with the built data.")
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"folder": str(folder), "split": split}) for split in SPLITS
        ]

    def _generate_examples(self, folder: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        captions: dict[str, list[dict[str, str]]] = {}
        for row in pq.read_table(Path(folder) / "captions.parquet").to_pylist():
            name, language = row["name"], row["language"]
            keywords = [keyword for keyword in row["keywords"] if keyword.casefold() != name.casefold()]
            for caption_id, text in (("name", name), ("keywords", ", ".join(keywords))):
                if text:
                    caption = {"caption_id": caption_id, "language": language, "text": text, "source": "human"}
                    captions.setdefault(row["video_id"], []).append(caption)
        with open(Path(folder) / "splits.csv", newline="") as file:
            for row in csv.DictReader(file):
                if row[self.config.name] != split:
                    continue
                video_id = row["video_id"]
                clip = Path(folder) / "clips" / f"{video_id}.mp4"
                if not clip.exists():
                    raise FileNotFoundError(f"The clip of {video_id} is missing: there is no {clip}.")
                ordered = sorted(captions[video_id], key=lambda caption: LANGUAGES.index(caption["language"]))
                yield (
                    video_id,
                    {"video_id": video_id, "captions": ordered, "family": row["family"], "clip": clip.read_bytes()},
                )
