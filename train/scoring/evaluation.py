"""How well a model finds videos from text, and text from videos, in each language."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from polyvid.dataset_scripts.schema import language_name, written_captions
from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.scoring.corrections import FittedCorrections
from polyvid.train.scoring.embedder import Embedder
from polyvid.train.scoring.ranking import ranks_of_targets, retrieval_scores
from polyvid.train.scoring.significance import bootstrap_interval

TEXT_TO_VIDEO, VIDEO_TO_TEXT = "text_to_video", "video_to_text"


@dataclass(frozen=True)
class Ranks:
    """The rank at which each query found its target, for one direction and language.

    Attributes:
        ranks: (queries,) from 1. If the video has no features, the rank is worse than any in the benchmark.
        has_features: (queries,) whether the query's video has features.
        video_ids: (queries,) the video each query belongs to.
    """

    ranks: np.ndarray
    has_features: np.ndarray
    video_ids: np.ndarray

    def scores(self, only_with_features: bool = False) -> dict[str, float]:
        """`{"queries": number, "R@1": percent, "R@5", "R@10", "MedR", "MnR", "MRR", "nDCG@10"}`."""
        ranks = self.ranks[self.has_features] if only_with_features else self.ranks
        return {"queries": len(ranks)} | retrieval_scores(ranks)

    def interval(self, score: str = "R@1") -> tuple[float, float]:
        """95 % bootstrap interval of a score, resampling videos."""
        return bootstrap_interval(self.ranks, score, self.video_ids)


def rank_benchmark(
    model: Embedder,
    processor: MMPProcessor | None,
    videos: Sequence[Mapping[str, Any]],
    features: Mapping[str, Any],
    languages: Sequence[str],
    progress: str | None = None,
    corrections: FittedCorrections | None = None,
) -> dict[str, dict[str, Ranks]]:
    """Search in both directions, language by language.

    Text to video: every caption is a query over all videos with features, including videos that have no captions in
    that language. Video to text: every video with captions in the language is a query over those captions, and its
    best-ranked caption counts. Blank captions are not used as queries (`count_blank_captions` counts them).

    Args:
        model: an MMP model or a dual encoder.
        processor: of an MMP model.
        videos: rows of `polyvid.dataset_scripts.schema.CAPTIONS`. For images, the regions take
            the place of the seconds.
        features: video id → array (seconds, width of the processor's features), or what else the model embeds.
        progress: label of the progress bar; None shows no bar.
        corrections: of the scores, for text to video alone: video to text stays as it is, but for language offsets.

    Returns:
        `{"text_to_video": {language: Ranks}, "video_to_text": {...}}`, without languages that have no captions.

    Raises:
        PolyvidError: if no video has features.
    """
    video_ids = np.array([video["video_id"] for video in videos])
    has_features = np.array([video_id in features for video_id in video_ids], dtype=bool)
    if not has_features.any():
        raise PolyvidError(f"None of the {len(videos)} videos has features (the first is {video_ids[:1]}).")
    shown = video_ids[has_features]
    row_of_video = np.cumsum(has_features) - 1
    last = len(videos) + 1
    queries = {language: _queries(videos, language) for language in languages}
    found: dict[str, dict[str, Ranks]] = {TEXT_TO_VIDEO: {}, VIDEO_TO_TEXT: {}}
    total = len(shown) + sum(int(has_features[index]) for rows in queries.values() for index, _ in rows)
    with tqdm(total=total, desc=progress, unit=" videos+texts", disable=progress is None) as bar:
        bar.set_postfix_str("videos")
        names = [str(name) for name in shown]
        arrays = _Lookup(features, names)  # a view: features are read batch by batch
        video_embeds = model.encode_videos(arrays, processor, names=names, progress=bar.update)
        for language, rows in queries.items():
            if not rows:
                continue
            bar.set_postfix_str(language_name(language))
            of_video = np.array([index for index, _ in rows])
            known = has_features[of_video]
            captioned = np.unique(of_video)
            to_video, to_text = np.full(len(of_video), last), np.full(len(captioned), last)
            if known.any():
                texts = [text for (_, text), use in zip(rows, known, strict=True) if use]
                text_embeds = model.encode_texts(texts, processor, progress=bar.update)
                corrected = None
                if corrections is not None:
                    text_embeds = corrections.queries(text_embeds, language)
                    corrected = corrections.scores(video_embeds, language)
                targets = torch.from_numpy(row_of_video[of_video[known]])
                to_video[known] = ranks_of_targets(text_embeds, video_embeds, targets, corrected=corrected)
                own = torch.from_numpy(row_of_video[captioned[has_features[captioned]]])
                to_text[has_features[captioned]] = ranks_of_targets(video_embeds[own], text_embeds, own, targets)
            found[TEXT_TO_VIDEO][language] = Ranks(to_video, known, video_ids[of_video])
            found[VIDEO_TO_TEXT][language] = Ranks(to_text, has_features[captioned], video_ids[captioned])
    return found


def _queries(videos: Sequence[Mapping[str, Any]], language: str) -> list[tuple[int, str]]:
    """(index of the video, text) for each caption in the language that is not blank."""
    return [
        (index, caption["text"])
        for index, video in enumerate(videos)
        for caption in written_captions(video, [language])
    ]


def count_blank_captions(videos: Sequence[Mapping[str, Any]], languages: Sequence[str]) -> dict[str, int]:
    """Number of captions that are only white space, by language; languages without any are left out."""
    captions = [caption for video in videos for caption in video["captions"]]
    blank = Counter(caption["language"] for caption in captions if not caption["text"].strip())
    return {language: blank[language] for language in languages if blank[language]}


def evaluate_retrieval(
    model: MMPModel,
    processor: MMPProcessor,
    videos: Sequence[Mapping[str, Any]],
    features: Mapping[str, Any],
    languages: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Text-to-video scores by language, as returned by `Ranks.scores`. Arguments as for `rank_benchmark`."""
    found = rank_benchmark(model, processor, videos, features, languages)
    return {language: ranks.scores() for language, ranks in found[TEXT_TO_VIDEO].items()}


class _Lookup(Sequence[Any]):
    """The features of these videos, by position."""

    def __init__(self, features: Mapping[str, Any], video_ids: Sequence[str]):
        self.features, self.video_ids = features, video_ids

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, index: Any) -> Any:
        return self.features[str(self.video_ids[index])]
