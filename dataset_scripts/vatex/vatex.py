"""VATEX: ten English and ten Chinese captions per video, the last five of each translations of each other (§5.1).

Official files, in `data_dir`: `vatex_training_v1.0.json` and `vatex_validation_v1.0.json`. For the protocol of Chen et
al. 2020 also the two id lists of their release, `public_split/val_names.npy` and `tst_names.npy` (or `.txt`, one id a
line); without them, build `hashed-halves`, which has the same sizes but other videos.
"""

import hashlib
from pathlib import Path

import numpy as np

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder, Row, configs, human, read_lines
from polyvid.dataset_scripts.translations import read_json, without_extension
from polyvid.modeling.errors_mmp import PolyvidError

LIST_NAMES = {"validation": ("val_names.npy", "val_names.txt"), "test": ("tst_names.npy", "tst_names.txt")}


class VATEX(BenchmarkBuilder):
    """Caption ids are `en0 … en4`, `zh0 … zh4` for independent captions, `pair5 … pair9` for translation pairs."""

    BENCHMARK = "vatex"
    BUILDER_CONFIGS = configs("vatex")
    DEFAULT_CONFIG_NAME = "chen2020"

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        if split == "train" or self.config.name == "official":
            name = "vatex_training_v1.0.json" if split == "train" else "vatex_validation_v1.0.json"
            return self._read(name, languages)
        rows = self._read("vatex_validation_v1.0.json", languages)
        if self.config.name == "chen2020":
            file = self.find_file(*LIST_NAMES[split])
            wanted = _read_ids(file)
            unknown = sorted(wanted - {row["video_id"] for row in rows})
            if unknown and self.config.check_counts:
                raise PolyvidError(
                    f"{file}: {len(unknown)} ids are not in the validation file, the first {unknown[0]!r}."
                )
            return [row for row in rows if row["video_id"] in wanted]
        order = sorted(rows, key=lambda row: hashlib.sha256(row["video_id"].encode()).digest())
        half = len(order) // 2
        return order[:half] if split == "validation" else order[half:]

    def _read(self, name: str, languages: list[str]) -> list[Row]:
        file = self.find_file(name)
        rows = []
        for number, video in enumerate(read_json(file)):
            try:
                captions = [
                    human(f"pair{k}" if k >= 5 else f"{language}{k}", language, text)
                    for language, field in (("en", "enCap"), ("zh", "chCap"))
                    if language in languages
                    for k, text in enumerate(video[field])
                ]
                rows.append({"video_id": video["videoID"], "captions": captions})
            except (KeyError, TypeError) as error:
                raise PolyvidError(f"{file}, entry {number}: not a VATEX video, {error} is missing.") from error
        return rows


def _read_ids(file: Path) -> set[str]:
    ids = np.load(file).tolist() if file.suffix == ".npy" else read_lines(file)
    return {without_extension(str(video_id)) for video_id in ids if video_id}
