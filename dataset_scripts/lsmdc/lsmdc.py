"""LSMDC 2016 (Rohrbach et al. 2017): clips of films with sentences from their audio descriptions.

Official files, in `data_dir`: `LSMDC16_annos_training.csv`, `LSMDC16_annos_val.csv` and the public test of 1,000 clips,
`LSMDC16_challenge_1000_publictect.csv`. Each line has six columns between tabs: the clip, four times, the sentence.
"""

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder, Row, configs, human, read_lines
from polyvid.modeling.errors_mmp import PolyvidError

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "validation": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
COLUMNS = 6


class LSMDC(BenchmarkBuilder):
    """The sentences of a clip are numbered. The few training clips without a sentence are left out."""

    BENCHMARK = "lsmdc"
    BUILDER_CONFIGS = configs("lsmdc")
    DEFAULT_CONFIG_NAME = "1k"

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        file = self.find_file(FILES[split])
        sentences: dict[str, list[str]] = {}
        for number, line in enumerate(read_lines(file), 1):
            columns = line.split("\t")
            if not line.strip():
                continue
            if len(columns) not in (COLUMNS, COLUMNS - 1):
                raise PolyvidError(f"{file}, line {number}: {len(columns)} columns, not {COLUMNS} between tabs.")
            if len(columns) == COLUMNS and columns[-1].strip():
                sentences.setdefault(columns[0].strip(), []).append(columns[-1].strip())
        return [
            {"video_id": clip, "captions": [human(str(number), "en", text) for number, text in enumerate(texts)]}
            for clip, texts in sentences.items()
        ]
