"""Our benchmarks as tasks of MTEB: find the clip or picture by its caption in many languages, and the caption by it.

Fluent-Emoji-9, the same emoji in a style that its training data do not have, and Tux-8, photos and drawings.
"""

import io
from collections.abc import Sequence
from typing import Any

import av
import langcodes
from datasets import Dataset, Features, Image, Value, Video, load_dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from polyvid.dataset_scripts.protocols import protocols_of
from polyvid.modeling.errors_mmp import PolyvidError

SPLIT = "test"
CLIP = "clip"  # the column of our datasets that holds video files
LANGUAGES = {
    "en": ["eng-Latn"],
    "de": ["deu-Latn"],
    "fr": ["fra-Latn"],
    "cs": ["ces-Latn"],
    "zh": ["zho-Hans"],
    "ru": ["rus-Cyrl"],
    "vi": ["vie-Latn"],
    "sw": ["swa-Latn"],
    "es": ["spa-Latn"],
}
LEFT_OUT = ("son",)  # of Tux-8: Songhay, a group of languages, of which MTEB knows only the single ones


class _Captioned(AbsTaskRetrieval):
    """The test split of a built or pushed dataset, with one caption of a clip in each language that has one."""

    abstask_prompt = ""
    config: str
    caption_id: str
    data_loaded: bool = False

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        if self.data_loaded:
            return
        place = self.metadata.dataset
        rows = load_dataset(place["path"], self.config, split=SPLIT, revision=place["revision"])
        names = [
            {caption["language"]: caption["text"] for caption in captions if caption["caption_id"] == self.caption_id}
            for captions in rows["captions"]
        ]
        seen = rows.select_columns(["video_id", CLIP]).rename_columns({"video_id": "id", CLIP: "video"})
        seen = seen.cast_column("video", Video())
        if "image" in self.metadata.modalities:
            seen = _pictures(seen)
        self.dataset = {}
        for language in self.hf_subsets:
            named = [number for number, of_row in enumerate(names) if language in of_row]
            ids = [seen["id"][number] for number in named]
            texts = Dataset.from_dict({"id": ids, "text": [names[number][language] for number in named]})
            by_text = self.metadata.category.startswith("t2")
            queries, corpus = (texts, seen) if by_text else (seen.select(named), texts)
            relevant = {video_id: {video_id: 1} for video_id in ids}
            split = RetrievalSplitData(queries=queries, corpus=corpus, relevant_docs=relevant, top_ranked=None)
            self.dataset[language] = {SPLIT: split}
        self.data_loaded = True


def _pictures(clips: Dataset) -> Dataset:
    """`image`, losslessly, in place of the clips of one frame."""
    files = clips.cast_column("video", Video(decode=False))["video"]
    pictures = [_only_frame(file["bytes"]) for file in files]
    features = Features({"id": Value("string"), "image": Image()})
    return Dataset.from_dict({"id": list(clips["id"]), "image": pictures}, features)


def _only_frame(clip: bytes) -> Any:
    with av.open(io.BytesIO(clip), mode="r") as container:
        return next(container.decode(video=0)).to_image()


def _metadata(name: str, category: str, prompt: str, about: dict[str, Any]) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        category=category,
        prompt={"query": prompt},
        type="Any2AnyMultilingualRetrieval",
        eval_splits=[SPLIT],
        main_score="ndcg_at_10",
        dialect=[],
        sample_creation="found",
        bibtex_citation="",
        **about,
    )


# --- emoji -------------------------------------------------------------------------------------------------------

EMOJI: dict[str, Any] = {
    "description": (
        "Animated and still clips of emoji (Fluent Emoji, MIT licence) with the names that Unicode CLDR has for them "
        "in nine languages. Every name belongs to one clip."
    ),
    "dataset": {"path": "polyvid/fluent-emoji-9", "revision": "main"},  # until it is published: see `emoji_tasks`
    "modalities": ["text", "video"],
    "eval_langs": LANGUAGES,
    "reference": "https://cldr.unicode.org",
    "date": ("2021-01-01", "2025-12-31"),
    "domains": ["Animation"],
    "task_subtypes": ["Cross-Modal Retrieval"],
    "license": "https://www.unicode.org/license.txt",
    "annotations_creators": "expert-annotated",
}
UNSEEN_STYLE = EMOJI | {
    "description": (
        "Emoji as Noto draws them (Apache-2.0 licence), with the names that Unicode CLDR has for them in nine "
        "languages. The training splits of the dataset hold other emoji in three other styles, so that a model which "
        "learned from them has seen neither these emoji nor this style."
    ),
}
TO_CLIP, TO_NAME = "Find the animation that shows this.", "Find the name of what this animation shows."


class _FluentEmoji9(_Captioned):
    """The test clips of the config `split_0`, or of another one for the spread, by CLDR's short names."""

    config = "split_0"
    caption_id = "name"


class FluentEmoji9T2VRetrieval(_FluentEmoji9):
    metadata = _metadata("FluentEmoji9T2VRetrieval", "t2v", TO_CLIP, EMOJI)


class FluentEmoji9V2TRetrieval(_FluentEmoji9):
    metadata = _metadata("FluentEmoji9V2TRetrieval", "v2t", TO_NAME, EMOJI)


class _UnseenStyle(_FluentEmoji9):
    """The same concepts, drawn as no training clip is."""

    config = "unseen_style"


class FluentEmoji9UnseenStyleT2VRetrieval(_UnseenStyle):
    metadata = _metadata("FluentEmoji9UnseenStyleT2VRetrieval", "t2v", TO_CLIP, UNSEEN_STYLE)


class FluentEmoji9UnseenStyleV2TRetrieval(_UnseenStyle):
    metadata = _metadata("FluentEmoji9UnseenStyleV2TRetrieval", "v2t", TO_NAME, UNSEEN_STYLE)


# --- photos and drawings -----------------------------------------------------------------------------------------

TUX: dict[str, Any] = {
    "description": (
        "Photos and drawings of objects, animals and plants, with a sentence that volunteers translated: the stamps of "
        "Tux Paint, a drawing program for children."
    ),
    "dataset": {"path": "polyvid/tux-8", "revision": "main"},
    "modalities": ["text", "image"],
    "eval_langs": {language: codes for language, codes in LANGUAGES.items() if language != "sw"},
    "reference": "https://tuxpaint.org",
    "date": ("2002-01-01", "2022-06-04"),
    "domains": ["Scene", "Nature"],
    "task_subtypes": ["Image Text Retrieval"],
    "license": "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html",
    "annotations_creators": "human-annotated",
}


class _Tux8(_Captioned):
    """The test of eight languages, in which every picture has a caption in each."""

    config = "tux8"
    caption_id = "caption"


class Tux8T2IRetrieval(_Tux8):
    metadata = _metadata("Tux8T2IRetrieval", "t2i", "Find the picture that shows this.", TUX)


class Tux8I2TRetrieval(_Tux8):
    metadata = _metadata("Tux8I2TRetrieval", "i2t", "Find the sentence that says what this picture shows.", TUX)


# --- for `mteb.evaluate` -----------------------------------------------------------------------------------------


def emoji_tasks(dataset: str, revision: str | None = None, config: str = "split_0") -> list[_Captioned]:
    """Fluent-Emoji-9 in both directions.

    Args:
        dataset: what `polyvid build fluent_emoji_9` wrote, or the id under which it was pushed.
        revision: of the repository.
        config: `split_0`, the benchmark, or another split of the same clips.
    """
    return _at(dataset, revision, config, [FluentEmoji9T2VRetrieval(), FluentEmoji9V2TRetrieval()])


def unseen_style_tasks(dataset: str, revision: str | None = None, config: str = "unseen_style") -> list[_Captioned]:
    """The same emoji in a style that its training splits do not have, in both directions.

    Args:
        dataset: what `polyvid build fluent_emoji_9 unseen_style` wrote, or the id under which it was pushed.
        revision: of the repository.
        config: `unseen_style` (Noto), `unseen_fluent`, `unseen_twemoji` or `unseen_openmoji`.
    """
    tasks = [FluentEmoji9UnseenStyleT2VRetrieval(), FluentEmoji9UnseenStyleV2TRetrieval()]
    return _at(dataset, revision, config, tasks)


def tux_tasks(dataset: str, revision: str | None = None, config: str = "tux8") -> list[_Captioned]:
    """Tux-8 in both directions.

    Args:
        dataset: what `polyvid build tux8` wrote, or the id under which it was pushed.
        revision: of the repository.
        config: `tux8` in eight languages, `tux_sw` in Swahili, too, or `tux_all` in 68.

    Raises:
        PolyvidError: for another config.
    """
    known = protocols_of("tux8")
    if config not in known:
        raise PolyvidError(f"Tux-8 has no config {config!r}: choose from {' '.join(known)}.")
    languages = {language: [_code(language)] for language in known[config].languages if language not in LEFT_OUT}
    return _at(dataset, revision, config, [Tux8T2IRetrieval(), Tux8I2TRetrieval()], languages)


def _at(
    dataset: str,
    revision: str | None,
    config: str,
    tasks: Sequence[_Captioned],
    languages: dict[str, list[str]] = LANGUAGES,
) -> list[_Captioned]:
    about = {"dataset": {"path": dataset, "revision": revision or "main"}, "eval_langs": languages}
    for task in tasks:
        task.config = config
        task.metadata = task.metadata.model_copy(update=about)
        task.hf_subsets = task.metadata.hf_subsets
    return list(tasks)


def _code(language: str) -> str:
    """A BCP 47 tag as MTEB writes languages: `zh-TW` is `zho-Hant`."""
    full = langcodes.get(language).maximize()
    return f"{full.to_alpha3()}-{full.script}"
