"""Measures how well the model in training finds the validation videos, in each requested language."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from polyvid.dataset_scripts.schema import written_captions
from polyvid.modeling import MMPModel, MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.scoring.ranking import ranks_of_targets, recall_at_k


class ValidationSet:
    """Videos and the captions that search for them: each caption is a query over all videos (§5.3).

    Args:
        videos: rows of `polyvid.dataset_scripts.schema.CAPTIONS`; those without features are left out.
        features: video id -> array (seconds, video_feature_dim).
        languages: of the queries.

    Raises:
        PolyvidError: if no video has features, or a language has no captions.
    """

    def __init__(
        self, videos: Sequence[Mapping[str, Any]], features: Mapping[str, Any], languages: Sequence[str] = ("en",)
    ):
        videos = list(videos)
        found = [video for video in videos if video["video_id"] in features]
        if not found:
            raise PolyvidError(f"Nothing to validate with: none of {len(videos)} validation videos has features.")
        self.videos = [features[video["video_id"]] for video in found]
        self.queries: dict[str, tuple[list[str], list[int]]] = {}  # language -> texts, and the video of each
        for language in languages:
            pairs = [
                (caption["text"], index)
                for index, video in enumerate(found)
                for caption in written_captions(video, [language])
            ]
            if not pairs:
                raise PolyvidError(
                    f"Nothing to validate with: {len(found)} validation videos have no {language} captions."
                )
            texts, targets = zip(*pairs, strict=True)
            self.queries[language] = (list(texts), list(targets))

    def recall(
        self,
        model: MMPModel,
        processor: MMPProcessor,
        forward: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]] | None = None,
    ) -> dict[str, dict[str, float]]:
        """Language -> `{"R@1", "R@5", "R@10"}` in percent.

        Args:
            model: embeds text and videos.
            processor: of the model; it defines the maximum lengths.
            forward: the model as called in training (wrapped or sharded), for one batch. Default: `model`.
        """

        def embedding(name: str) -> Callable[[dict[str, torch.Tensor]], torch.Tensor] | None:
            return None if forward is None else lambda batch: forward(batch)[name]

        candidates = model.encode_videos(self.videos, processor, forward=embedding("video_embeds"))
        scores = {}
        for language, (texts, targets) in self.queries.items():
            queries = model.encode_texts(texts, processor, forward=embedding("text_embeds"))
            scores[language] = recall_at_k(ranks_of_targets(queries, candidates, torch.tensor(targets)))
        return scores
