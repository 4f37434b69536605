"""Writes files in the exact shape of the Multi-HowTo100M release, at any size, with known content.

Every video is a function of (language, number), so a test can ask for the truth again without keeping it:
`subtitles("de", 7)` is what `how2_de.json` says of video 7. As in the release, languages list the videos in different
orders, lack some of them, have gaps and overlaps, and English has about twice the subtitles.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.dataset_scripts.schema import LANGUAGES, shard_of

WORDS = {
    "en": "now we are going to add some water and mix it until smooth".split(),
    "de": "jetzt fügen wir etwas Wasser hinzu und rühren das Öl größer".split(),
    "fr": "maintenant nous allons ajouter de l'eau à la pâte brûlée".split(),
    "cs": "teď přidáme trochu vody a míchejte dokud není hladké žluťoučký".split(),
    "zh": "现在 我们 加 一些 水 然后 搅拌 均匀 😀".split(),
    "ru": "теперь мы добавим немного воды и перемешаем до гладкости".split(),
    "vi": "bây giờ chúng ta sẽ thêm một ít nước và trộn đều".split(),
    "sw": "sasa tutaongeza maji kidogo na kuchanganya hadi laini".split(),
    "es": "ahora vamos a añadir un poco de agua y mezclar mañana".split(),
    "hi": "अब हम थोड़ा पानी डालेंगे और मिलाएंगे".split(),
    "pt-BR": "agora vamos adicionar um pouco de água e misturar até ficar macio".split(),
}
MISSING = 0.1  # share of the videos that a language other than English lacks


def video_id(number: int) -> str:
    return f"{number:07d}-_xY"  # eleven characters, as on YouTube


def duration(number: int, mean_seconds: float = 60.0) -> int:
    """Seconds of video, and so of features."""
    return 5 + int(random.Random(f"duration {number}").expovariate(1 / mean_seconds))


def has_subtitles(language: str, number: int) -> bool:
    return language == "en" or random.Random(f"{language} {number}").random() >= MISSING


def subtitles(language: str, number: int, mean_seconds: float = 60.0) -> dict[str, list]:
    """`{"text", "start", "end"}`; the last word of a text is its number within the video."""
    rng = random.Random(f"subtitles {language} {number}")
    step = 2.0 if language == "en" else 4.0
    texts, starts, ends = [], [], []
    time, last = rng.random() * 3, duration(number, mean_seconds)
    while time < last or not texts:
        texts.append(" ".join([*rng.choices(WORDS[language], k=rng.randint(4, 16)), str(len(texts))]))
        starts.append(round(time, 2))
        ends.append(round(time + step * rng.choice((0.5, 1.0, 1.6)), 2))  # a gap, or an overlap with the next
        time += step * (0.7 + 0.6 * rng.random())
    return {"text": texts, "start": starts, "end": ends}


def numbers(language: str, num_videos: int) -> list[int]:
    """The videos of a language's file, in the order of the file."""
    present = [number for number in range(num_videos) if has_subtitles(language, number)]
    random.Random(f"order {language}").shuffle(present)
    return present


def videos(language: str, num_videos: int, mean_seconds: float = 60.0) -> Iterator[tuple[str, dict]]:
    for number in numbers(language, num_videos):
        yield video_id(number), subtitles(language, number, mean_seconds)


def write_subtitles(path: Path, videos: Iterator[tuple[str, dict]]) -> Path:
    """One release file, byte for byte as `json.dump` writes it."""
    with open(path, "w", encoding="utf-8") as file:
        for index, (key, value) in enumerate(videos):
            file.write(("{" if index == 0 else ", ") + f"{json.dumps(key)}: {json.dumps(value)}")
        file.write("}")
    return path


def write_release(folder: Path, num_videos: int, languages=LANGUAGES, mean_seconds: float = 60.0) -> Path:
    """`how2_{language}.json` of every language, HowTo100M's `raw_caption.json` and `HowTo100M_v1.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in languages:
        write_subtitles(folder / f"how2_{language}.json", videos(language, num_videos, mean_seconds))
    write_subtitles(folder / "raw_caption.json", videos("en", num_videos, mean_seconds))
    rows = [f'{video_id(number)},"Food, Drinks",Recipes,{number % 200 + 1},{number}\n' for number in range(num_videos)]
    (folder / "HowTo100M_v1.csv").write_text("video_id,category_1,category_2,rank,task_id\n" + "".join(rows))
    return folder


def features(number: int, dim: int = 8, mean_seconds: float = 60.0) -> np.ndarray:
    """[seconds, dim] float16; column 0 is the second, column 1 the video's number, so a slice shows its origin."""
    array = np.random.default_rng(number).normal(size=(duration(number, mean_seconds), dim)).astype(np.float16)
    array[:, 0], array[:, 1] = np.arange(len(array)), number % 2048
    return array


def write_features(folder: Path, numbers, num_shards: int = 4, dim: int = 8, mean_seconds: float = 60.0) -> Path:
    """Feature shards as `polyvid extract` writes them."""
    for shard in range(num_shards):
        mine = [number for number in numbers if shard_of(video_id(number), num_shards) == shard]
        tables = (
            rows_to_table(
                features_to_row(video_id(n), features(n, dim, mean_seconds)) for n in mine[start : start + 64]
            )
            for start in range(0, len(mine), 64)
        )
        path = folder / shard_name("train", shard, num_shards)
        write_shard(tables, path, FEATURES.arrow_schema.remove_metadata())
    return folder
