"""The data pack of C2KD (Rouditchenko et al. 2023): Multi-MSRVTT, VATEX, Multi-YouCook2 and RUDDER with features.

The unpacked files, in `data_dir`, are pickled lists with a dict for each video: its `id`, features as numpy arrays
(rows, dim), mel spectrograms, which are not read, and captions:

- Multi-MSRVTT and VATEX: `caption_<language>`, a list, in the training file, and `eval_caption_<language>`, one
  sentence, in the test file;
- Multi-YouCook2: `caption_<language>`, one sentence; Czech is `cz`;
- RUDDER: `captions`, a dict by language; some languages may be missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder, BenchmarkConfig, Row, human
from polyvid.dataset_scripts.features import FEATURES, features_to_row
from polyvid.dataset_scripts.pickles import load_pickle
from polyvid.dataset_scripts.protocols import protocols_of
from polyvid.dataset_scripts.schema import CAPTIONS
from polyvid.modeling.errors_mmp import PolyvidError

logger = datasets.logging.get_logger(__name__)

FILES = {
    "msrvtt": {"train": "msrvtt_train_multilingual.pkl", "test": "msrvtt_jsfusion_test_multilingual.pkl"},
    "vatex": {"train": "vatex_train_multilingual.pkl", "test": "vatex_test_multilingual.pkl"},
    "youcook2": {"train": "youcook_train_audio_multilingual.pkl", "validation": "youcook_val_audio_multilingual.pkl"},
    "rudder": {"train": "rudder_train.pkl", "test": "rudder_test.pkl"},
}
OTHER_NAMES = {("youcook2", "validation", "s3d"): "youcook_val_audio_multilingual_fixed.pkl"}
FEATURE_KEYS = {
    ("msrvtt", "clip"): "2d",
    ("msrvtt", "s3d"): "s3d",
    ("vatex", "clip"): "2d",
    ("youcook2", "clip"): "2d_raw",
    ("youcook2", "s3d"): "s3d",
    ("rudder", "clip"): "2d",
}
"""The pack has a folder of files for each network, such as `youcook2/s3d/`; the key of the features differs."""

OTHER_CODES = {"cs": "cz"}
BY_PEOPLE = {"msrvtt": ("en",), "vatex": ("en", "zh"), "youcook2": ("en",), "rudder": ()}
"""What is known to be written by people. The other captions are signed with the name of their file."""


@dataclass
class PackConfig(BenchmarkConfig):
    """`network`: whose features are joined to the captions, `"clip"` or `"s3d"`; default: captions alone."""

    network: str | None = None


class C2KD(BenchmarkBuilder):
    """Sentences of one video in two languages have the same id, except in VATEX, where people wrote both."""

    BENCHMARK = "c2kd"
    BUILDER_CONFIG_CLASS = PackConfig
    BUILDER_CONFIGS = [
        PackConfig(name=protocol.name, version=datasets.Version("1.0.0"), description=protocol.source)
        for protocol in protocols_of("c2kd").values()
    ]
    DEFAULT_CONFIG_NAME = "msrvtt"

    def _info(self) -> datasets.DatasetInfo:
        info = super()._info()
        if self.config.network is not None:
            known = [network for dataset, network in FEATURE_KEYS if dataset == self.config.name]
            if self.config.network not in known:
                raise PolyvidError(
                    f"C2KD's pack has no features of {self.config.network!r} for {self.config.name}: choose from "
                    f"{' '.join(known)}."
                )
            info.features = datasets.Features({**FEATURES, **CAPTIONS})
        return info

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        file = self._file(split)
        entries = load_pickle(file)
        if not isinstance(entries, list):
            raise PolyvidError(f"{file} holds a {type(entries).__name__}, not a list of videos.")
        rows: dict[str, Row] = {}
        without_features = []
        for number, entry in enumerate(entries):
            where = f"{file}, video {number}"
            if not isinstance(entry, dict) or "id" not in entry:
                raise PolyvidError(f"{where}: expected a dict with the key 'id'.")
            video_id = str(entry["id"])
            where += f" ({video_id})"
            if video_id in rows:
                raise PolyvidError(f"{where}: this id is in the file twice.")
            rows[video_id] = {"video_id": video_id, "captions": self._captions(entry, split, languages, where)}
            if self.config.network is not None:
                array = self._features(entry, where)
                if len(array):
                    rows[video_id] = features_to_row(video_id, array) | rows[video_id]
                else:
                    without_features.append(video_id)
            entries[number] = None  # frees what is not needed, such as spectrograms
        if without_features:
            logger.warning(f"{file}: {len(without_features)} videos have no features and are left out.")
            self.report.setdefault("without_features", {})[split] = without_features
        return [row for row in rows.values() if self.config.network is None or "video_features" in row]

    @cached_property
    def report(self) -> dict[str, Any]:
        """What `polyvid build` writes into its report."""
        return {}

    def _file(self, split: str) -> Path:
        name, network = FILES[self.config.name][split], self.config.network
        if network is None:
            return self.find_file(name, OTHER_NAMES.get((self.config.name, split, "s3d"), name))
        name = OTHER_NAMES.get((self.config.name, split, network), name)
        return self.find_file(f"{self.config.name}/{network}/{name}", f"{network}/{name}", name)

    def _captions(self, entry: Mapping[str, Any], split: str, languages: list[str], where: str) -> list[dict]:
        captions = []
        for language in languages:
            code = OTHER_CODES.get(language, language)
            if self.config.name == "rudder":
                if not isinstance(entry.get("captions"), dict):
                    raise PolyvidError(f"{where}: there is no dict of captions, only {_keys(entry)}.")
                found = entry["captions"].get(language, [])
            else:
                start = "caption" if split == "train" or self.config.name == "youcook2" else "eval_caption"
                key = next((f"{start}_{c}" for c in (language, code) if f"{start}_{c}" in entry), None)
                if key is None:
                    raise PolyvidError(f"{where}: there is no {start}_{language}, only {_keys(entry)}.")
                found = entry[key]
            for number, text in enumerate(found if isinstance(found, list | tuple) else [found]):
                if not isinstance(text, str):
                    raise PolyvidError(f"{where}: its {language} caption is a {type(text).__name__}, not text.")
                caption_id = f"{language}{number}" if self.config.name == "vatex" else str(number)
                caption = human(caption_id, language, text)
                if language not in BY_PEOPLE[self.config.name]:
                    caption["source"] = f"file:{FILES[self.config.name][split]}"
                captions.append(caption)
        return captions

    def _features(self, entry: Mapping[str, Any], where: str) -> np.ndarray:
        key = FEATURE_KEYS[self.config.name, self.config.network]
        if key not in entry:
            raise PolyvidError(f"{where}: there are no features {key!r}, only {_keys(entry)}.")
        array = entry[key]
        if not isinstance(array, np.ndarray) or array.ndim != 2:
            shape = getattr(array, "shape", type(array).__name__)
            raise PolyvidError(f"{where}: the features {key!r} are {shape}, not an array (rows, dim).")
        return array


def _keys(entry: Mapping[str, Any]) -> str:
    return " ".join(sorted(map(str, entry)))
