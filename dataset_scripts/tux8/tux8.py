"""Tux-8: pictures of 626 objects with sentences in 69 languages, for tests only.

`data_dir` is the folder that `polyvid fetch tux8` has made; see `README.md` beside this file.
"""

from collections.abc import Iterator
from typing import Any

import datasets
import pyarrow.parquet as pq

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder, Row, configs, human
from polyvid.dataset_scripts.schema import CAPTIONS
from polyvid.dataset_scripts.translations import Translations

FEATURES = datasets.Features(
    {**CAPTIONS, **dict.fromkeys(("category", "kind"), datasets.Value("string")), "clip": datasets.Value("binary")}
)
"""`CAPTIONS`, plus the first folder of the stamp, photo or drawing, and the clip: an mp4 of one frame, 224 × 224."""

CAPTION_ID = "caption"


class Tux8(BenchmarkBuilder):
    """The stamps that have a caption in every language of the protocol; in `tux_all`, all stamps."""

    BENCHMARK = "tux8"
    BUILDER_CONFIGS = configs("tux8")
    DEFAULT_CONFIG_NAME = "tux8"

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=self.config.description, features=FEATURES)

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        required = set() if self.config.name == "tux_all" else set(self.protocol.languages)
        found: dict[str, Row] = {}
        for row in pq.read_table(self.find_file("captions.parquet")).to_pylist():
            video = found.setdefault(row["video_id"], {key: row[key] for key in ("video_id", "category", "kind")})
            video.setdefault("all", {})[row["language"]] = row["text"]
        rows = []
        for video in found.values():
            texts = video.pop("all")
            if required <= texts.keys():
                captions = [human(CAPTION_ID, language, texts[language]) for language in languages if language in texts]
                rows.append({**video, "captions": captions})
        return rows

    def _generate_examples(self, rows: list[Row], translations: Translations | None) -> Iterator[tuple[str, Any]]:
        by_id = {row["video_id"]: row for row in rows}
        clips = self.find_file("captions.parquet").parent / "clips"
        for video_id, example in super()._generate_examples(rows, translations):
            clip = clips / f"{video_id}.mp4"
            if not clip.exists():
                raise FileNotFoundError(f"The clip of {video_id} is missing: there is no {clip}.")
            yield video_id, {**by_id[video_id], **example, "clip": clip.read_bytes()}
