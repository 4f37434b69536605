"""S3D with self-gating (Xie et al., "Rethinking Spatiotemporal Feature Learning", ECCV 2018).

The paper's second video network (§5.2), in the variant Miech et al. (2020) trained from scratch on HowTo100M with
MIL-NCE: space-to-depth input and a linear map into a joint text-video space. Parameter names are those of the authors'
release, so that `s3d_howto100m.pth` loads as it is.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_s3d import S3DConfig
from .official_checkpoint import load_strictly, read_official_checkpoint

OFFICIAL_CHECKPOINTS = {
    "s3d_howto100m": "https://www.rocq.inria.fr/cluster-willow/amiech/howto100m/s3d_howto100m.pth",
}

PREPROCESSING = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_normalize": False,
}
"""RGB in [0, 1] and nothing else, in the words of a transformers video processor."""


@dataclass
class S3DOutput(ModelOutput):
    """
    Args:
        last_hidden_state: (batch, 1024, frames / 8, height / 32, width / 32).
        mixed_5c: (batch, 1024), its average over time and space.
        pooler_output: (batch, 512), `mixed_5c` mapped into the joint text-video space.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    mixed_5c: torch.FloatTensor | None = None


class S3DConv(nn.Module):
    """A convolution with batch norm and ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int] = 1,
        padding: int | tuple[int, int, int] = 0,
    ):
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm3d(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn1(self.conv1(hidden_states)))


class S3DSeparableConv(nn.Module):
    """A 3 x 3 x 3 convolution as 1 x 3 x 3 followed by 3 x 1 x 1, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.bn1 = nn.BatchNorm3d(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.bn2 = nn.BatchNorm3d(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = torch.relu(self.bn1(self.conv1(hidden_states)))
        return torch.relu(self.bn2(self.conv2(hidden_states)))


class S3DSelfGating(nn.Module):
    """Weights every channel by a sigmoid of all channels' averages over time and space."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gates = torch.sigmoid(self.fc(hidden_states.mean((2, 3, 4))))
        return gates[:, :, None, None, None] * hidden_states


class S3DMaxPool(nn.Module):
    """Max pooling with TensorFlow's "SAME" padding: what an even stride leaves over is padded at the end, by zeros."""

    def __init__(self, kernel_size: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        extra = [max(k - s, 0) for k, s in zip(kernel_size, stride, strict=True)]
        self.padding = [side for n in reversed(extra) for side in (n // 2, n - n // 2)]  # F.pad: last dimension first

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return F.max_pool3d(F.pad(hidden_states, self.padding), self.kernel_size, self.stride, ceil_mode=True)


class S3DInception(nn.Module):
    """Four branches side by side, each gated: 1x1x1; two separable 3x3x3; max pooling and 1x1x1."""

    def __init__(self, in_channels: int, b0: int, b1_a: int, b1_b: int, b2_a: int, b2_b: int, b3_b: int):
        super().__init__()
        self.conv_b0 = S3DConv(in_channels, b0)
        self.conv_b1_a = S3DConv(in_channels, b1_a)
        self.conv_b1_b = S3DSeparableConv(b1_a, b1_b)
        self.conv_b2_a = S3DConv(in_channels, b2_a)
        self.conv_b2_b = S3DSeparableConv(b2_a, b2_b)
        self.maxpool_b3 = nn.MaxPool3d(3, stride=1, padding=1)
        self.conv_b3_b = S3DConv(in_channels, b3_b)
        self.gating_b0 = S3DSelfGating(b0)
        self.gating_b1 = S3DSelfGating(b1_b)
        self.gating_b2 = S3DSelfGating(b2_b)
        self.gating_b3 = S3DSelfGating(b3_b)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        branches = (
            self.gating_b0(self.conv_b0(hidden_states)),
            self.gating_b1(self.conv_b1_b(self.conv_b1_a(hidden_states))),
            self.gating_b2(self.conv_b2_b(self.conv_b2_a(hidden_states))),
            self.gating_b3(self.conv_b3_b(self.maxpool_b3(hidden_states))),
        )
        return torch.cat(branches, dim=1)


class S3DModel(PreTrainedModel):
    """The video half of MIL-NCE's text-video model.

    Example:

    ```python
    model = S3DModel.from_official_checkpoint("s3d_howto100m.pth")
    model(pixel_values).pooler_output.shape  # (batch, 30, 3, 224, 224) in [0, 1] -> (batch, 512)
    ```
    """

    config_class = S3DConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["S3DInception"]

    def __init__(self, config: S3DConfig):
        super().__init__(config)
        self.conv1 = S3DConv(8 * 3, 64, (2, 4, 4), padding=(1, 2, 2))
        self.maxpool_2a = S3DMaxPool((1, 3, 3), (1, 2, 2))
        self.conv_2b = S3DConv(64, 64)
        self.conv_2c = S3DSeparableConv(64, 192)
        self.gating = S3DSelfGating(192)
        self.maxpool_3a = S3DMaxPool((1, 3, 3), (1, 2, 2))
        self.mixed_3b = S3DInception(192, 64, 96, 128, 16, 32, 32)
        self.mixed_3c = S3DInception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool_4a = S3DMaxPool((3, 3, 3), (2, 2, 2))
        self.mixed_4b = S3DInception(480, 192, 96, 208, 16, 48, 64)
        self.mixed_4c = S3DInception(512, 160, 112, 224, 24, 64, 64)
        self.mixed_4d = S3DInception(512, 128, 128, 256, 24, 64, 64)
        self.mixed_4e = S3DInception(512, 112, 144, 288, 32, 64, 64)
        self.mixed_4f = S3DInception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool_5a = S3DMaxPool((2, 2, 2), (2, 2, 2))
        self.mixed_5b = S3DInception(832, 256, 160, 320, 32, 128, 128)
        self.mixed_5c = S3DInception(832, 384, 192, 384, 48, 128, 128)
        self.fc = nn.Linear(1024, config.embed_dim)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> S3DOutput:
        """
        Args:
            pixel_values (`torch.Tensor` of shape (batch, frames, 3, height, width)): RGB in [0, 1]; frames, height
                and width even.

        Returns:
            [`S3DOutput`].

        Raises:
            RuntimeError: an odd number of frames or pixels (they are folded in twos).
        """
        # Space to depth: 2 x 2 x 2 cubes become channels, in the order (time, row, column, colour).
        cubes = pixel_values.unflatten(1, (-1, 2)).unflatten(4, (-1, 2)).unflatten(6, (-1, 2))
        cubes = cubes.permute(0, 2, 5, 7, 3, 1, 4, 6).flatten(1, 4)  # (batch, 24, frames / 2, height / 2, width / 2)
        # An even kernel padded on both sides gives one output too many in each dimension: the first is TensorFlow's
        # missing one.
        hidden_states = self.conv1(cubes)[:, :, 1:, 1:, 1:]
        hidden_states = self.conv_2c(self.conv_2b(self.maxpool_2a(hidden_states)))
        hidden_states = self.maxpool_3a(self.gating(hidden_states))
        hidden_states = self.mixed_3c(self.mixed_3b(hidden_states))
        hidden_states = self.mixed_4c(self.mixed_4b(self.maxpool_4a(hidden_states)))
        hidden_states = self.mixed_4f(self.mixed_4e(self.mixed_4d(hidden_states)))
        hidden_states = self.mixed_5c(self.mixed_5b(self.maxpool_5a(hidden_states)))
        pooled = hidden_states.mean((2, 3, 4))
        return S3DOutput(last_hidden_state=hidden_states, pooler_output=self.fc(pooled), mixed_5c=pooled)

    @classmethod
    def from_official_checkpoint(cls, path: str | Path, sha256: str | None = None, **config_kwargs: Any) -> "S3DModel":
        """Loads `s3d_howto100m.pth` as published by antoine77340/S3D_HowTo100M; only its `text_module` is left out.

        Args:
            path (`str` or `Path`): the `.pth` file, its URL, or a name of `OFFICIAL_CHECKPOINTS`.
            sha256 (`str`, *optional*): checksum of the file.
            config_kwargs: for [`S3DConfig`].

        Raises:
            FileNotFoundError: there is no such file.
            PolyvidError: wrong checksum, or keys that differ (all are listed).
        """
        state_dict = read_official_checkpoint(OFFICIAL_CHECKPOINTS.get(str(path), path), sha256)
        model = cls(S3DConfig(**config_kwargs))
        load_strictly(model, state_dict, ignored=("text_module.",))
        return model.eval()
