"""Corrections of scores at search time, measured with a bank of texts: which texts, and what they say of a model.

In: the training captions of a model, or a table of texts. Out: what `rank_benchmark` needs to search with corrections,
and what `results.json` records of them. The formulas are in `polyvid.modeling.hubness_mmp`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polyvid.dataset_scripts.schema import written_captions
from polyvid.modeling import MMPProcessor, VideoIndex
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.hubness_mmp import BETA, HubNumbers, language_offsets
from polyvid.train.data.parallel import load_parallel_texts
from polyvid.train.data.videos import load_videos
from polyvid.train.recipe import Recipe
from polyvid.train.scoring.baselines import captions_of_runs
from polyvid.train.scoring.embedder import Embedder

TRAINING = "training"
MOST_TESTED = 0.2  # share of a language's queries that a table may hold: short captions can be alike by chance

Videos = Sequence[Mapping[str, Any]]  # rows of `polyvid.dataset_scripts.schema.CAPTIONS`


@dataclass(frozen=True)
class QueryBank:
    """Texts that stand for queries.

    Attributes:
        texts: language → texts.
        source: where they come from, for results.
        video_ids: of the clips that they describe.
    """

    texts: dict[str, list[str]]
    source: str
    video_ids: frozenset[str] = frozenset()

    @classmethod
    def of(cls, source: str, recipe: Recipe | None, is_strangers: bool = False) -> "QueryBank":
        """The captions that a model was trained on last (`"training"`), or a table of texts.

        Args:
            source: `"training"` or a file as `load_parallel_texts` takes; for one language, the header is its code.
            recipe: of the model.
            is_strangers: the recipe came with a model from the Hub, so it may name no files outside the working folder.

        Raises:
            FileNotFoundError: if there is no such file.
            PolyvidError: for a model without a recipe of captions, a stranger's recipe that names other files, or a
                table that cannot be read.
        """
        if source != TRAINING:
            rows = load_parallel_texts(source, at_least=1)
            return cls(_by_language(rows), Path(source).name)
        if recipe is None or recipe.data.dataset is None:
            raise PolyvidError(
                "The model does not say which captions it was trained on: pass a table of texts instead of 'training'."
            )
        data = recipe.data
        dataset = data.dataset if data.dataset is not None and Path(data.dataset).exists() else None
        paths = (dataset, data.data_dir, data.translations)
        for path in paths if is_strangers else ():
            if path and not Path(path).resolve().is_relative_to(Path.cwd().resolve()):
                raise PolyvidError(
                    f"The recipe of the model names {path}, outside the working folder, where a model from the Hub may "
                    "not choose files: pass --query-bank with a table of texts."
                )
        rows = captions_of_runs([(data, load_videos(data, data.train_split, data.languages))])
        name = f"{data.dataset} {data.config or ''}".strip()
        return cls(_by_language(rows), f"{name}, split {data.train_split}", frozenset(row["video_id"] for row in rows))

    def check_untested(self, videos: Videos, languages: Sequence[str]) -> None:
        """Checks that the bank does not hold the queries of a test.

        Raises:
            PolyvidError: if it describes one of the tested `videos`, or holds more than a fifth of a language's
                queries.
        """
        tested = {str(video["video_id"]) for video in videos}
        if shared := sorted(tested & self.video_ids):
            raise PolyvidError(
                f"The query bank ({self.source}) describes {len(shared)} of the tested videos, such as {shared[0]}: "
                "test queries cannot be the bank that their search is corrected with."
            )
        for language, known in self.texts.items():
            if language not in languages:
                continue
            queries = [c["text"].strip() for video in videos for c in written_captions(video, [language])]
            found = sum(query in set(known) for query in queries) if queries else 0
            if found > MOST_TESTED * len(queries):
                raise PolyvidError(
                    f"The query bank ({self.source}) holds {found} of the {len(queries)} {language} queries that are "
                    "tested: test queries cannot be the bank that their search is corrected with."
                )


@dataclass(frozen=True)
class Corrections:
    """What to correct, by which texts.

    Args:
        bank: the texts.
        hubness: None, or a [`HubNumbers`] with (`"gated"`) or without its gate (`"always"`).
        own_language: correct the hubness of a query by the texts of its own language, where the bank has such.
        offsets: subtract the offset of a query's language, where the bank has texts in it and in English.
        beta: of QB-Norm.

    Raises:
        PolyvidError: for an unknown kind of hubness, nothing to correct, or offsets without texts in English and
            another language.
    """

    bank: QueryBank
    hubness: str | None = "gated"
    own_language: bool = False
    offsets: bool = False
    beta: float = BETA

    def __post_init__(self) -> None:
        if self.hubness not in (None, "gated", "always"):
            raise PolyvidError(f"--hubness must be gated or always, not {self.hubness!r}.")
        if self.hubness is None and not self.offsets:
            raise PolyvidError("A query bank corrects nothing by itself: pass --hubness or --language-offsets too.")
        if not self.beta > 0:
            raise PolyvidError(f"--beta must be greater than 0, not {self.beta}.")
        if self.offsets and ("en" not in self.bank.texts or len(self.bank.texts) < 2):
            raise PolyvidError(
                f"--language-offsets needs texts in English and in another language, but the query bank "
                f"({self.bank.source}) has {' '.join(self.bank.texts) or 'none'}."
            )

    def fitted(self, model: Embedder, processor: MMPProcessor | None) -> "FittedCorrections":
        """What the bank says of a model."""
        embeds = {
            language: F.normalize(model.encode_texts(texts, processor).float(), dim=-1)
            for language, texts in self.bank.texts.items()
        }
        shifts = language_offsets(embeds) if self.offsets else {}
        if self.offsets:
            embeds = {language: rows - shifts[language] for language, rows in embeds.items()}
        return FittedCorrections(self, embeds, shifts)

    def apply(self, index: VideoIndex) -> None:
        """Set up the same for the searches of an index."""
        count = sum(map(len, self.bank.texts.values()))
        about = f"{count} texts of {self.bank.source}"
        if self.offsets:
            index.correct_languages(self.bank.texts, about)
        if self.hubness is not None:
            index.correct_hubness(self.bank.texts, self.beta, self.hubness == "gated", about)

    def record(self) -> dict[str, Any]:
        """What `results.json` says of them."""
        return {
            "hubness": self.hubness,
            "beta": self.beta if self.hubness else None,
            "bank_of_own_language": self.own_language,
            "language_offsets": self.offsets,
            "bank": {
                "source": self.bank.source,
                "texts": {lang: len(texts) for lang, texts in self.bank.texts.items()},
            },
        }


@dataclass(frozen=True)
class FittedCorrections:
    """Corrections of one model.

    Attributes:
        settings: what to correct.
        bank_embeds: language → (texts, dim), less the language's offset.
        offsets: language → (dim,); a language without texts in the bank has none.
    """

    settings: Corrections
    bank_embeds: dict[str, Tensor]
    offsets: dict[str, Tensor]

    def queries(self, embeds: Tensor, language: str) -> Tensor:
        """Embeddings of queries (queries, dim), less the offset of their language."""
        if language not in self.offsets:
            return embeds
        return F.normalize(embeds.float(), dim=-1) - self.offsets[language].to(embeds.device)

    def scores(self, video_embeds: Tensor, language: str) -> Callable[[Tensor], Tensor] | None:
        """Cosines (queries, videos) → corrected scores, for queries in a language; None changes nothing."""
        if self.settings.hubness is None:
            return None
        own = self.settings.own_language and language in self.bank_embeds
        bank = self.bank_embeds[language] if own else torch.cat(list(self.bank_embeds.values()))
        gated = self.settings.hubness == "gated"
        return HubNumbers.of(video_embeds, bank.to(video_embeds.device), self.settings.beta, gated)


def _by_language(rows: Videos) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for row in rows:
        for caption in row["captions"]:
            if caption["text"].strip():
                texts.setdefault(caption["language"], []).append(caption["text"].strip())
    return texts
