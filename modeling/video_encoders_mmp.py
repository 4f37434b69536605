"""The networks that a model was made for, loaded from beside the model or by name: videos in, features out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.utils import cached_file

from .errors_mmp import PolyvidError
from .frame_encoders_mmp import NETWORKS, FrameEncoder, load_frame_encoder, network_of
from .provenance_mmp import differing_keys, shown_encoders
from .video_reading_mmp import Sampling, VideoEnd, VideoError, View, Window, decode_video, require_av
from .video_sources_mmp import frames_of
from .window_batches_mmp import encode_windows

FOLDER = "video_encoders"


def folder_of(record: Mapping[str, Any]) -> str:
    """Where a network lies in the folder of the model.

    >>> folder_of({"id": "google/siglip2-base-patch16-224"})
    'video_encoders/google--siglip2-base-patch16-224'
    """
    return f"{FOLDER}/{re.sub(r'[^A-Za-z0-9_.-]+', '--', record['id']).strip('.')}"


class VideoEncoders:
    """Makes features of videos as `polyvid extract` does: one row a second, the networks side by side.

    Args:
        encoders: their vectors are concatenated.
        per: `"second"` (or `"frame"`: what their sampling says) or `"video"`, the mean over a video.
    """

    def __init__(self, encoders: Sequence[FrameEncoder], per: str = "second"):
        self.encoders, self.per = list(encoders), per

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        records: Sequence[Mapping[str, Any]] | None,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> VideoEncoders:
        """Loads what a model's configuration records, from sub-folders of the model where they are there, else by id.

        Args:
            model: its folder or Hub id.
            records: `config.video_encoders`.
            device: for the networks.
            revision: of the model.

        Raises:
            PolyvidError: if nothing is recorded, or a network is not the one that was recorded.
            ImportError: if a package is missing.
            OSError: if a network is neither in the folder nor on the Hub.
        """
        if not records:
            raise PolyvidError(
                f"{os.fspath(model) or 'This model'} does not say which networks made the features it was trained on, "
                "so it cannot read videos: pass features."
            )
        encoders = [_load(os.fspath(model), record, revision).to(device) for record in records]
        return cls(encoders, records[0].get("per", "second"))

    def features(
        self,
        videos: Sequence[Any],
        names: Sequence[object] | None = None,
        frame_rate: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> list[np.ndarray]:
        """Of each video (seconds, width) float16, as feature shards hold it: what the model was trained on.

        Windows of several videos share a batch; while the networks compute, the next windows are decoded.

        Args:
            videos: see `video_sources_mmp.frames_of`.
            names: of the videos, for errors; default: their indices.
            frame_rate: of those that are lists or arrays of frames.
            progress: called with 1 after each video.

        Raises:
            ImportError: without PyAV.
            PolyvidError: naming the video that cannot be read, with the reason.
        """
        require_av()

        def decode(views: list[View]) -> Iterator[Window | VideoEnd]:
            for index, video in enumerate(videos):
                yield from decode_video(str(index), frames_of(video, frame_rate), views)

        found: dict[int, np.ndarray] = {}
        for index, features in encode_windows(decode, self.encoders):
            if isinstance(features, VideoError):
                name = _name(videos[int(index)], int(index) if names is None else names[int(index)])
                raise PolyvidError(f"Video {name} cannot be read: {features}")
            if self.per == "video":
                features = features.mean(axis=0, keepdims=True)
            found[int(index)] = features.astype(np.float16)
            if progress is not None:
                progress(1)
        return [found[index] for index in range(len(videos))]


def _name(video: Any, name: object) -> str:
    """A path says more than its position."""
    shown = os.fspath(video) if isinstance(video, str | os.PathLike) else None
    return repr(name) if shown is None or str(name) == str(shown) else f"{name!r} ({shown})"


def _load(model: str, record: Mapping[str, Any], revision: str | None) -> FrameEncoder:
    subfolder = folder_of(record)
    if not _has(model, f"{subfolder}/config.json", revision):
        model, subfolder, revision = record["id"], "", record.get("revision")
    # An image model was run as the record says; R(2+1)D and S3D bring their own rate, and the record their window.
    if network_of(model, revision, subfolder) in NETWORKS:
        chosen: dict[str, Any] = {"window": record.get("window"), "feature": record.get("output", "pooler_output")}
    else:
        sampling = Sampling(record["fps"], record["window"], record["stride"]) if "window" in record else None
        chosen = {"sampling": sampling}
    try:
        encoder = load_frame_encoder(model, revision=revision, subfolder=subfolder, **chosen)
    except ImportError as error:
        raise ImportError(f"This model reads videos with {record['id']}: {error}") from None
    encoder.source = {key: value for key, value in encoder.source.items() if key != "revision"} | {"id": record["id"]}
    expected = {key: value for key, value in record.items() if key not in ("revision", "per")}
    described = encoder.describe()
    if keys := differing_keys([described], [expected]):
        raise PolyvidError(
            f"The network at {model!r} is not the one that the model was made for: it is "
            f"{shown_encoders([described], keys)}, the record says {shown_encoders([expected], keys)}."
        )
    return encoder


def _has(model: str, file: str, revision: str | None) -> bool:
    if os.path.isdir(model):
        return os.path.isfile(os.path.join(model, file))
    found = model and cached_file(
        model,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return bool(found)
