"""Encodes text with 8-bit weights and activations, for faster queries on CPUs.

`polyvid evaluate --int8` reports what this costs in recall.
"""

import copy
import warnings

import torch
from torch import nn

from polyvid.modeling import MMPModel
from polyvid.modeling.errors_mmp import PolyvidError


def quantize_text_tower(model: MMPModel) -> MMPModel:
    """A copy of the model with an int8 text tower; the video tower is shared with the original.

    Weights are quantized once, per output channel; activations at run time, per tensor ("dynamic quantization"). Text
    embeddings change slightly. They also depend on the other texts in the batch, because the largest activation sets
    the scale. Video embeddings do not change, unless both towers share a pooling head.

    `torch.ao.quantization` is deprecated in favour of torchao. But on CPUs without VNNI, the eager int8 product of
    torchao is many times slower than float32, while this one is faster.

    Raises:
        PolyvidError: if the model is not on the CPU or not in float32.
    """
    if model.device.type != "cpu":
        raise PolyvidError(f"int8 needs a CPU, but the model is on {model.device}: pass --device cpu.")
    if model.dtype != torch.float32:
        raise PolyvidError(f"int8 starts from float32, the model is in {model.dtype}: load it with dtype='float32'.")
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    quantized = copy.copy(model)
    quantized._modules = dict(model._modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the deprecation mentioned above
        for name in ("text_model", "text_projection", "text_pooler"):
            tower = nn.Sequential(getattr(model, name))  # a Linear is only replaced inside a container
            quantize = quantize_dynamic(tower, {nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8)
            quantized._modules[name] = quantize[0]
    return quantized
