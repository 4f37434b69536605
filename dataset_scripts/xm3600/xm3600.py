"""Crossmodal-3600 (XM3600, Thapliyal et al. 2022): 3,600 images with captions that people wrote in 36 languages.

Official file, in `data_dir`: `captions.jsonl`, a line for each image: `{"image/key": "...", "image/locale": "...",
"<language>": {"caption": ["...", ...], ...}, ...}`. An image is a video of one second; its `video_id` is its key, the
name of its file without `.jpg`.
"""

import json

from polyvid.dataset_scripts.benchmark import BenchmarkBuilder, Row, configs, human, read_lines
from polyvid.modeling.errors_mmp import PolyvidError


class XM3600(BenchmarkBuilder):
    """Captions are written in each language anew, so none is a translation: ids are `en0`, `en1`, `de0` …"""

    BENCHMARK = "xm3600"
    BUILDER_CONFIGS = configs("xm3600")
    DEFAULT_CONFIG_NAME = "all"

    def read_split(self, split: str, languages: list[str]) -> list[Row]:
        file = self.find_file("captions.jsonl")
        rows = []
        for number, line in enumerate(read_lines(file), 1):
            if not line:
                continue
            try:
                image = json.loads(line)
                captions = [
                    human(f"{language}{k}", language, text)
                    for language in languages
                    for k, text in enumerate(image.get(language, {"caption": []})["caption"])
                ]
                rows.append({"video_id": image["image/key"], "captions": captions})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise PolyvidError(f"{file}, line {number}: not an image of XM3600 ({error!r}).") from error
        return rows
