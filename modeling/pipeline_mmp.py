"""Text-to-video retrieval as a transformers pipeline."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Pipeline

from .errors_mmp import PolyvidError
from .video_index_mmp import VideoIndex
from .video_sources_mmp import is_video

OPTIONS = ("top_k", "lang", "where", "seconds", "one_per_video", "max_overlap")


class TextToVideoRetrievalPipeline(Pipeline):
    """Finds videos with words: compares a query in any language of the backbone with a collection of videos.

    Example:

    ```python
    search = pipeline("text-to-video-retrieval", model=folder, trust_remote_code=True)
    index = search.make_index({"v1": features_1, "v2": features_2})
    index.save("videos.safetensors")
    search("ein Hund läuft", index="videos.safetensors", top_k=1)  # [{'video_id': 'v2', 'score': 0.61}]
    ```
    """

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    _load_video_processor = False

    _opened: tuple[object, VideoIndex] | None = None  # the index that was loaded last, and what it was loaded from
    _built: tuple[str, VideoIndex] | None = None  # the index that was built last, and the digest of its videos

    def make_index(
        self, videos: Mapping[str, object] | Sequence[object], progress: bool = False, **options: Any
    ) -> VideoIndex:
        """Embeds a collection of videos.

        Args:
            videos: `{video_id: video}`, or a sequence of videos, named by position: paths and what else
                [`MMPProcessor`] takes, or their features, [seconds, video_feature_dim] arrays, numpy or torch.
            progress: show a bar.
            options: those of [`VideoIndex.build`].

        Raises:
            PolyvidError: what [`VideoIndex.build`] refuses.
        """
        return VideoIndex.build(self.model, videos, processor=self.processor, progress=progress, **options)

    def __call__(
        self,
        inputs: str | list[str],
        videos: Mapping[str, object] | Sequence[object] | None = None,
        index: VideoIndex | str | os.PathLike[str] | None = None,
        top_k: int = 10,
        **kwargs: Any,
    ) -> Any:
        """The `top_k` videos nearest to each query, best first.

        Args:
            inputs: a query or a list of them.
            videos: the collection as in `make_index`. `pipeline(...)` takes it too, for all calls. It is embedded once,
                and again if it changes.
            index: a [`VideoIndex`], the path of a saved one or its Hub id. `pipeline(...)` takes it too, for all calls.
                A file is loaded once, and again if it changes.
            top_k: how many hits a query gets: the `k` of [`VideoIndex.search`], as pipelines call it.
            lang, where, seconds, one_per_video, max_overlap: as for [`VideoIndex.search`].

        Returns:
            The hits of [`VideoIndex.search`]; for a list of queries, a list of such lists.

        Raises:
            PolyvidError: for an empty query, without a collection to search, and for an index of another model.
        """
        given = {"videos": videos, "index": index}
        kwargs |= {name: value for name, value in given.items() if value is not None}
        return super().__call__(inputs, top_k=top_k, **kwargs)

    def _sanitize_parameters(
        self,
        index: VideoIndex | str | os.PathLike[str] | None = None,
        videos: Mapping[str, object] | Sequence[object] | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown := options.keys() - OPTIONS:
            known = ", ".join(["videos", "index", *OPTIONS])
            raise PolyvidError(f"Unknown argument {', '.join(sorted(unknown))}; the arguments are {known}.")
        parameters = {name: value for name, value in options.items() if value is not None}
        if videos is not None:
            parameters["index"] = self._build(videos)
        elif index is not None:
            parameters["index"] = self._open(index) if isinstance(index, str | os.PathLike) else index
            parameters["index"].check_model(self.model, self.processor)
        return {}, {}, parameters

    def _open(self, path: str | os.PathLike[str]) -> VideoIndex:
        """The index at a path or Hub id, loaded again only if it is another one or its file changed."""
        version: object = os.fspath(path)
        if os.path.exists(path):
            stat = os.stat(path)
            version = os.path.realpath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns
        if self._opened is None or self._opened[0] != version:
            self._opened = version, VideoIndex.load(path)
        return self._opened[1]

    def _build(self, videos: Mapping[str, object] | Sequence[object]) -> VideoIndex:
        """The index of these videos, built again only if they are others."""
        digest = _digest_of(videos)
        if digest is None:
            return self.make_index(videos)
        if self._built is None or self._built[0] != digest:
            self._built = digest, self.make_index(videos)
        return self._built[1]

    def preprocess(self, text: str) -> Any:
        return self.processor(text=text, return_tensors="pt")

    def _forward(self, model_inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"text_embeds": self.model.get_text_features(**model_inputs).pooler_output}

    def postprocess(
        self,
        model_outputs: Mapping[str, torch.Tensor],
        index: VideoIndex | None = None,
        top_k: int = 10,
        **filters: Any,
    ) -> Any:
        if index is None:
            raise PolyvidError("Nothing to search in: pass videos={video_id: features} or index='videos.safetensors'.")
        return index.search(model_outputs["text_embeds"], top_k, **filters)[0]

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


def _digest_of(videos: Mapping[str, object] | Sequence[object]) -> str | None:
    """Of the names of a collection with its features or the size and time of its files, which takes far less time than
    embedding it. None where only reading a video would tell whether it is another one."""
    digest = hashlib.blake2b(digest_size=16)
    for name, video in (videos if isinstance(videos, Mapping) else dict(enumerate(videos))).items():
        if isinstance(video, str | os.PathLike) and os.path.isfile(video):
            stat = os.stat(video)
            digest.update(repr((name, os.path.realpath(video), stat.st_size, stat.st_mtime_ns)).encode())
            continue
        if is_video(video):
            return None
        features = torch.as_tensor(video).detach().cpu().contiguous()
        digest.update(f"{name!r} {features.dtype} {tuple(features.shape)}\n".encode())
        digest.update(features.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
