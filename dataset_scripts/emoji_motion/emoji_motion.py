"""Emoji-Motion: what is asked cannot be told from any single frame, only from the order of the frames.

The clips are made of frames of Fluent-Emoji-9, which comes with this package; `README.md` beside this file describes
them. What can be confused with a clip holds the same frames equally often, in another order.
"""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from polyvid.dataset_scripts.building import LocalBuilder, load_builder
from polyvid.dataset_scripts.schema import CAPTIONS, LANGUAGES

CAPTION_ID = "caption"
SPLITS = {"train": ("pretrain", "finetune"), "validation": ("validation",), "test": ("test",)}
"""Split → the splits of `split_0` of Fluent-Emoji-9 whose clips it is made of."""

LOOP = (0, 2, 4, 6, 8, 10)  # every second of the twelve frames: once around the loop
BACK = (LOOP[0], *reversed(LOOP[1:]))  # begins with the same frame, so that the first frame does not give it away
PLAYING = {  # how a clip is played → its frames, four a second
    "forwards": tuple(frame for frame in LOOP for _ in range(2)),
    "backwards": tuple(frame for frame in BACK for _ in range(2)),
    "fast_forwards": LOOP * 2,
    "fast_backwards": BACK * 2,
}
TWINS = {  # question → how a clip is played → how the clip is played that it has to be told from
    "direction": {
        "forwards": "backwards",
        "backwards": "forwards",
        "fast_forwards": "fast_backwards",
        "fast_backwards": "fast_forwards",
    },
    "speed": {
        "forwards": "fast_forwards",
        "fast_forwards": "forwards",
        "backwards": "fast_backwards",
        "fast_backwards": "backwards",
    },
}
QUESTIONS = {"playing": ("direction", "speed"), "order": ("order",)}
"""Config → what it asks."""

NEXT = 2  # a clip is shown together with this many others
MOST_ALIKE, WIDEST_SEAM = 0.7, 1.0  # see `measure.py`

FEATURES = datasets.Features(
    {
        **CAPTIONS,
        "group": datasets.Value("string"),
        "frames": [{"video_id": datasets.Value("string"), "index": datasets.Value("int32")}],
        "twins": [{"question": datasets.Value("string"), "video_id": datasets.Value("string")}],
    }
)
"""`CAPTIONS`, plus:

`frames`: what is shown, four a second: a clip of Fluent-Emoji-9, and which of its frames, from 0.
`twins`: for each question, the clip with the same frames in another order that is the wrong answer.
`group`: the same for all clips with the same frames.
"""


class EmojiMotion(LocalBuilder, datasets.GeneratorBasedBuilder):
    """Config `playing` plays a clip forwards or backwards, slowly or fast; `order` shows two clips in either order."""

    BUILDER_CONFIGS = [datasets.BuilderConfig(name=name, version=datasets.Version("1.0.0")) for name in QUESTIONS]
    DEFAULT_CONFIG_NAME = "playing"

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Fluent emoji animations in which only the order of frames differs, in nine languages",
            features=FEATURES,
            license="MIT (animations), Unicode-3.0 (captions)",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in SPLITS]

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        folder = Path(self.base_path or Path(__file__).parent)
        names = _names(split)
        clips = [clip for clip in chosen_clips(folder) if clip in names]
        rows = _played(clips, names, phrases(folder)) if self.config.name == "playing" else _in_order(clips, names)
        for row in rows:
            yield row["video_id"], row


def chosen_clips(folder: Path) -> list[str]:
    """The clips that are loops and look different backwards, by the numbers of `clips.csv`."""
    with open(folder / "clips.csv", newline="", encoding="utf-8") as file:
        return [
            row["video_id"]
            for row in csv.DictReader(file)
            if float(row["alike_backwards"]) < MOST_ALIKE and float(row["seam"]) <= WIDEST_SEAM
        ]


def phrases(folder: Path) -> dict[str, dict[str, str]]:
    """How a clip is played → language → phrase."""
    found: dict[str, dict[str, str]] = {}
    with open(folder / "phrases.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["playing"], {})[row["language"]] = row["text"]
    return found


def _names(split: str) -> dict[str, dict[str, str]]:
    """Clip of Fluent-Emoji-9 → language → name."""
    emoji = load_builder("fluent_emoji_9")(config_name="split_0").as_streaming_dataset()
    return {
        video["video_id"]: {c["language"]: c["text"] for c in video["captions"] if c["caption_id"] == "name"}
        for own in SPLITS[split]
        for video in emoji[own]
    }


def _played(
    clips: Sequence[str], names: dict[str, dict[str, str]], phrases: dict[str, dict[str, str]]
) -> Iterator[dict[str, Any]]:
    for clip in clips:
        for playing, frames in PLAYING.items():
            yield {
                "video_id": f"{clip}_{playing}",
                "captions": _captions([names[clip], phrases[playing]]),
                "group": clip,
                "frames": [{"video_id": clip, "index": index} for index in frames],
                "twins": [
                    {"question": question, "video_id": f"{clip}_{twin[playing]}"} for question, twin in TWINS.items()
                ],
            }


def _in_order(clips: Sequence[str], names: dict[str, dict[str, str]]) -> Iterator[dict[str, Any]]:
    # By a hash, because neighbours in the list are variants of one emoji.
    drawn = sorted(clips, key=lambda clip: hashlib.sha256(clip.encode()).digest())
    for place, clip in enumerate(drawn):
        for other in (drawn[(place + step) % len(drawn)] for step in range(1, NEXT + 1)):
            for first, second in ((clip, other), (other, clip)):
                yield {
                    "video_id": f"{first}_{second}",
                    "captions": _captions([names[first], names[second]]),
                    "group": f"{clip}_{other}",
                    "frames": [{"video_id": shown, "index": index} for shown in (first, second) for index in LOOP],
                    "twins": [{"question": "order", "video_id": f"{second}_{first}"}],
                }


def _captions(parts: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    return [
        {
            "caption_id": CAPTION_ID,
            "language": language,
            "text": ", ".join(part[language] for part in parts),
            "source": "human",
        }
        for language in LANGUAGES
    ]
