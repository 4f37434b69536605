"""Multi-HowTo100M (paper, section 4 and App. B): subtitles of 1.1 million instructional videos in nine languages.

With datasets 3.6 this file is a loading script:

    load_dataset("dataset_scripts/multi_howto100m", "de", data_dir="<folder of how2_*.json>", trust_remote_code=True)

With every version it is the builder behind `polyvid build`, whose Parquet loads without any remote code.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv

from polyvid.dataset_scripts.building import AliasedConfigs
from polyvid.dataset_scripts.multi_howto100m.language_join import join_languages
from polyvid.dataset_scripts.multi_howto100m.subtitle_json import RepairReport, read_subtitles
from polyvid.dataset_scripts.schema import LANGUAGES, canonical_language
from polyvid.modeling.errors_mmp import PolyvidError

logger = datasets.logging.get_logger(__name__)

SUBTITLE_COLUMNS = {
    "text": [datasets.Value("string")],
    "start": [datasets.Value("float64")],  # seconds
    "end": [datasets.Value("float64")],
}
CATEGORY_COLUMNS = {  # HowTo100M_v1.csv
    "category_1": datasets.Value("string"),
    "category_2": datasets.Value("string"),
    "rank": datasets.Value("int32"),  # of the video among YouTube's results for its task
    "task_id": datasets.Value("int32"),  # wikiHow
}
FILES = {language: (f"how2_{language}.json",) for language in LANGUAGES} | {
    "cs": ("how2_cs.json", "how2_cz.json"),
    # The English side of Multi-HowTo100M is HowTo100M's raw subtitles (App. B).
    "en": ("how2_en.json", "raw_caption.json"),
    "howto100m": ("raw_caption.json", "caption.json"),
}
CATEGORY_FILE = "HowTo100M_v1.csv"

SHARD_BYTES = 500e6
PARQUET_PER_JSON_BYTE = 0.3
PARTITION_BYTES = 64 << 20  # of JSON, all languages together, at most


@dataclass
class SubtitleConfig(datasets.BuilderConfig):
    """`languages`: which languages the config `all` joins; give fewer to leave some out."""

    languages: tuple[str, ...] = LANGUAGES


class MultiHowTo100M(AliasedConfigs, datasets.ArrowBasedBuilder):
    """Configs: a language (rows `{video_id, text, start, end}`), `all` (`{video_id, en: {text, start, end}, ...}`,
    empty lists where a language lacks the video), and `howto100m` (the English original with its categories)."""

    BUILDER_CONFIG_CLASS = SubtitleConfig
    BUILDER_CONFIGS = [SubtitleConfig(name=name) for name in (*LANGUAGES, "all", "howto100m")]
    scratch_dir: Path | None = None  # where the rows of `all` are spilled; default: the cache of datasets

    def _info(self) -> datasets.DatasetInfo:
        columns: dict[str, Any] = SUBTITLE_COLUMNS
        if self.config.name == "all":
            self.config.languages = tuple(canonical_language(language) for language in self.config.languages)
            columns = {language: SUBTITLE_COLUMNS for language in self.config.languages}
        elif self.config.name == "howto100m":
            columns = SUBTITLE_COLUMNS | CATEGORY_COLUMNS
        return datasets.DatasetInfo(
            description="Multi-HowTo100M: subtitles of instructional videos in nine languages",
            features=datasets.Features({"video_id": datasets.Value("string"), **columns}),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        files = self.source_files()
        return [datasets.SplitGenerator(datasets.Split.TRAIN, gen_kwargs={"files": files})]

    def source_files(self) -> dict[str, str]:
        """The files this config reads, by language.

        Raises:
            FileNotFoundError: when `data_dir` is not given or lacks one of them; names all that are missing.
        """
        if not self.config.data_dir:
            raise FileNotFoundError("Give data_dir, the folder with the released how2_*.json (see the dataset card).")
        folder = Path(self.config.data_dir).expanduser()
        names = self.config.languages if self.config.name == "all" else (self.config.name,)
        files = {name: FILES.get(name, (f"how2_{name}.json",)) for name in names}
        found = {
            name: next((folder / file for file in files[name] if (folder / file).is_file()), None) for name in names
        }
        if missing := [name for name, path in found.items() if path is None]:
            wanted = ", ".join(" or ".join(files[name]) for name in missing)
            hint = ""
            if self.config.name == "all":
                have = [name for name in names if name not in missing]
                hint = f" To join only the others, give languages={have}." if len(have) > 1 else ""
            raise FileNotFoundError(f"{folder} lacks {wanted}.{hint}")
        return {name: str(path) for name, path in found.items()}

    @property
    def default_num_shards(self) -> int:
        """A power of two that makes shards of at most about 500 MB.

        Powers of two nest: shard i of 64 holds videos of shard i % 16 of 16, so any two builds can be joined.
        """
        size = PARQUET_PER_JSON_BYTE * sum(os.path.getsize(path) for path in self.source_files().values())
        return _power_of_two(size / SHARD_BYTES)

    def _generate_tables(self, files: dict[str, str]) -> Iterator[tuple[int, pa.Table]]:
        reports = {name: RepairReport(path) for name, path in files.items()}
        streams = {name: read_subtitles(path, reports[name]) for name, path in files.items()}
        if self.config.name == "all":
            partitions = _power_of_two(sum(os.path.getsize(path) for path in files.values()) / PARTITION_BYTES)
            scratch = self.scratch_dir or self._cache_dir_root
            os.makedirs(scratch, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="multi-howto100m-", dir=scratch) as folder:
                yield from enumerate(join_languages(streams, folder, partitions))
        elif self.config.name == "howto100m":
            categories = Path(files["howto100m"]).with_name(CATEGORY_FILE)
            if not categories.is_file():
                raise FileNotFoundError(f"{categories.parent} lacks {CATEGORY_FILE}, which comes with HowTo100M.")
            yield from enumerate(map(_Categories(categories).add_to, streams["howto100m"]))
        else:
            yield from enumerate(streams[self.config.name])
        self._finish(reports)

    def _finish(self, reports: dict[str, RepairReport]) -> None:
        for report in reports.values():
            if report.reasons:
                logger.warning(str(report))
        self.report = {name: report.to_dict() for name, report in reports.items()}
        if os.path.isdir(getattr(self, "_output_dir", None) or ""):  # as a loading script: next to the Arrow files
            Path(self._output_dir, "report.json").write_text(json.dumps(self.report, ensure_ascii=False, indent=1))


def _power_of_two(at_least: float) -> int:
    return 1 << max(0, int(at_least - 1e-9)).bit_length()


class _Categories:
    """`HowTo100M_v1.csv`, looked up by video id; ids are kept as one sorted array because a dict would need 300 MB."""

    def __init__(self, path: Path):
        types = {"video_id": pa.string()} | {name: value.pa_type for name, value in CATEGORY_COLUMNS.items()}
        options = pa.csv.ConvertOptions(column_types=types, include_columns=list(types))
        try:
            table = pa.csv.read_csv(path, convert_options=options)
        except (pa.ArrowInvalid, KeyError) as error:
            raise PolyvidError(f"{path}: expected the columns {', '.join(types)} ({error}).") from None
        ids = np.array([video_id.encode() for video_id in table["video_id"].to_pylist()], dtype="S")
        order = np.argsort(ids, kind="stable")  # stable: of two rows for one video the first counts
        self.ids, self.columns = ids[order], table.select(list(CATEGORY_COLUMNS)).take(pa.array(order))

    def add_to(self, table: pa.Table) -> pa.Table:
        wanted = np.array([video_id.encode() for video_id in table["video_id"].to_pylist()], dtype="S")
        rows = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        found = self.columns.take(pa.array(rows, mask=self.ids[rows] != wanted))
        for name in CATEGORY_COLUMNS:
            table = table.append_column(name, found[name])
        return table
