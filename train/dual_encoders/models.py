"""One adapter for each kind of dual encoder; `encode_texts` and `encode_videos` are those of an MMP model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, PreTrainedConfig

from polyvid.dataset_scripts.devices import find_device
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.video_reading_mmp import VideoError, require_av
from polyvid.train.dual_encoders.frames import FrameRule

TEXTS_AT_ONCE = 64
FRAMES_AT_ONCE = 32
PADDED = ("siglip", "siglip2", "videoprism")  # trained on texts that were padded to 64 tokens
WITHOUT_MASK = ("siglip", "siglip2")  # and saw the padding


class DualEncoder:
    """Texts and frames of videos through a model with `get_text_features` and `get_image_features`.

    An embedding of a video is the mean of the unit embeddings of its frames. CLIP, SigLIP, SigLIP 2, Meta CLIP 2,
    AltCLIP and Chinese-CLIP.

    Args:
        name: folder or Hub id.
        frames: which frames of a video are embedded.
        prompt: around a query, with `{}` in its place.
        device: by default the GPU if there is one, else the CPU.

    Raises:
        OSError: if there is no such model.
        PolyvidError: for a prompt without `{}`.
    """

    kind = "images"

    def __init__(self, name: str, frames: FrameRule, prompt: str = "{}", device: str | None = None):
        if prompt.count("{}") != 1:
            raise PolyvidError(
                f"A prompt has {{}} once, where the query goes, such as 'a video of {{}}', not {prompt!r}."
            )
        require_av()
        self.name, self.frames, self.prompt = name, frames, prompt
        self.device = torch.device(find_device(device))
        self._load()

    def _load(self) -> None:
        self.model = AutoModel.from_pretrained(self.name, dtype="float32").to(self.device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(self.name)
        self.pixels = self._pixel_processor()
        self.family: str = self.model.config.model_type

    def facts(self) -> dict[str, Any]:
        """What `results.json` says of it."""
        return {"dual_encoder": self.family, "frames": str(self.frames), "prompt": self.prompt}

    @torch.no_grad()
    def encode_texts(
        self, texts: Sequence[str], processor: object = None, progress: Callable[[int], object] | None = None
    ) -> Tensor:
        """(texts, dim) float32 on the CPU. `processor` is ignored: a dual encoder has its own."""
        found = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = [self.prompt.replace("{}", text) for text in texts[start : start + TEXTS_AT_ONCE]]
            found.append(self._texts(part).float().cpu())
            if progress:
                progress(len(part))
        return torch.cat(found)

    @torch.no_grad()
    def encode_videos(
        self,
        videos: Sequence[Path],
        processor: object = None,
        names: Sequence[object] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Tensor:
        """(videos, dim) float32 on the CPU, of video files.

        Raises:
            PolyvidError: for a video that cannot be read, naming it.
        """
        found = []
        for index in range(len(videos)):
            try:
                frames = self.frames.read(Path(videos[index]))
            except VideoError as error:
                name = names[index] if names is not None else index
                raise PolyvidError(f"Video {name} ({videos[index]}): {error}.") from error
            found.append(self._video(frames).float().cpu())
            if progress:
                progress(1)
        return torch.stack(found)

    def _texts(self, texts: list[str]) -> Tensor:
        return embed_texts(self.model, self.tokenizer, texts)

    def _pixel_processor(self) -> Any:
        """Frames (height, width, 3) uint8 → tensors of the model."""
        return AutoImageProcessor.from_pretrained(self.name, backend="pil")

    def _video(self, frames: list[np.ndarray]) -> Tensor:
        parts = []
        for start in range(0, len(frames), FRAMES_AT_ONCE):
            inputs = self.pixels(frames[start : start + FRAMES_AT_ONCE], return_tensors="pt").to(self.device)
            parts.append(normalize(self.model.get_image_features(**inputs).pooler_output.float(), dim=-1))
        return torch.cat(parts).mean(0)


class VideoDualEncoder(DualEncoder):
    """X-CLIP and VideoPrism: the model itself makes one embedding of several frames, `num_frames` of its configuration.

    X-CLIP can also let a text look at the video before they are compared; that is no dual encoder and is not done.
    VideoPrism's own processor needs torchvision; its frames are resized to squares and scaled to [0, 1], as there.

    Raises:
        PolyvidError: for a rule that does not choose `num_frames` frames.
    """

    kind = "videos"

    def __init__(self, name: str, frames: FrameRule, prompt: str = "{}", device: str | None = None):
        vision = AutoConfig.from_pretrained(name).vision_config
        if frames != FrameRule(vision.num_frames, False):
            raise PolyvidError(
                f"{name} sees {vision.num_frames} frames of a video: pass '{vision.num_frames} uniform'."
            )
        super().__init__(name, frames, prompt, device)

    def _pixel_processor(self) -> Any:
        if self.model.config.model_type == "xclip":
            return super()._pixel_processor()
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        size = self.model.config.vision_config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return SiglipImageProcessorPil(size={"height": height, "width": width}, do_normalize=False)

    def _video(self, frames: list[np.ndarray]) -> Tensor:
        values = self.pixels(frames, return_tensors="pt")["pixel_values"][None].to(self.device)  # (1, frames, 3, h, w)
        key = "pixel_values" if self.model.config.model_type == "xclip" else "pixel_values_videos"
        return self.model.get_video_features(**{key: values}).pooler_output.flatten()  # VideoPrism's is (1, 1, dim)


def embed_texts(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """(texts, dim), on the device of the model."""
    options = padding_of(model.config, tokenizer)
    inputs = tokenizer(list(texts), truncation=True, return_tensors="pt", **options).to(model.device)
    if model.config.model_type in WITHOUT_MASK:
        inputs.pop("attention_mask", None)
    embeds: Tensor = model.get_text_features(**inputs).pooler_output
    return embeds


def padding_of(config: PreTrainedConfig, tokenizer: Any) -> dict[str, Any]:
    """How the texts of a dual encoder are padded and cut: `padding` and `max_length` of its tokenizer."""
    limit = getattr(getattr(config, "text_config", None), "max_position_embeddings", 77)
    longest = min(limit, tokenizer.model_max_length)
    if config.model_type in PADDED:
        return {"padding": "max_length", "max_length": min(64, longest)}
    # AltCLIP's text tower is XLM-R, which counts positions from after its padding token.
    return {"padding": True, "max_length": min(longest, limit - 2) if limit > 100 else longest}
