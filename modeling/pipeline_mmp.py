"""Text-to-video retrieval as a transformers pipeline, and the index it searches."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import Pipeline


class VideoIndex:
    """Embeddings of a collection of videos with their ids, in one `.safetensors` file; searched exactly, by cosine.

    Args:
        video_embeds: (videos, embed_dim); kept normalised to length 1.
        video_ids: as many names, without repetition.

    Raises:
        ValueError: where the two do not fit, there is no video, or an id is repeated.
    """

    def __init__(self, video_embeds: torch.Tensor, video_ids: Iterable[str]):
        self.video_ids = [str(video_id) for video_id in video_ids]
        if video_embeds.ndim != 2 or len(video_embeds) != len(self.video_ids):
            raise ValueError(f"{len(self.video_ids)} video ids do not fit embeddings {tuple(video_embeds.shape)}.")
        if not self.video_ids:
            raise ValueError("The collection of videos is empty.")
        if len(set(self.video_ids)) < len(self.video_ids):
            seen: set[str] = set()
            repeated = next(name for name in self.video_ids if name in seen or seen.add(name))
            raise ValueError(f"Video id {repeated!r} stands twice in the collection.")
        self.video_embeds = F.normalize(video_embeds.float(), dim=-1)

    def __len__(self) -> int:
        return len(self.video_ids)

    def search(self, text_embeds: torch.Tensor, top_k: int = 10) -> list[list[dict]]:
        """The `top_k` nearest videos of each text, best first, as `{"video_id", "score"}`; the score is the cosine.

        Args:
            text_embeds: (texts, embed_dim).

        Raises:
            ValueError: if the widths differ or `top_k` is not positive.
        """
        if text_embeds.shape[-1] != self.video_embeds.shape[1]:
            raise ValueError(
                f"The index was made by another model: its embeddings are {tuple(self.video_embeds.shape)}, "
                f"the queries' {tuple(text_embeds.shape)}."
            )
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        similarity = F.normalize(text_embeds.float(), dim=-1) @ self.video_embeds.T
        scores, best = similarity.topk(min(top_k, len(self)), dim=-1)
        return [
            [{"video_id": self.video_ids[i], "score": score} for i, score in zip(row, row_scores, strict=True)]
            for row, row_scores in zip(best.tolist(), scores.tolist(), strict=True)
        ]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the index; the file appears whole or not at all."""
        path = Path(path)
        part = path.with_name(f"{path.name}.part")
        save_file({"video_embeds": self.video_embeds.contiguous()}, part, {"video_ids": json.dumps(self.video_ids)})
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> VideoIndex:
        """Reads what `save` wrote. Raises a ValueError if the file is not there or is not an index."""
        try:
            with safe_open(path, framework="pt") as file:
                return cls(file.get_tensor("video_embeds"), json.loads(file.metadata()["video_ids"]))
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"{str(path)!r} is not a video index that can be read: {error}") from error


class TextToVideoRetrievalPipeline(Pipeline):
    """Finds videos with words: a query in any language the backbone reads against a collection of videos.

    Example:

    ```python
    >>> search = pipeline("text-to-video-retrieval", model=folder, trust_remote_code=True)
    >>> index = search.make_index({"v1": features_1, "v2": features_2})
    >>> index.save("videos.safetensors")
    >>> search("ein Hund läuft", index="videos.safetensors", top_k=1)
    [{'video_id': 'v2', 'score': 0.61}]
    ```
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    def make_index(self, videos: Mapping[str, object] | Sequence, progress: bool = False) -> VideoIndex:
        """Embeds a collection of videos: `{video_id: features}`, or a sequence of features, named by position.

        Features are [seconds, video_feature_dim] arrays, numpy or torch.
        """
        names = list(videos) if isinstance(videos, Mapping) else range(len(videos))
        arrays = list(videos.values()) if isinstance(videos, Mapping) else videos
        return VideoIndex(self.model.encode_videos(arrays, self.processor, names=names, progress=progress), names)

    def __call__(self, inputs: str | list[str], videos=None, index=None, top_k: int = 10, **kwargs):
        """The `top_k` videos nearest to each query, best first.

        Args:
            inputs: a query or a list of them.
            videos: the collection as in `make_index`, embedded for this call; for more than one call, make an index.
            index: a [`VideoIndex`] or the path of a saved one; may also be given to `pipeline(...)` once for all.
            top_k: how many videos a query gets.

        Returns:
            A list of `{"video_id", "score"}`, the score being the cosine; for a list of queries, a list of such lists.

        Raises:
            ValueError: for an empty query, and without a collection to search.
        """
        if videos is not None:
            index = self.make_index(videos)
        if index is not None:
            kwargs["index"] = index
        return super().__call__(inputs, top_k=top_k, **kwargs)

    def _sanitize_parameters(self, index=None, top_k=None, **unknown):
        if unknown:
            raise ValueError(f"Unknown argument {', '.join(unknown)}; known are videos, index and top_k.")
        parameters = {} if top_k is None else {"top_k": top_k}
        if index is not None:
            parameters["index"] = VideoIndex.load(index) if isinstance(index, str | os.PathLike) else index
        return {}, {}, parameters

    def preprocess(self, text: str):
        return self.processor(text=text, return_tensors="pt")

    def _forward(self, model_inputs):
        return {"text_embeds": self.model.get_text_features(**model_inputs)}

    def postprocess(self, model_outputs, index: VideoIndex | None = None, top_k: int = 10):
        if index is None:
            raise ValueError("Nothing to search in: pass videos={video_id: features} or index='videos.safetensors'.")
        return index.search(model_outputs["text_embeds"], top_k)[0]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
