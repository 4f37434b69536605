"""A dual encoder in the place of an MMP model: for indexes, searches and the app over one's own videos."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.frame_encoders_mmp import FrameEncoder, image_encoder
from polyvid.modeling.paths_mmp import is_local_path
from polyvid.modeling.video_index_mmp import VideoIndex
from polyvid.train.dual_encoders.frames import FrameRule
from polyvid.train.dual_encoders.loading import adapter_of, is_dual_encoder, load_dual_encoder
from polyvid.train.dual_encoders.models import DualEncoder, VideoDualEncoder
from polyvid.train.loading import load_model

WITH_PATCHES = ("siglip2",)
"""Models that take images cut into patches, with a mask, and not `pixel_values` alone."""


class ZeroShotModel:
    """What `VideoIndex` asks of a model and of its processor, answered by a dual encoder.

    The features of a video are one vector a second, the mean of the image embeddings of two frames, as `polyvid extract
    --encoder NAME` keeps them. The embedding of a video, or of a moment, is the mean of their unit vectors.

    Args:
        dual_encoder: with images, such as CLIP and SigLIP.

    Attributes:
        frame_encoder: makes the features.
        config: `embed_dim`, `video_feature_dim` and `video_encoders`, as an MMP model has them.
        name_or_path: its folder or Hub id.
        tokenizer: of its texts.
    """

    def __init__(self, dual_encoder: DualEncoder):
        self._encoder = dual_encoder
        self.name_or_path, self.tokenizer = dual_encoder.name, dual_encoder.tokenizer
        self.frame_encoder: FrameEncoder = image_encoder(dual_encoder.model, dual_encoder.pixels, dual_encoder.name)
        self.frame_encoder.to(dual_encoder.device)
        record = self.frame_encoder.describe() | {"per": "second"}
        self.config = SimpleNamespace(
            embed_dim=record["columns"],
            video_feature_dim=record["columns"],
            video_encoders=[record],
            _commit_hash=getattr(dual_encoder.model.config, "_commit_hash", None),
        )

    def encode_texts(self, texts: Sequence[str], processor: object = None) -> Tensor:
        """(texts, embed_dim) float32 on the CPU."""
        return self._encoder.encode_texts(texts)

    def encode_videos(
        self,
        videos: Sequence[Any],
        processor: object = None,
        names: Sequence[object] | None = None,
        progress: bool | Callable[[int], object] = False,
    ) -> Tensor:
        """(videos, embed_dim) float32 on the CPU, of features (seconds, video_feature_dim).

        Raises:
            PolyvidError: for features of another width, none at all, or not finite; the video is named.
        """
        found = []
        for number, video in enumerate(videos):
            name = names[number] if names is not None else number
            features = torch.tensor(np.asarray(video), dtype=torch.float32)
            if features.ndim != 2 or features.shape[1] != self.config.embed_dim or not len(features):
                shape = tuple(features.shape)
                raise PolyvidError(
                    f"Video {name}: {self.name_or_path} takes features (seconds, {self.config.embed_dim}), not {shape}."
                )
            if not features.isfinite().all():
                raise PolyvidError(f"Video {name}: NaN or infinity.")
            found.append(normalize(features, dim=-1).mean(0))
        return torch.stack(found)


def load_searching_model(name: str, device: str | None = None) -> tuple[Any, Any]:
    """What embeds queries and videos, and its processor: an MMP model, or a dual encoder that stands for both.

    Args:
        name: folder or Hub id.
        device: by default the GPU if there is one, else the CPU.

    Raises:
        OSError: if there is no such model.
        PolyvidError: for a dual encoder that does not see single images.
    """
    if not is_dual_encoder(name):
        return load_model(name, device)
    config, family = adapter_of(name)
    kind = "model of sentence-transformers" if config is None else config.model_type
    if config is None or family is VideoDualEncoder or kind in WITH_PATCHES:
        raise PolyvidError(
            f"{name} is a {kind}: polyvid evaluate can test it, but an index needs a model of single images, such as "
            "CLIP or SigLIP."
        )
    model = ZeroShotModel(load_dual_encoder(name, str(FrameRule(1, True)), None, device))
    return model, model


def read_queries(index: VideoIndex, device: str | None = None) -> None:
    """Lets an index read queries with the model that made it, if that is a dual encoder; MMP models it loads itself.

    Raises:
        OSError: if the Hub cannot be reached.
        PolyvidError: if it is another than the one that made the index.
    """
    is_here = index.made_by and (not is_local_path(index.made_by) or Path(index.made_by).exists())
    if is_here and is_dual_encoder(index.made_by):
        index.read_queries_with(*load_searching_model(index.made_by, device))
