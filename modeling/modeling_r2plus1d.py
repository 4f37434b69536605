"""R(2+1)D (Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018).

The paper's first video network (§5.2): 34 layers, pre-trained on IG65M. Parameter names are those of torchvision's
`VideoResNet`, so that the published checkpoints load as they are.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention

from .configuration_r2plus1d import R2Plus1DConfig
from .official_checkpoint import load_strictly, read_official_checkpoint

RELEASE = "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/"
OFFICIAL_CHECKPOINTS = {
    "r2plus1d_34_clip8_ig65m": RELEASE + "r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae.pth",
    "r2plus1d_34_clip32_ig65m": RELEASE + "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth",
}

PREPROCESSING = {
    "size": {"shortest_edge": 128},
    "crop_size": {"height": 112, "width": 112},
    "image_mean": [0.43216, 0.394666, 0.37645],
    "image_std": [0.22803, 0.22145, 0.216989],
}
"""What the checkpoints were trained with, in the words of a transformers video processor."""


class Conv2Plus1D(nn.Sequential):
    """A t x 3 x 3 convolution split into a 1 x 3 x 3 and a 3 x 1 x 1 one, with batch norm and ReLU between.

    The width between them gives the pair as many weights as the full 3 x 3 x 3 convolution has (Tran et al., §3.5):
    floor(27 * in * out / (9 * in + 3 * out)) of *this* convolution's channels. torchvision takes the block's for both
    of a block's convolutions; in IG65M's weights the second one has its own: 288, 576, 1152 in stages 2, 3, 4.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, eps: float):
        middle = (27 * in_channels * out_channels) // (9 * in_channels + 3 * out_channels)
        super().__init__(
            nn.Conv3d(in_channels, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(middle, eps=eps),
            nn.ReLU(),
            nn.Conv3d(middle, out_channels, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
        )


class R2Plus1DBlock(nn.Module):
    """Two factorised convolutions and a shortcut: relu(f(x) + shortcut(x))."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, eps: float):
        super().__init__()
        self.conv1 = nn.Sequential(
            Conv2Plus1D(in_channels, out_channels, stride, eps), nn.BatchNorm3d(out_channels, eps=eps), nn.ReLU()
        )
        self.conv2 = nn.Sequential(
            Conv2Plus1D(out_channels, out_channels, 1, eps), nn.BatchNorm3d(out_channels, eps=eps)
        )
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm3d(out_channels, eps=eps)
            )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        shortcut = hidden_states if self.downsample is None else self.downsample(hidden_states)
        return torch.relu(self.conv2(self.conv1(hidden_states)) + shortcut)


class R2Plus1DModel(PreTrainedModel):
    """R(2+1)D without its classifier.

    Example:

    ```python
    model = R2Plus1DModel.from_official_checkpoint("r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae.pth")
    model(pixel_values).pooler_output.shape  # (batch, 8, 3, 112, 112), normalised -> (batch, 512)
    ```
    """

    config_class = R2Plus1DConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["R2Plus1DBlock"]

    def __init__(self, config: R2Plus1DConfig):
        super().__init__(config)
        width, eps = config.hidden_sizes[0], config.batch_norm_eps
        self.stem = nn.Sequential(
            nn.Conv3d(3, 45, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(45, eps=eps),
            nn.ReLU(),
            nn.Conv3d(45, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
            nn.BatchNorm3d(width, eps=eps),
            nn.ReLU(),
        )
        stages = []
        for stage, (depth, out_channels) in enumerate(zip(config.depths, config.hidden_sizes, strict=True)):
            stride = 1 if stage == 0 else 2
            blocks = [R2Plus1DBlock(width, out_channels, stride, eps)]
            blocks += [R2Plus1DBlock(out_channels, out_channels, 1, eps) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            width = out_channels
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPoolingAndNoAttention:
        """
        Args:
            pixel_values (`torch.Tensor` of shape (batch, frames, 3, height, width)): RGB, scaled and normalised by
                the processor next to the weights.

        Returns:
            `last_hidden_state` (batch, 512, frames / 8, height / 16, width / 16) and its average over time and space,
            `pooler_output` (batch, 512): App. C's feature.
        """
        hidden_states = self.stem(pixel_values.transpose(1, 2))  # (batch, 3, frames, height, width)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            hidden_states = stage(hidden_states)
        pooled = hidden_states.mean((2, 3, 4))
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=hidden_states, pooler_output=pooled)

    @classmethod
    def from_official_checkpoint(
        cls, path: str | Path, sha256: str | None = None, **config_kwargs: Any
    ) -> "R2Plus1DModel":
        """Loads IG65M weights as published by moabitcoin/ig65m-pytorch; only the classifier `fc` is left out.

        Args:
            path (`str` or `Path`): the `.pth` file, its URL, or a name of `OFFICIAL_CHECKPOINTS`.
            sha256 (`str`, *optional*): checksum; by default the digits in the file's name are checked.
            config_kwargs: for [`R2Plus1DConfig`]; `num_frames` is read off the file's name (`clip8`, `clip32`).

        Raises:
            FileNotFoundError: there is no such file.
            PolyvidError: wrong checksum, or keys that differ (all are listed).
        """
        path = OFFICIAL_CHECKPOINTS.get(str(path), path)
        state_dict = read_official_checkpoint(path, sha256)
        if clip := re.search(r"clip(\d+)_", str(path)):
            config_kwargs.setdefault("num_frames", int(clip.group(1)))
        model = cls(R2Plus1DConfig(**config_kwargs))
        load_strictly(model, state_dict, ignored=("fc.",))
        return model.eval()
