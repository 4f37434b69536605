"""How well the model in training finds the validation videos, in each language asked for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from polyvid.modeling import MMPProcessor
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.scoring.ranking import ranks_of_targets, recall_at_k


class ValidationSet:
    """Videos and the captions that search them: every caption is a query over all videos (§5.3).

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
                for caption in video["captions"]
                if caption["language"] == language and caption["text"].strip()
            ]
            if not pairs:
                raise PolyvidError(
                    f"Nothing to validate with: {len(found)} validation videos have no {language} captions."
                )
            # By length: a batch is then hardly padded. The order of queries changes no score.
            pairs.sort(key=lambda pair: len(pair[0]))
            texts, targets = zip(*pairs, strict=True)
            self.queries[language] = (list(texts), list(targets))

    def recall(
        self,
        embed: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]],
        processor: MMPProcessor,
        max_text_length: int,
        max_video_length: int,
        batch_size: int = 128,
    ) -> dict[str, dict[str, float]]:
        """Language -> `{"R@1", "R@5", "R@10"}` in percent. `embed` runs the model on one batch of texts or videos."""
        videos = [
            embed(processor(videos=part, max_video_length=max_video_length, return_tensors="pt"))["video_embeds"]
            for part in _batches(self.videos, batch_size)
        ]
        candidates, scores = torch.cat(videos), {}
        for language, (texts, targets) in self.queries.items():
            queries = [
                embed(processor(text=part, max_text_length=max_text_length, return_tensors="pt"))["text_embeds"]
                for part in _batches(texts, batch_size)
            ]
            indices = torch.tensor(targets, device=candidates.device)
            scores[language] = recall_at_k(ranks_of_targets(torch.cat(queries), candidates, indices))
        return scores


def _batches(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]
