"""Text-to-video retrieval as a transformers pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from transformers import Pipeline

from .errors_mmp import PolyvidError
from .video_index_mmp import VideoIndex


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

    def make_index(self, videos: Mapping[str, object] | Sequence, progress: bool = False, **options) -> VideoIndex:
        """Embeds a collection of videos: `{video_id: features}`, or a sequence of features, named by position.

        Features are [seconds, video_feature_dim] arrays, numpy or torch. Options are those of [`VideoIndex.build`].
        """
        return VideoIndex.build(self.model, videos, processor=self.processor, progress=progress, **options)

    def __call__(self, inputs: str | list[str], videos=None, index=None, top_k: int = 10, **kwargs):
        """The `top_k` videos nearest to each query, best first.

        Args:
            inputs: a query or a list of them.
            videos: the collection as in `make_index`, embedded for this call; for more than one call, make an index.
            index: a [`VideoIndex`], the path of a saved one or its Hub id; may also be given to `pipeline(...)` once
                for all.
            top_k: how many videos a query gets; `k` of [`VideoIndex.search`] by the name that pipelines use.
            lang, where, seconds: filters, as for [`VideoIndex.search`].

        Returns:
            The hits of [`VideoIndex.search`]; for a list of queries, a list of such lists.

        Raises:
            PolyvidError: for an empty query, without a collection to search, and for an index of another model.
        """
        if videos is not None:
            index = self.make_index(videos)
        if index is not None:
            kwargs["index"] = index
        return super().__call__(inputs, top_k=top_k, **kwargs)

    def _sanitize_parameters(self, index=None, top_k=None, lang=None, where=None, seconds=None, **unknown):
        if unknown:
            known = "videos, index, top_k, lang, where and seconds"
            raise PolyvidError(f"Unknown argument {', '.join(unknown)}; known are {known}.")
        given = {"top_k": top_k, "lang": lang, "where": where, "seconds": seconds}
        parameters = {name: value for name, value in given.items() if value is not None}
        if index is not None:
            parameters["index"] = VideoIndex.load(index) if isinstance(index, str | os.PathLike) else index
            parameters["index"].check_model(self.model, self.processor)
        return {}, {}, parameters

    def preprocess(self, text: str):
        return self.processor(text=text, return_tensors="pt")

    def _forward(self, model_inputs):
        return {"text_embeds": self.model.get_text_features(**model_inputs).pooler_output}

    def postprocess(self, model_outputs, index: VideoIndex | None = None, top_k: int = 10, **filters):
        if index is None:
            raise PolyvidError("Nothing to search in: pass videos={video_id: features} or index='videos.safetensors'.")
        return index.search(model_outputs["text_embeds"], top_k, **filters)[0]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
