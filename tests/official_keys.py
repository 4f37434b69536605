"""Names and shapes of the tensors in the published checkpoints, written down without the project's code."""

import torch


def batch_norm(name: str, channels: int) -> dict[str, tuple]:
    vectors = {f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{name}.num_batches_tracked": ()}


def r2plus1d_34_ig65m(classes: int = 487) -> dict[str, tuple]:
    """`r2plus1d_34_clip8_ig65m_from_scratch-9bae36ae.pth`: torchvision's names, IG65M's widths between the halves."""
    shapes = {"stem.0.weight": (45, 3, 1, 7, 7), **batch_norm("stem.1", 45)}
    shapes |= {"stem.3.weight": (64, 45, 3, 1, 1), **batch_norm("stem.4", 64)}
    stages = [  # channels in, out, blocks, middle of the first block's two convolutions, middle of the others
        (64, 64, 3, (144, 144), 144),
        (64, 128, 4, (230, 288), 288),
        (128, 256, 6, (460, 576), 576),
        (256, 512, 3, (921, 1152), 1152),
    ]
    for stage, (channels_in, out, blocks, first, others) in enumerate(stages, start=1):
        for block in range(blocks):
            middles = first if block == 0 else (others, others)
            for conv, middle in enumerate(middles, start=1):
                name = f"layer{stage}.{block}.conv{conv}"
                source = channels_in if (block, conv) == (0, 1) else out
                shapes |= {f"{name}.0.0.weight": (middle, source, 1, 3, 3), **batch_norm(f"{name}.0.1", middle)}
                shapes |= {f"{name}.0.3.weight": (out, middle, 3, 1, 1), **batch_norm(f"{name}.1", out)}
        if stage > 1:
            name = f"layer{stage}.0.downsample"
            shapes |= {f"{name}.0.weight": (out, channels_in, 1, 1, 1), **batch_norm(f"{name}.1", out)}
    return shapes | {"fc.weight": (classes, 512), "fc.bias": (classes,)}


def s3d_howto100m() -> dict[str, tuple]:
    """`s3d_howto100m.pth`: the authors' names; includes the text half (`text_module`)."""
    shapes: dict[str, tuple] = {}

    def conv(name, source, out, kernel=(1, 1, 1)):
        shapes.update({f"{name}.conv1.weight": (out, source, *kernel), **batch_norm(f"{name}.bn1", out)})

    def separable(name, source, out):
        conv(name, source, out, (1, 3, 3))
        shapes.update({f"{name}.conv2.weight": (out, out, 3, 1, 1), **batch_norm(f"{name}.bn2", out)})

    def linear(name, source, out):
        shapes.update({f"{name}.weight": (out, source), f"{name}.bias": (out,)})

    conv("conv1", 24, 64, (2, 4, 4))
    conv("conv_2b", 64, 64)
    separable("conv_2c", 64, 192)
    linear("gating.fc", 192, 192)
    inception = {  # channels in; branches 0, 1a, 1b, 2a, 2b, 3
        "mixed_3b": (192, 64, 96, 128, 16, 32, 32),
        "mixed_3c": (256, 128, 128, 192, 32, 96, 64),
        "mixed_4b": (480, 192, 96, 208, 16, 48, 64),
        "mixed_4c": (512, 160, 112, 224, 24, 64, 64),
        "mixed_4d": (512, 128, 128, 256, 24, 64, 64),
        "mixed_4e": (512, 112, 144, 288, 32, 64, 64),
        "mixed_4f": (528, 256, 160, 320, 32, 128, 128),
        "mixed_5b": (832, 256, 160, 320, 32, 128, 128),
        "mixed_5c": (832, 384, 192, 384, 48, 128, 128),
    }
    for name, (source, b0, b1a, b1b, b2a, b2b, b3) in inception.items():
        conv(f"{name}.conv_b0", source, b0)
        conv(f"{name}.conv_b1_a", source, b1a)
        separable(f"{name}.conv_b1_b", b1a, b1b)
        conv(f"{name}.conv_b2_a", source, b2a)
        separable(f"{name}.conv_b2_b", b2a, b2b)
        conv(f"{name}.conv_b3_b", source, b3)
        for branch, width in enumerate((b0, b1b, b2b, b3)):
            linear(f"{name}.gating_b{branch}.fc", width, width)
    linear("fc", 1024, 512)
    shapes["text_module.word_embd.weight"] = (66250, 300)
    linear("text_module.fc1", 300, 2048)
    linear("text_module.fc2", 2048, 512)
    return shapes


def random_checkpoint(shapes: dict[str, tuple], seed: int = 0) -> dict[str, torch.Tensor]:
    """Values with which signals neither die nor explode on their way through the network."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(1000)
        elif name.endswith("running_var"):
            tensors[name] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            tensors[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        else:
            tensors[name] = torch.rand(shape, generator=generator) * 0.2 + (0.9 if name.endswith(".weight") else 0)
    return tensors
