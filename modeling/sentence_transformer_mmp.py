"""A model as the input module of sentence-transformers: `SentenceTransformer(folder, trust_remote_code=True)`.

Imported by sentence-transformers alone, which finds its name in `modules.json`. Nothing else here needs that library.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModel, AutoProcessor, PreTrainedModel

from .errors_mmp import PolyvidError
from .paths_mmp import VIDEO_SUFFIXES
from .video_encoders_mmp import FOLDER
from .video_sources_mmp import is_video

try:  # transformers looks for packages outside of `try` only, and models must load without this one
    from sentence_transformers.base.modality import infer_modality
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise ImportError("This needs sentence-transformers 6: pip install -U 'sentence-transformers>=6'") from error

VIDEOS = "pixel_values_videos"  # its trainer drops a column of videos that come by another name, without a word


class MMPInputModule(InputModule):
    """Texts and videos, in any mix, to the embeddings of [`MMPModel`], not normalised.

    Args:
        model: an [`MMPModel`].
        processor: the [`MMPProcessor`] saved with it.

    Example:

    ```python
    model = SentenceTransformer("lab/mmp-emoji", trust_remote_code=True)
    texts = model.encode(["ein Hund läuft", "mbwa anakimbia"])
    videos = model.encode(["a.mp4", {"video": features}, {"video": {"array": frames, "video_metadata": {"fps": 12}}}])
    model.similarity(texts, videos)  # cosines, (2, 3)
    ```
    """

    def __init__(self, model: Any, processor: Any):
        super().__init__()
        self.model = model
        self.processor = processor

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> MMPInputModule:
        """Called by `SentenceTransformer(...)`, whose arguments these are.

        Raises:
            PolyvidError: for another backend than torch, and a model in a sub-folder.
        """
        if backend != "torch":
            raise PolyvidError(f"backend={backend!r}: this model runs in PyTorch; `export_onnx` of polyvid exports it.")
        if subfolder:
            raise PolyvidError(f"{subfolder!r}: this model must lie in its repository's own folder, not below it.")
        options: dict[str, Any] = dict(
            token=token,
            cache_dir=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
        )
        model_options = options | dict(config_kwargs or {}) | dict(model_kwargs or {})
        model = AutoModel.from_pretrained(model_name_or_path, **model_options)
        processor = AutoProcessor.from_pretrained(model_name_or_path, **(options | dict(processor_kwargs or {})))
        return cls(model, processor)

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Model, processor, code, and the networks for videos if the model brought any.

        sentence-transformers writes its own two files around this call; `model.save_pretrained` would replace them.
        """
        PreTrainedModel.save_pretrained(self.model, output_path)
        self.processor.save_pretrained(output_path)
        home = self.model.name_or_path
        if self.model.config.video_encoders and home:
            if not os.path.isdir(home):
                revision = getattr(self.model.config, "_commit_hash", None)
                home = snapshot_download(home, revision=revision, allow_patterns=f"{FOLDER}/*")
            networks = Path(home) / FOLDER
            if networks.is_dir() and networks.resolve() != (Path(output_path) / FOLDER).resolve():
                shutil.copytree(networks, Path(output_path) / FOLDER, dirs_exist_ok=True)

    # ---- what sentence-transformers asks ----

    @property
    def modalities(self) -> list[Any]:
        """`"message"` is its name for a mix of texts and videos. Images go in as region features, where configured."""
        images = ["image"] if self.model.config.image_feature_dim is not None else []
        return ["text", "video", *images, "message"]

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Tokens kept of a text."""
        return int(self.processor.max_text_length)

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.processor.max_text_length = value

    def get_embedding_dimension(self) -> int:
        return int(self.model.config.embed_dim)

    # ---- from inputs to embeddings ----

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """A batch for `forward`.

        Args:
            inputs: texts; videos as [`MMPProcessor`] takes them; `{"video": ...}`, which may hold features (seconds,
                video_feature_dim) too, or frames with their rate; and `{"image": regions}` where the model is
                configured for them.
            prompt: put before each text.

        Returns:
            `input_ids` and `attention_mask` of the texts, `pixel_values_videos` (which are features) and `video_mask`
            of the videos, and `text_rows` and `video_rows`, their positions in the batch.

        Raises:
            PolyvidError: for a path at which there is no video, a video that cannot be read, and what is neither a text
                nor a video.
        """
        kinds, values = zip(*map(self._told_apart, inputs), strict=True)
        batch: dict[str, Any] = {}
        if texts := [row for row, kind in enumerate(kinds) if kind == "text"]:
            batch |= self.processor(text=[(prompt or "") + values[row] for row in texts], return_tensors="pt")
            batch["text_rows"] = torch.tensor(texts)
        if videos := [row for row, kind in enumerate(kinds) if kind == "video"]:
            names = [f"{row + 1} of its batch" for row in videos]
            features = self._features([values[row] for row in videos], names)
            batch |= self.processor(videos=features, video_names=names, return_tensors="pt")
            batch[VIDEOS] = batch.pop("video_features")
            batch["video_rows"] = torch.tensor(videos)
        return batch

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds `sentence_embedding` (batch, embed_dim) to what `preprocess` made."""
        text_rows, video_rows = features.get("text_rows"), features.get("video_rows")
        found, rows = [], []
        if text_rows is not None:
            output = self.model.get_text_features(features["input_ids"], features["attention_mask"])
            found.append(output.pooler_output)
            rows.append(text_rows)
        if video_rows is not None:
            output = self.model.get_video_features(features[VIDEOS], features["video_mask"])
            found.append(output.pooler_output)
            rows.append(video_rows)
        features["sentence_embedding"] = torch.cat(found)[torch.cat(rows).argsort()]
        return features

    def _told_apart(self, item: Any) -> tuple[str, Any]:
        """("text" or "video", what the processor takes)."""
        if isinstance(item, os.PathLike):
            return "video", item
        if isinstance(item, str):
            if infer_modality(item, ["text", "video"]) == "text" and not item.lower().endswith(VIDEO_SUFFIXES):
                return "text", item
            if "://" not in item and not os.path.isfile(item):
                raise PolyvidError(
                    f"There is no video at {item!r} in {Path.cwd()}: check the path. If this is a text, pass "
                    f'{{"text": {item!r}}}.'
                )
            return "video", item
        kind = infer_modality(item)
        if kind not in self.modalities or kind == "message":
            raise PolyvidError(f"Inputs are texts and videos, one at a time; this is {kind!r}: {_shown(item)}.")
        value = item[kind] if isinstance(item, Mapping) and item.keys() == {kind} else item
        if kind == "text" and not isinstance(value, str):
            raise PolyvidError(f"A text is one string, not {value!r}.")
        if kind == "image" and getattr(value, "ndim", 0) != 2:
            raise PolyvidError(
                f"An image goes in as features of its regions, (regions, width), not as {_shown(value)}."
            )
        return ("text" if kind == "text" else "video"), value

    def _features(self, videos: list[Any], names: list[str]) -> list[Any]:
        """Features for what are videos. Frames come with their rate, which may differ from one to the next."""
        rates = [_rate_of(video) for video in videos]
        found = [video if rate is None else video["array"] for video, rate in zip(videos, rates, strict=True)]
        for rate in dict.fromkeys(rates):
            rows = [row for row, other in enumerate(rates) if other == rate]
            chosen, chosen_names = [found[row] for row in rows], [names[row] for row in rows]
            features = self.model.to_features(chosen, self.processor, chosen_names, rate)
            for row, made in zip(rows, features, strict=True):
                found[row] = made
        return found


def _rate_of(video: Any) -> float | None:
    """Of frames as sentence-transformers takes them, with what is known about them."""
    has_metadata = isinstance(video, Mapping) and "array" in video
    rate = (video.get("video_metadata") or {}).get("fps") if has_metadata else None
    are_frames = is_video(video) and (getattr(video, "ndim", 0) == 4 or isinstance(video, list | tuple))
    if rate is None and (has_metadata or are_frames):
        raise PolyvidError(
            'Frames must say how many there are a second: {"video": {"array": frames, "video_metadata": {"fps": 12}}}.'
        )
    return None if rate is None else float(rate)


def _shown(item: Any) -> str:
    shape = getattr(item, "shape", None)
    return type(item).__name__ if shape is None else f"{type(item).__name__} {tuple(shape)}"
