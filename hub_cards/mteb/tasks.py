"""Fluent-Emoji-9 as tasks of MTEB: find the clip by its name in nine languages, and the name by its clip."""

from typing import Any

from datasets import Dataset, Video, load_dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

SPLIT = "test"
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


def _metadata(name: str, category: str, prompt: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description=(
            "Animated and still clips of emoji (Fluent Emoji, MIT licence) with the names that Unicode CLDR has for "
            "them in nine languages. Every name belongs to one clip."
        ),
        dataset={"path": "polyvid/fluent-emoji-9", "revision": "main"},  # until it is published: see `emoji_tasks`
        type="Any2AnyMultilingualRetrieval",
        category=category,
        modalities=["text", "video"],
        eval_splits=[SPLIT],
        eval_langs=LANGUAGES,
        main_score="ndcg_at_10",
        reference="https://cldr.unicode.org",
        date=("2021-01-01", "2025-12-31"),
        domains=["Animation"],
        task_subtypes=["Cross-Modal Retrieval"],
        license="https://www.unicode.org/license.txt",
        annotations_creators="expert-annotated",
        dialect=[],
        sample_creation="found",
        bibtex_citation="",
        prompt={"query": prompt},
    )


class _FluentEmoji9(AbsTaskRetrieval):
    """The test clips of the config `split_0`, or of another one for the spread: `config`."""

    abstask_prompt = ""
    config = "split_0"
    data_loaded: bool = False

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        if self.data_loaded:
            return
        place = self.metadata.dataset
        rows = load_dataset(place["path"], self.config, split=SPLIT, revision=place["revision"])
        captions, rows = rows["captions"], rows.rename_columns({"video_id": "id", "clip": "video"})
        ids = list(rows["id"])
        clips = rows.select_columns(["id", "video"]).cast_column("video", Video())
        relevant = {video_id: {video_id: 1} for video_id in ids}
        self.dataset = {}
        for language in self.hf_subsets:
            texts = [_name_in(language, row) for row in captions]
            names = Dataset.from_dict({"id": ids, "text": texts})
            by_text = self.metadata.category == "t2v"
            queries, corpus = (names, clips) if by_text else (clips, names)
            split = RetrievalSplitData(queries=queries, corpus=corpus, relevant_docs=relevant, top_ranked=None)
            self.dataset[language] = {SPLIT: split}
        self.data_loaded = True


class FluentEmoji9T2VRetrieval(_FluentEmoji9):
    metadata = _metadata("FluentEmoji9T2VRetrieval", "t2v", "Find the animation that shows this.")


class FluentEmoji9V2TRetrieval(_FluentEmoji9):
    metadata = _metadata("FluentEmoji9V2TRetrieval", "v2t", "Find the name of what this animation shows.")


def emoji_tasks(dataset: str, revision: str | None = None, config: str = "split_0") -> list[AbsTaskRetrieval]:
    """Both tasks, for `mteb.evaluate`.

    Args:
        dataset: what `polyvid build fluent_emoji_9` wrote, or the id under which it was pushed.
        revision: of the repository.
        config: `split_0`, the benchmark, or another split of the same clips.
    """
    tasks: list[AbsTaskRetrieval] = []
    for task_class in (FluentEmoji9T2VRetrieval, FluentEmoji9V2TRetrieval):
        task = task_class()
        task.config = config
        place = {"path": dataset, "revision": revision or "main"}
        task.metadata = task.metadata.model_copy(update={"dataset": place})
        tasks.append(task)
    return tasks


def _name_in(language: str, captions: Any) -> str:
    """CLDR's short name."""
    [text] = [row["text"] for row in captions if (row["language"], row["caption_id"]) == (language, "name")]
    return str(text)
