"""Turns texts and videos, or features of videos, into the batch that an MMPModel takes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedConfig, ProcessorMixin, SequenceFeatureExtractor

from .errors_mmp import PolyvidError
from .video_encoders_mmp import VideoEncoders
from .video_sources_mmp import is_video

_SURROGATES = re.compile("[\ud800-\udfff]")


class MMPFeatureExtractor(SequenceFeatureExtractor):
    """Pads and masks videos given as [seconds, feature_size] arrays of pre-extracted features (§5.2, App. C).

    Args:
        feature_size: width of one second's features; 2048 for the image regions of §5.6.
        max_length: seconds kept of a video, the first ones: 128 in pre-training, 36 in fine-tuning (App. C).
        feature_power: exponent p, applied first: x becomes sign(x)·|x|^p. 0.5 shortens the long tail of features that
            are averages of rectified values; 1, as in the paper, changes nothing.
        feature_mean, feature_std (*optional*): `feature_size` floats each; every second becomes
            (x - mean) / std before padding. They must come from training clips only.

    Raises:
        PolyvidError: if mean and std do not fit `feature_size`, or a std is not positive.
    """

    model_input_names = ["video_features", "video_mask"]

    def __init__(
        self,
        feature_size: int = 1024,
        max_length: int = 128,
        feature_mean: Sequence[float] | None = None,
        feature_std: Sequence[float] | None = None,
        padding_value: float = 0.0,
        sampling_rate: int = 1,
        feature_power: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        if max_length < 1:
            raise PolyvidError(f"max_length must be at least 1 second, got {max_length}.")
        if (feature_mean is None) != (feature_std is None):
            raise PolyvidError("feature_mean and feature_std go together; only one was given.")
        for name, values in (("feature_mean", feature_mean), ("feature_std", feature_std)):
            if values is not None and len(values) != feature_size:
                raise PolyvidError(f"{name} has {len(values)} values, but feature_size is {feature_size}.")
        if feature_std is not None and not min(feature_std) > 0:
            raise PolyvidError("feature_std must be positive everywhere.")
        if not 0 < feature_power <= 1:
            raise PolyvidError(f"feature_power must be above 0 and at most 1, got {feature_power}.")
        self.max_length = max_length
        self.feature_power = feature_power
        self.feature_mean = None if feature_mean is None else [float(value) for value in feature_mean]
        self.feature_std = None if feature_std is None else [float(value) for value in feature_std]

    def __call__(
        self,
        videos: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
        names: Sequence[object] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """A batch from videos of different length.

        Args:
            videos: one [seconds, feature_size] array (numpy, torch or nested lists), or a list of them.
            padding: `True` pads to the longest video, `"max_length"` to `max_length`, `False` pads nothing.
            max_length: seconds kept, by default `self.max_length`.
            return_tensors: `"pt"` or `"np"`.
            names: of the videos, for errors, such as their ids; default: their indices.

        Returns:
            `video_features` (batch, seconds, feature_size) float32 and `video_mask` (batch, seconds), 1 = real.

        Raises:
            PolyvidError: naming the video, if it has no seconds, the wrong width, NaN or infinity.
        """
        limit = max_length or self.max_length
        videos = _as_list(videos)
        names = range(len(videos)) if names is None else names
        arrays = [self._as_array(name, video)[:limit] for name, video in zip(names, videos, strict=True)]
        if self.feature_power != 1:
            arrays = [np.sign(array) * np.abs(array) ** self.feature_power for array in arrays]
        if self.feature_mean is not None:
            mean = np.asarray(self.feature_mean, dtype=np.float32)
            std = np.asarray(self.feature_std, dtype=np.float32)
            arrays = [(array - mean) / std for array in arrays]
        if padding is False:
            batch = {"video_features": arrays, "video_mask": [np.ones(len(array), dtype=np.int64) for array in arrays]}
            return BatchFeature(batch, tensor_type=return_tensors)
        length = limit if padding == "max_length" else max(map(len, arrays))
        features = np.full((len(arrays), length, self.feature_size), self.padding_value, dtype=np.float32)
        mask = np.zeros((len(arrays), length), dtype=np.int64)
        for row, array in enumerate(arrays):
            features[row, : len(array)] = array
            mask[row, : len(array)] = 1
        return BatchFeature({"video_features": features, "video_mask": mask}, tensor_type=return_tensors)

    def _as_array(self, name: object, video: Any) -> np.ndarray:
        array = video.detach().cpu().float().numpy() if isinstance(video, torch.Tensor) else np.asarray(video)
        if array.ndim != 2 or array.shape[1] != self.feature_size or array.shape[0] == 0:
            raise PolyvidError(
                f"Video {name!r} must be an array of at least 1 second x {self.feature_size} features, "
                f"but its shape is {array.shape}."
            )
        if not np.isfinite(array).all():
            second = int(np.argmin(np.isfinite(array).all(axis=1)))
            raise PolyvidError(f"Video {name!r} {array.shape} holds NaN or infinity, first in second {second}.")
        return array.astype(np.float32, copy=False)


class MMPProcessor(ProcessorMixin):
    """The tokenizer of the text backbone and an [`MMPFeatureExtractor`] in one.

    Args:
        feature_extractor: for the videos.
        tokenizer: of the text backbone. It is set to pad on the right, where a pooling head can mask the padding.
        max_text_length: tokens kept of a text: 192 in pre-training, 96 in fine-tuning (App. C).
        text_padding (*optional*): number of tokens to which every text is cut and filled up, where the backbone was
            trained on texts like that and reads the padding as it reads tokens, as SigLIP does.

    Example:

    ```python
    batch = processor(text=["ein Hund läuft"], videos=[features], return_tensors="pt")
    sorted(batch)  # ['attention_mask', 'input_ids', 'video_features', 'video_mask']
    processor(videos=["a.mp4", "https://example.org/b.mp4"])  # the same, where the model brings its networks
    ```
    """

    _home: tuple[str, str | None] | None = None  # the folder or Hub id it was loaded from, and the revision
    _video_encoders: VideoEncoders | None = None

    def __init__(
        self,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        max_text_length: int = 192,
        text_padding: int | None = None,
        **kwargs: Any,
    ):
        if max_text_length < 3:
            raise PolyvidError(f"max_text_length must be at least 3 (<s>, a token, </s>), got {max_text_length}.")
        self.max_text_length, self.text_padding = max_text_length, text_padding
        super().__init__(feature_extractor, tokenizer, **kwargs)
        if text_padding is None:  # else padding counts as text, on the side where the backbone saw it
            self.tokenizer.padding_side = "right"

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """`ProcessorMixin.from_pretrained`; remembers the place, where the networks for videos are too."""
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        processor._home = os.fspath(pretrained_model_name_or_path), kwargs.get("revision")
        return processor

    def to_features(
        self,
        videos: Sequence[Any],
        names: Sequence[object] | None = None,
        frame_rate: float | None = None,
        encoders: VideoEncoders | None = None,
    ) -> list[Any]:
        """`videos`, in which features are put for what is a video.

        Args:
            videos: features, and what `frames_of` in `video_sources_mmp` takes, in any mix.
            names: of the videos, for errors; default: their indices.
            frame_rate: frames a second of lists of pictures and arrays of frames, which do not say it.
            encoders: make the features; default: the networks of the model that this was loaded with, on the CPU.

        Raises:
            PolyvidError: for a video that cannot be read, or without networks to see it with.
            ImportError, OSError: if a package or a network is missing.
        """
        videos = list(videos)
        pixels = [index for index, video in enumerate(videos) if is_video(video)]
        if not pixels:
            return videos
        if encoders is None:
            encoders = self._load_video_encoders()
        known: Sequence[object] = range(len(videos)) if names is None else names
        found = encoders.features([videos[i] for i in pixels], [known[i] for i in pixels], frame_rate)
        for index, features in zip(pixels, found, strict=True):
            videos[index] = features
        return videos

    def _load_video_encoders(self) -> VideoEncoders:
        if self._video_encoders is None:
            if self._home is None:
                raise PolyvidError(
                    "This processor was not loaded from the folder of a model, so it has no networks to see videos "
                    "with: use model.encode_videos(videos, processor), or pass features."
                )
            folder, revision = self._home
            config = PreTrainedConfig.get_config_dict(folder, revision=revision)[0]
            self._video_encoders = VideoEncoders.load(folder, config.get("video_encoders"), revision=revision)
        return self._video_encoders

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        padding: bool | str = True,
        max_text_length: int | None = None,
        max_video_length: int | None = None,
        return_tensors: str | None = None,
        video_names: Sequence[object] | None = None,
        frame_rate: float | None = None,
    ) -> BatchFeature:
        """A batch of texts, of videos, or of both, where row i of one belongs to row i of the other.

        Args:
            text: one text or a list of them, in any language the backbone reads.
            videos: features as for [`MMPFeatureExtractor`]; or videos: paths, addresses, bytes, PyAV's and torchcodec's
                decoders, values of a `datasets.Video` column, lists of PIL images, arrays of frames (T, H, W, 3) or
                (T, 3, H, W), uint8 or float in [0, 1]. The networks that the model was made for turn them into
                features, on the CPU; `model.encode_videos` does it on the model's device.
            padding: `True` pads to the longest of the batch, `"max_length"` to the maximum, `False` pads nothing.
            max_text_length, max_video_length: tokens and seconds kept, by default the processor's own.
            return_tensors: `"pt"` or `"np"`.
            video_names: of the videos, for errors, such as their ids; default: their indices.
            frame_rate: frames a second of lists of pictures and arrays of frames, which do not say it.

        Returns:
            `input_ids`, `attention_mask` (batch, tokens) for texts, `video_features`, `video_mask` for videos.

        Raises:
            PolyvidError: for an empty text or a video that cannot be read or embedded, naming its index.
            ImportError, OSError: if a package or network to see videos with is missing.
        """
        if text is None and videos is None:
            raise PolyvidError("Nothing to process: pass text, videos or both.")
        batch = BatchFeature()
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            for index, item in enumerate(texts):
                if not isinstance(item, str) or not item.strip():
                    raise PolyvidError(f"Text {index} must be a non-empty string, got {item!r}.")
                if not item.isascii() and _SURROGATES.search(item):
                    raise PolyvidError(f"Text {index} is not valid Unicode: {item!r} holds half of a surrogate pair.")
            limit = min(max_text_length or self.max_text_length, self.tokenizer.model_max_length)
            encoded = self.tokenizer(
                texts,
                padding=padding if self.text_padding is None else "max_length",
                truncation=True,
                max_length=self.text_padding or limit,
                return_token_type_ids=False,
                return_attention_mask=True,
                return_tensors=return_tensors,
            )
            if self.text_padding is not None:  # the backbone reads all of it
                mask = encoded["attention_mask"]
                encoded["attention_mask"] = [[1] * len(row) for row in mask] if isinstance(mask, list) else mask * 0 + 1
            batch.update(encoded)
        if videos is not None:
            videos = self.to_features(_as_list(videos), video_names, frame_rate)
            batch.update(
                self.feature_extractor(
                    videos, padding, max_length=max_video_length, return_tensors=return_tensors, names=video_names
                )
            )
        return batch

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.feature_extractor.model_input_names]


def _as_list(videos: Any) -> list[Any]:
    """A single video, or its features (seconds, width), becomes a list of one; several of them become a list."""
    if is_video(videos):
        return [videos]
    if isinstance(videos, np.ndarray | torch.Tensor):
        return [videos] if videos.ndim == 2 else list(videos)
    is_single = len(videos) > 0 and np.ndim(videos[0]) == 1 and len(videos[0]) > 0
    videos = [videos] if is_single else list(videos)
    if not videos:
        raise PolyvidError("No videos: got an empty list.")
    return videos
