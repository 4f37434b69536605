"""Models of this package for `mteb.evaluate`."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from datasets import Image, Video
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from transformers import AutoConfig, AutoModel, AutoProcessor

from polyvid.modeling.paths_mmp import check_local_path, is_local_path

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import PromptType
    from torch.utils.data import DataLoader

PICTURES = 256  # in memory at a time
LANGUAGES = "eng-Latn deu-Latn fra-Latn ces-Latn zho-Hans rus-Cyrl vie-Latn swa-Latn spa-Latn".split()  # of training


class MMPEncoder(AbsEncoder):
    """Embeds texts, videos and pictures.

    Videos are decoded as `polyvid extract` decodes them, whatever decoder mteb uses.

    Args:
        model_name: its id on the Hub.
        revision: of the repository.
        device: default: a GPU if there is one.
        folder: where the model is, if it is not on the Hub.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        folder: str | None = None,
        **kwargs: Any,
    ):
        place, options = folder or model_name, {"revision": revision, "trust_remote_code": True}
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = AutoModel.from_pretrained(place, **options).to(device)
        self.processor = AutoProcessor.from_pretrained(place, **options)
        self._seen: dict[bytes, np.ndarray] = {}

    def encode(
        self,
        inputs: "DataLoader[Any]",
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,
        hf_subset: str,
        prompt_type: "PromptType | None" = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embeddings of the texts, videos or pictures of a dataset: (rows, embed_dim) float32.

        A picture is seen as a video of one frame.
        """
        rows: Any = inputs.dataset
        if "video" in rows.features:
            files = list(rows.cast_column("video", Video(decode=False))["video"])
            return self._see(files, lambda new: self.model.encode_videos(new, self.processor))
        if "image" in rows.features:
            files = list(rows.cast_column("image", Image(decode=False))["image"])
            return self._see(files, self._encode_pictures)
        return self.model.encode_texts(list(rows["text"]), self.processor).numpy()

    def _encode_pictures(self, files: list[dict[str, Any]]) -> torch.Tensor:
        embeds = []
        for start in range(0, len(files), PICTURES):
            pictures = [[_read_picture(file)] for file in files[start : start + PICTURES]]
            embeds.append(self.model.encode_videos(pictures, self.processor, frame_rate=1.0))
        return torch.cat(embeds)

    def _see(self, files: list[dict[str, Any]], encode: Callable[[list[dict[str, Any]]], torch.Tensor]) -> np.ndarray:
        """The embedding of each file. Each is seen once: in every language of a task they are the same."""
        digests = [_digest(file) for file in files]
        new = {digest: file for digest, file in zip(digests, files, strict=True) if digest not in self._seen}
        if new:
            self._seen |= dict(zip(new, encode(list(new.values())).numpy(), strict=True))
        return np.stack([self._seen[digest] for digest in digests])


def _read_picture(file: dict[str, Any]) -> PIL.Image.Image:
    with PIL.Image.open(io.BytesIO(file["bytes"]) if file["bytes"] else file["path"]) as picture:
        return picture.convert("RGB")


def _digest(file: dict[str, Any]) -> bytes:
    content = file["bytes"] if file["bytes"] is not None else str(file["path"]).encode()
    return hashlib.blake2b(content, digest_size=16).digest()


def encoder(model: str, revision: str | None = None, device: str | None = None) -> MMPEncoder:
    """A model for `mteb.evaluate`.

    It is loaded here: `mteb.evaluate` would refuse its description alone where torchcodec is missing, which it does
    without.

    Args:
        model: a folder, or an id on the Hub.
        revision: of the repository.
        device: default: a GPU if there is one.

    Raises:
        FileNotFoundError: for a path at which there is nothing.
    """
    meta = model_meta(model, revision)
    loaded = MMPEncoder(model, revision, device=device)
    loaded.mteb_model_meta = meta
    return loaded


def model_meta(model: str, revision: str | None = None) -> ModelMeta:
    """A model's description, as mteb keeps one of each of its models.

    Args:
        model: a folder, or an id on the Hub.
        revision: of the repository.

    Raises:
        FileNotFoundError: for a path at which there is nothing.
    """
    check_local_path(model, "model")
    config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(model, revision=revision, trust_remote_code=True)
    is_folder = is_local_path(model)
    return ModelMeta(
        loader=MMPEncoder,
        loader_kwargs={"folder": model} if is_folder else {},
        name=f"local/{Path(model).resolve().name}" if is_folder else model,
        revision=revision,
        release_date=None,
        languages=LANGUAGES,
        n_parameters=None,
        memory_usage_mb=None,
        max_tokens=processor.max_text_length,
        embed_dim=config.embed_dim,
        license=None,
        open_weights=True,
        public_training_code="https://pypi.org/project/polyvid/",
        public_training_data=None,
        framework=["PyTorch", "Transformers", "Sentence Transformers", "safetensors"],
        reference=None if is_folder else f"https://huggingface.co/{model}",
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
        modalities=["text", "image", "video"],
    )
