"""Fluent-Emoji-9: 1,607 animated emoji with captions in nine languages, an openly licensed text-video benchmark.

The data are in this folder (`build.py` made them): `clips/{video_id}.mp4`, `captions.parquet`, `splits.csv`. The same
emoji drawn in three further styles come from `polyvid fetch fluent_emoji_9` (`styles.py`).
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq

from polyvid.dataset_scripts.building import LocalBuilder
from polyvid.dataset_scripts.schema import CAPTIONS, LANGUAGES

SPLITS = ("pretrain", "finetune", "validation", "test")
FLUENT = "fluent"
STYLES = (FLUENT, "noto", "twemoji", "openmoji")

FEATURES = datasets.Features({**CAPTIONS, "family": datasets.Value("string"), "clip": datasets.Value("binary")})
"""`CAPTIONS`, plus the variants' common family and the mp4 itself (224 × 224, AV1, 4 frames per second).

A clip has up to two captions in each language, told apart by `caption_id`: `name`, the short name that CLDR's
translators agreed on, and `keywords`, their search terms joined by commas, without the name.
"""


@dataclass
class EmojiConfig(datasets.BuilderConfig):
    """Which split of the emoji, drawn in which styles.

    Args:
        assignment: the column of `splits.csv`.
        drawn: split of the dataset → split of the emoji, styles. A clip in another style than Fluent is called
            `{style}_{video_id}`.
    """

    assignment: str = "split_0"
    drawn: dict[str, tuple[str, tuple[str, ...]]] = field(
        default_factory=lambda: {split: (split, (FLUENT,)) for split in SPLITS}
    )


def _in_styles(name: str, training: Sequence[str], **tests: str) -> EmojiConfig:
    """A config of `split_0` that trains on several styles.

    Validation is in the first of them alone: in several, a query would have several right answers.

    Args:
        training: styles to train on.
        tests: split of the dataset → the style of its test clips.
    """
    drawn = {split: (split, tuple(training)) for split in ("pretrain", "finetune")}
    drawn["validation"] = ("validation", (training[0],))
    drawn |= {split: ("test", (style,)) for split, style in tests.items()}
    return EmojiConfig(name=name, version=datasets.Version("1.0.0"), drawn=drawn)


def _without(style: str) -> list[str]:
    return [other for other in STYLES if other != style]


class FluentEmoji9(LocalBuilder, datasets.GeneratorBasedBuilder):
    """Config `split_0` is the benchmark; `split_1` to `split_3` split the same clips differently, to measure spread.

    The other configs draw the concepts of `split_0` in several styles, and need the clips of `polyvid fetch` in
    `data_dir`. `unseen_style` trains on three styles and tests on Noto; `unseen_fluent`, `unseen_twemoji` and
    `unseen_openmoji` test on another one. `four_styles` trains on all, and has a test split for each: `test` (Fluent,
    the clips of `split_0`), `test_noto`, `test_twemoji` and `test_openmoji`.
    """

    BUILDER_CONFIG_CLASS = EmojiConfig
    BUILDER_CONFIGS = [
        *(
            EmojiConfig(name=name, version=datasets.Version("1.0.0"), assignment=name)
            for name in ("split_0", "split_1", "split_2", "split_3")
        ),
        _in_styles("unseen_style", _without("noto"), test="noto"),
        *(_in_styles(f"unseen_{style}", _without(style), test=style) for style in STYLES if style != "noto"),
        _in_styles("four_styles", STYLES, test=FLUENT, **{f"test_{style}": style for style in _without(FLUENT)}),
    ]
    DEFAULT_CONFIG_NAME = "split_0"

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Fluent emoji animations with Unicode CLDR names and keywords in nine languages",
            features=FEATURES,
            license="MIT (animations), Unicode-3.0 (captions)",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        here, given = Path(self.base_path or Path(__file__).parent), self.config.data_dir
        styles = {style for _, styles in self.config.drawn.values() for style in styles}
        folder = Path(given) if given and styles == {FLUENT} and not _is_fetched(Path(given)) else here
        for name in ("captions.parquet", "splits.csv", "clips"):
            if not (folder / name).exists():
                raise FileNotFoundError(f"{folder} holds no {name}: pass data_dir, the folder with the built data.")
        for style in sorted(styles - {FLUENT}):
            if not given or not (Path(given) / style).is_dir():
                raise FileNotFoundError(
                    f"{self.config.name} needs the clips in the style {style}: run `polyvid fetch fluent_emoji_9`, and "
                    "pass its output folder as data_dir."
                )
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"folder": str(folder), "split": split})
            for split in self.config.drawn
        ]

    def _generate_examples(self, folder: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        captions: dict[str, list[dict[str, str]]] = {}
        for row in pq.read_table(Path(folder) / "captions.parquet").to_pylist():
            name, language = row["name"], row["language"]
            keywords = [keyword for keyword in row["keywords"] if keyword.casefold() != name.casefold()]
            for caption_id, text in (("name", name), ("keywords", ", ".join(keywords))):
                if text:
                    caption = {"caption_id": caption_id, "language": language, "text": text, "source": "human"}
                    captions.setdefault(row["video_id"], []).append(caption)
        assigned, styles = self.config.drawn[split]
        with open(Path(folder) / "splits.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row[self.config.assignment] == assigned]
        for row in rows:
            concept = row["video_id"]
            ordered = sorted(captions[concept], key=lambda caption: LANGUAGES.index(caption["language"]))
            for style in styles:
                clip = Path(folder) / "clips" / f"{concept}.mp4"
                if style != FLUENT:
                    clip = clip_path(Path(self.config.data_dir), style, concept)
                if not clip.exists():
                    raise FileNotFoundError(f"The clip of {clip.stem} is missing: there is no {clip}.")
                example = {"video_id": clip.stem, "captions": ordered, "family": row["family"]}
                yield clip.stem, example | {"clip": clip.read_bytes()}


def _is_fetched(folder: Path) -> bool:
    """Whether `polyvid fetch` made a folder: clips alone. A model that was trained on them is tested on Fluent, too."""
    return any((folder / style).is_dir() for style in STYLES) and not (folder / "captions.parquet").exists()


def clip_path(folder: Path, style: str, concept: str) -> Path:
    """Where `polyvid fetch` puts the clip of a concept in a style. The file is named after the clip's video id.

    >>> clip_path(Path("styles"), "noto", "1f418").as_posix(), clip_path(Path("styles"), "fluent", "1f418").as_posix()
    ('styles/noto/noto_1f418.mp4', 'styles/fluent/1f418.mp4')
    """
    return folder / style / (f"{concept}.mp4" if style == FLUENT else f"{style}_{concept}.mp4")
