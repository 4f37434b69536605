"""DiDeMo (Hendricks et al. 2017) as it is searched: by the paragraph of all descriptions of a video's moments.

Official files, in `data_dir`: `train_data.json`, `val_data.json` and `test_data.json`, `[{"video": "<file name>",
"description": "...", "times": [...], ...}, ...]`. The lists of Liu et al. 2019, `train_list.txt`, `val_list.txt` and
`test_list.txt`, a file name on each line, decide which videos belong to a split, where they are in the folder.
"""

import re

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder, Row, configs, human, read_lines
from polyvid.dataset_scripts.translations import read_json
from polyvid.modeling.errors_mmp import PolyvidError

NAMES = {"train": "train", "validation": "val", "test": "test"}


class DiDeMo(BenchmarkBuilder):
    """A video has one caption, `paragraph`: its descriptions in the order of the file.

    `video_id` is the name of the video's file without its extension, as `polyvid extract` calls it.
    """

    BENCHMARK = "didemo"
    BUILDER_CONFIGS = configs("didemo")
    DEFAULT_CONFIG_NAME = "paragraph"

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        file = self.find_file(f"{NAMES[split]}_data.json")
        descriptions: dict[str, list[str]] = {}
        for number, moment in enumerate(read_json(file)):
            try:
                descriptions.setdefault(_stem(moment["video"]), []).append(moment["description"].strip())
            except (KeyError, TypeError, AttributeError) as error:
                raise PolyvidError(f"{file}, entry {number}: not a moment of DiDeMo ({error!r}).") from error
        try:
            wanted = {_stem(line.strip()) for line in read_lines(self.find_file(f"{NAMES[split]}_list.txt")) if line}
        except FileNotFoundError:
            wanted = set(descriptions)
        return [
            {"video_id": video_id, "captions": [human("paragraph", "en", " ".join(texts))]}
            for video_id, texts in descriptions.items()
            if video_id in wanted
        ]


def _stem(name: str) -> str:
    return re.sub(r"\.[A-Za-z0-9]{2,4}$", "", name)
