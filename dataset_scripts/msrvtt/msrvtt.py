"""MSR-VTT ("VTT") in English and, with translated captions, in nine languages (paper §5.1).

Official files, in `data_dir`: `train_val_videodatainfo.json` and `test_videodatainfo.json`, or the merged
`MSRVTT_data.json`; `MSRVTT_JSFUSION_test.csv` for the 1k-A test pairs of Yu et al. 2018.
"""

import csv
from collections import defaultdict
from functools import cached_property
from pathlib import Path

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder, Row, configs, human, read_lines
from polyvid.dataset_scripts.translations import read_json
from polyvid.modeling.errors_mmp import PolyvidError

OFFICIAL_PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "1k-A": {"train": ("train",), "validation": ("validate",)},
    "7k": {"train": ("train", "validate")},
    "9k": {"train": ("train", "validate", "test")},  # less the videos of the 1k-A test
    "official": {"train": ("train",), "validation": ("validate",), "test": ("test",)},
}


class MSRVTT(BenchmarkBuilder):
    """A caption's id is the `sen_id` of the official files; in the 1k-A test, the `key` of the list (`ret0`)."""

    BENCHMARK = "msrvtt"
    BUILDER_CONFIGS = configs("msrvtt")
    DEFAULT_CONFIG_NAME = "1k-A"

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        if split == "test" and self.config.name != "official":
            return [
                {"video_id": pair["video_id"], "captions": [human(pair["key"], "en", pair["sentence"])]}
                for pair in self._test_pairs
            ]
        parts = OFFICIAL_PARTS[self.config.name][split]
        held_out = {pair["video_id"] for pair in self._test_pairs} if self.config.name == "9k" else set()
        videos: dict[str, str] = {}
        sentences: dict[str, list[tuple[str, str]]] = {}
        for file in self._files(parts):
            part_of, captions = self._read(file)
            videos |= part_of
            sentences |= captions
        return [
            {
                "video_id": video_id,
                "captions": [human(sen_id, "en", text) for sen_id, text in sentences.get(video_id, [])],
            }
            for video_id in sorted(videos, key=lambda video_id: int(video_id.removeprefix("video")))
            if videos[video_id] in parts and video_id not in held_out
        ]

    def other_ids(self, video_id: str, caption_id: str) -> list[str]:
        """A 1k-A pair is one of the video's official captions: its translation may be filed under that `sen_id`."""
        return self._sen_ids_of_test_pairs.get((video_id, caption_id), [])

    def _files(self, parts: tuple[str, ...]) -> list[Path]:
        try:
            return [self.find_file("MSRVTT_data.json")]
        except FileNotFoundError:
            names = [] if parts == ("test",) else ["train_val_videodatainfo.json"]
            names += ["test_videodatainfo.json"] if "test" in parts else []
            return [self.find_file(name) for name in names]

    def _read(self, file: Path) -> tuple[dict[str, str], dict[str, list[tuple[str, str]]]]:
        """Of one official file: the part each video belongs to, and its captions as (sen_id, text)."""
        if file not in self._contents:
            content = read_json(file)
            try:
                videos = {video["video_id"]: video["split"] for video in content["videos"]}
                sentences = defaultdict(list)
                for sentence in content["sentences"]:
                    sentences[sentence["video_id"]].append((str(sentence["sen_id"]), sentence["caption"]))
            except (KeyError, TypeError) as error:
                raise PolyvidError(f"{file}: not an MSR-VTT annotation file, {error} is missing.") from error
            self._contents[file] = videos, dict(sentences)
        return self._contents[file]

    @cached_property
    def _contents(self) -> dict[Path, tuple[dict[str, str], dict[str, list[tuple[str, str]]]]]:
        return {}

    @cached_property
    def _test_pairs(self) -> list[dict[str, str]]:
        file = self.find_file("MSRVTT_JSFUSION_test.csv")
        pairs = list(csv.DictReader(read_lines(file)))
        if not pairs or not {"key", "video_id", "sentence"} <= set(pairs[0]):
            raise PolyvidError(f"{file}: expected rows with the columns key, vid_key, video_id, sentence.")
        return pairs

    @cached_property
    def _sen_ids_of_test_pairs(self) -> dict[tuple[str, str], list[str]]:
        if self.config.name == "official":
            return {}
        try:
            files = self._files(("test",))
        except FileNotFoundError:  # the 1k-A test can be built from its list alone
            return {}
        captions = {video_id: texts for file in files for video_id, texts in self._read(file)[1].items()}
        return {
            (pair["video_id"], pair["key"]): [
                sen_id for sen_id, text in captions.get(pair["video_id"], []) if text == pair["sentence"]
            ]
            for pair in self._test_pairs
        }
