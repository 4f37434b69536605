"""Embeds many texts or videos: what evaluation, search and the pipeline share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import logging

from .video_encoders_mmp import VideoEncoders
from .video_sources_mmp import is_video


class MMPEncodingMixin:
    """`encode_texts` and `encode_videos` of [`MMPModel`].

    Both sort by length, so that a batch holds little padding, fill batches up to a number of positions rather than
    rows, run in evaluation mode without graph, and return the embeddings in the order of the input.
    """

    _video_encoders: tuple[torch.device, VideoEncoders] | None = None  # no sub-module: they are not saved with it
    config: Any
    name_or_path: str
    device: torch.device
    training: bool
    eval: Callable[[], Any]
    train: Callable[[bool], Any]
    get_text_features: Callable[..., Any]
    get_video_features: Callable[..., Any]

    def encode_texts(
        self,
        texts: Sequence[str],
        processor: Any,
        tokens_per_batch: int | None = None,
        max_text_length: int | None = None,
        progress: bool | Callable[[int], object] = False,
        forward: Callable[[dict[str, torch.Tensor]], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """c_x of many texts: (texts, embed_dim) float32 on the CPU, not normalised.

        Args:
            texts: in any mix of languages.
            processor: the [`MMPProcessor`] saved with the model.
            tokens_per_batch: size of a batch, padding included; it bounds the memory. 2048 by default on a CPU,
                16384 elsewhere.
            max_text_length: tokens kept of a text, by default the processor's own.
            progress: show a bar, or call this with the size of each batch.
            forward: embeds a batch of `input_ids` and `attention_mask` in place of this model. A trainer passes a call
                of the wrapped model, which knows of mixed precision and shards.

        Raises:
            PolyvidError: for an empty text, naming its index.
        """
        rows = processor(text=texts, max_text_length=max_text_length, padding=False)["input_ids"] if len(texts) else []

        def embed(indices: list[int]) -> torch.Tensor:
            batch = [torch.tensor(rows[i]) for i in indices]
            input_ids = pad_sequence(batch, batch_first=True, padding_value=processor.tokenizer.pad_token_id)
            attention_mask = pad_sequence([torch.ones_like(row) for row in batch], batch_first=True)
            inputs = {"input_ids": input_ids.to(self.device), "attention_mask": attention_mask.to(self.device)}
            return self.get_text_features(**inputs).pooler_output if forward is None else forward(inputs)

        return self._encode(embed, [len(row) for row in rows], tokens_per_batch, progress)

    def encode_videos(
        self,
        videos: Sequence[Any],
        processor: Any,
        seconds_per_batch: int | None = None,
        max_video_length: int | None = None,
        names: Sequence[object] | None = None,
        progress: bool | Callable[[int], object] = False,
        forward: Callable[[dict[str, torch.Tensor]], torch.Tensor] | None = None,
        frame_rate: float | None = None,
    ) -> torch.Tensor:
        """c_v of many videos: (videos, embed_dim) float32 on the CPU, not normalised.

        Args:
            videos: [seconds, video_feature_dim] arrays (numpy or torch); anything with a length and an index, so that
                features may stay on disk until their batch is due. Or videos, see [`MMPProcessor`]: `["a.mp4", ...]`.
                They are decoded, and the networks that the model was made for see them on the model's device.
            processor: the [`MMPProcessor`] saved with the model.
            seconds_per_batch: size of a batch, padding included; it bounds the memory. Default as for texts.
            max_video_length: seconds kept of a video, by default the processor's own.
            names: of the videos, for errors, such as their ids; default: their indices.
            progress: show a bar, or call this with the size of each batch.
            forward: embeds a batch of `video_features` and `video_mask` in place of this model, as for texts.
            frame_rate: frames a second of videos that are lists of pictures or arrays of frames.

        Raises:
            PolyvidError: for a video that cannot be read, of zero seconds or of the wrong width, or with NaN or
                infinity, naming it; and for videos where the model does not know its networks.
            ImportError, OSError: if a package or network to see videos with is missing.
        """
        if is_video(videos):
            videos = [videos]
        if len(videos) and (is_video(videos[0]) or isinstance(videos, list | tuple)):
            videos = self.to_features(videos, processor, names, frame_rate)
        limit = max_video_length or processor.feature_extractor.max_length

        def embed(indices: list[int]) -> torch.Tensor:
            batch = processor(
                videos=[videos[i] for i in indices],
                video_names=[i if names is None else names[i] for i in indices],
                max_video_length=limit,
                return_tensors="pt",
            ).to(self.device)
            return self.get_video_features(**batch).pooler_output if forward is None else forward(dict(batch))

        return self._encode(embed, [min(len(video), limit) for video in videos], seconds_per_batch, progress)

    def to_features(
        self,
        videos: Sequence[Any],
        processor: Any,
        names: Sequence[object] | None = None,
        frame_rate: float | None = None,
    ) -> list[Any]:
        """`videos`, in which (seconds, video_feature_dim) features are put for what is a video.

        The networks that the model was made for are loaded once, onto the model's device. Arguments and errors as for
        [`encode_videos`].
        """
        if not any(map(is_video, videos)):
            return list(videos)
        if self._video_encoders is None or self._video_encoders[0] != self.device:
            home, revision = self.name_or_path, getattr(self.config, "_commit_hash", None)
            loaded = VideoEncoders.load(home, self.config.video_encoders, self.device, revision)
            self._video_encoders = self.device, loaded
        features: list[Any] = processor.to_features(videos, names, frame_rate, self._video_encoders[1])
        return features

    def _encode(
        self,
        embed: Callable[[list[int]], torch.Tensor],
        lengths: list[int],
        positions: int | None,
        progress: bool | Callable[[int], object],
    ) -> torch.Tensor:
        embeds = torch.empty(len(lengths), self.config.embed_dim)
        positions = positions or (2048 if self.device.type == "cpu" else 16384)
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode(), logging.tqdm(total=len(lengths), disable=progress is not True) as bar:
                for indices in _batches(lengths, positions):
                    embeds[indices] = embed(indices).to("cpu", torch.float32)
                    bar.update(len(indices))
                    if callable(progress):
                        progress(len(indices))
        finally:
            self.train(was_training)
        return embeds


def _batches(lengths: list[int], positions: int) -> Iterator[list[int]]:
    """Indices from the longest to the shortest, with rows x longest row <= `positions`.

    Starting with the longest, a lack of memory shows at once. A batch that holds a sixteenth of `positions` ends where
    rows get shorter: more rows speed up matrix products by less than the padding costs.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for index in order:
        if batch:
            longest = lengths[batch[0]]
            full = (len(batch) + 1) * longest > positions
            if full or (lengths[index] < lengths[batch[-1]] and 16 * len(batch) * longest >= positions):
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch
