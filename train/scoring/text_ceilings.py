"""How well captions find their English counterparts by text alone: whose fault is a low score in a language?

A model that is trained on English captions reaches other languages through its text backbone. Where the backbone does
not find the English caption of the same video among all of them, the model can hardly find the video. So this is an
upper bound of sorts for zero-shot transfer; a model that was trained on the language may exceed it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from polyvid.dataset_scripts.schema import written_captions
from polyvid.train.scoring.evaluation import Ranks
from polyvid.train.scoring.ranking import ranks_of_targets

ENGLISH = "en"
Embed = Callable[[Sequence[str]], np.ndarray]


def text_ceilings(
    embed: Embed, videos: Sequence[Mapping[str, Any]], languages: Sequence[str], progress: str | None = None
) -> dict[str, Ranks]:
    """Search the English captions of all videos with every caption in another language.

    Vectors are centred, each language by its own mean, because sentence encoders keep languages apart. A caption is
    found at the rank of its video's best English caption among those of other videos. Videos without an English caption
    are left out; blank captions are no queries.

    Args:
        embed: texts → sentence vectors (texts, dim), such as `polyvid.train.scoring.sentences.SentenceVectors`.
        videos: rows of `polyvid.dataset_scripts.schema.CAPTIONS`.
        languages: of the queries; English is skipped.
        progress: label of the progress bar; None shows no bar.

    Returns:
        language → ranks. Empty if there are no English captions to find.
    """
    english = _captions(videos, ENGLISH)
    found: dict[str, Ranks] = {}
    if not english:
        return found
    known = {index for index, _ in english}
    candidates = _centred(embed, english)
    of_candidate = torch.tensor([index for index, _ in english])
    video_ids = np.array([video["video_id"] for video in videos])
    for language in tqdm(languages, desc=progress, disable=progress is None, unit=" languages"):
        queries = [(index, text) for index, text in _captions(videos, language) if index in known]
        if language != ENGLISH and queries:
            of_query = torch.tensor([index for index, _ in queries])
            ranks = ranks_of_targets(_centred(embed, queries), candidates, of_query, of_candidate)
            found[language] = Ranks(ranks, np.ones(len(queries), dtype=bool), video_ids[of_query.numpy()])
    return found


def _captions(videos: Sequence[Mapping[str, Any]], language: str) -> list[tuple[int, str]]:
    """(index of the video, text) of each caption in the language."""
    return [
        (index, caption["text"])
        for index, video in enumerate(videos)
        for caption in written_captions(video, [language])
    ]


def _centred(embed: Embed, captions: Sequence[tuple[int, str]]) -> torch.Tensor:
    vectors = torch.from_numpy(np.asarray(embed([text for _, text in captions]), dtype=np.float32))
    return vectors - vectors.mean(0)
