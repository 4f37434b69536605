"""MSVD (YouTube2Text): English captions, and the Chinese ones of MSVD-CN (paper App. E, Tables 11 and 12).

Files, in `data_dir`: `youtube_mapping.txt` (clip -> vidN, from MSVD-CN); for English the official
`video_corpus.csv` ("MSR Video Description Corpus.csv") or, for the protocol `descriptions-txt`,
`AllVideoDescriptions.txt`; for Chinese `msvd_cn_captions_release_utf8.csv`.

A row's `video_id` is the clip's name as the video files have it, `<YouTube id>_<start>_<end>`; the split goes by N.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder, Row, configs, human, read_lines
from polyvid.dataset_scripts.translations import without_extension
from polyvid.modeling.errors_mmp import PolyvidError

VIDEO_NUMBERS = {"train": range(1, 1201), "validation": range(1201, 1301), "test": range(1301, 1971)}


class MSVD(BenchmarkBuilder):
    """Caption ids are `en<n>` by order in the file, and `zh<n>` by the id in MSVD-CN: no caption translates another."""

    BENCHMARK = "msvd"
    BUILDER_CONFIGS = configs("msvd")
    DEFAULT_CONFIG_NAME = "standard"

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        mapping = self._mapping()
        captions = defaultdict(list)
        if "en" in languages:
            read = self._read_corpus if self.config.name == "standard" else self._read_descriptions
            for number, (clip, text) in enumerate(read()):
                captions[clip].append(human(f"en{number}", "en", text))
        if "zh" in languages:
            clips = {f"vid{number}": clip for clip, number in mapping.items()}
            for row in self._read_table("msvd_cn_captions_release_utf8.csv", "id", "video_id", "sentence"):
                if found := clips.get(without_extension(row["video_id"])):
                    captions[found].append(human(f"zh{row['id']}", "zh", row["sentence"]))
        return [
            {"video_id": clip, "captions": captions[clip]}
            for clip, number in sorted(mapping.items(), key=lambda item: item[1])
            if number in VIDEO_NUMBERS[split]
        ]

    def _mapping(self) -> dict[str, int]:
        file = self.find_file("youtube_mapping.txt")
        mapping = {}
        for line_number, line in enumerate(read_lines(file), 1):
            if not line.strip():
                continue
            clip, _, name = line.strip().rpartition(" ")
            if not clip or not name.startswith("vid") or not name[3:].isdigit():
                raise PolyvidError(f"{file}, line {line_number}: expected '<clip> vid<number>', found {line!r}.")
            mapping[clip] = int(name[3:])
        return mapping

    def _read_corpus(self) -> Iterator[tuple[str, str]]:
        rows = self._read_table(
            "video_corpus.csv|MSR Video Description Corpus.csv", "VideoID", "Start", "End", "Language", "Description"
        )
        for row in rows:
            if row["Language"] == "English" and row["Description"].strip():
                yield f"{row['VideoID']}_{row['Start']}_{row['End']}", row["Description"].strip()

    def _read_descriptions(self) -> Iterator[tuple[str, str]]:
        file = self.find_file("AllVideoDescriptions.txt")
        for line in read_lines(file):
            clip, _, text = line.partition(" ")
            if text.strip() and not line.startswith("#"):
                yield clip, text.strip()

    def _read_table(self, names: str, *columns: str) -> Iterator[dict[str, str]]:
        file = self.find_file(*names.split("|"))
        # The corpus has quoted descriptions that span lines, so lines keep their ends.
        reader = csv.DictReader(line + "\n" for line in read_lines(file))
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            raise PolyvidError(f"{file}: expected the columns {', '.join(columns)}; {missing[0]!r} is missing.")
        for row in reader:
            if None in (row[column] for column in columns):
                raise PolyvidError(
                    f"{file}, line {reader.line_num}: {len(columns)} columns expected, the row is cut short."
                )
            yield row
