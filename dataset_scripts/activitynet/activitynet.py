"""ActivityNet Captions (Krishna et al. 2017) as it is searched: by the paragraph of all sentences about a video.

Official files, in `data_dir`: `train.json` and `val_1.json`, `{"v_<YouTube id>": {"duration": seconds, "timestamps":
[[start, end], ...], "sentences": ["...", ...]}, ...}`.
"""

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder, Row, configs, human
from polyvid.dataset_scripts.translations import read_json
from polyvid.modeling.errors_mmp import PolyvidError

FILES = {"train": "train.json", "test": "val_1.json"}


class ActivityNet(BenchmarkBuilder):
    """A video has one caption, `paragraph`: its sentences in the order of the file. `video_id` is its key, `v_...`."""

    BENCHMARK = "activitynet"
    BUILDER_CONFIGS = configs("activitynet")
    DEFAULT_CONFIG_NAME = "val1"

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        file = self.find_file(FILES[split])
        content = read_json(file)
        try:
            paragraphs = {key: " ".join(text.strip() for text in video["sentences"]) for key, video in content.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise PolyvidError(f"{file}: not a file of ActivityNet Captions ({error!r}).") from error
        return [
            {"video_id": key, "captions": [human("paragraph", "en", paragraph)]}
            for key, paragraph in paragraphs.items()
        ]
