"""How well a model finds videos by texts in each language."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmp.modeling import MMPModel, MMPProcessor
from mmp.train.retrieval_metrics import ranks_of_targets, recall_at_k


def evaluate_retrieval(
    model: MMPModel,
    processor: MMPProcessor,
    videos: Sequence[Mapping[str, Any]],
    features: Mapping[str, Any],
    languages: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Text-to-video recall in percent, language by language: every caption is a query over all videos.

    Args:
        videos: rows of `mmp.dataset_scripts.schema.CAPTIONS`; all are candidates, whatever languages they have.
        features: video id → array (seconds, video_feature_dim).

    Returns:
        `{language: {"queries": number, "R@1": percent, "R@5": ..., "R@10": ...}}`, languages without captions left out.
    """
    video_ids = [video["video_id"] for video in videos]
    video_embeds = model.encode_videos([features[video_id] for video_id in video_ids], processor, names=video_ids)
    scores = {}
    for language in languages:
        queries = [
            (index, caption["text"])
            for index, video in enumerate(videos)
            for caption in video["captions"]
            if caption["language"] == language
        ]
        if not queries:
            continue
        targets, texts = zip(*queries, strict=True)
        ranks = ranks_of_targets(model.encode_texts(texts, processor), video_embeds, torch.tensor(targets))
        scores[language] = {"queries": len(texts), **recall_at_k(ranks)}
    return scores
