"""Texts encoded with 8-bit weights and activations: faster queries on CPUs; `polyvid evaluate` reports the loss."""

import copy
import warnings

import torch
from torch import nn

from polyvid.modeling import MMPModel
from polyvid.modeling.errors_mmp import PolyvidError


def quantize_text_tower(model: MMPModel) -> MMPModel:
    """A model whose text tower multiplies in int8; its video tower is the given model's own.

    Weights are rounded once, per output channel; activations at run time, per tensor ("dynamic quantization"). The
    embeddings of texts change a little, and with the texts they share a batch with, whose largest activation sets the
    scale; those of videos, computed once and kept, not at all (unless both share a pooling head).

    `torch.ao.quantization` is deprecated in favour of torchao, whose eager int8 product is, on CPUs without VNNI, many
    times slower than float32; this one is faster.

    Raises:
        PolyvidError: if the model is not on a CPU, or not in float32.
    """
    if model.device.type != "cpu":
        raise PolyvidError(f"int8 is for CPUs, the model is on {model.device}: pass --device cpu.")
    if model.dtype != torch.float32:
        raise PolyvidError(f"int8 starts from float32, the model is in {model.dtype}: load it with dtype='float32'.")
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    quantized = copy.copy(model)
    quantized._modules = dict(model._modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, as said above
        for name in ("text_model", "text_projection", "text_pooler"):
            tower = nn.Sequential(getattr(model, name))  # a Linear alone is replaced only inside something
            quantize = quantize_dynamic(tower, {nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8)
            quantized._modules[name] = quantize[0]
    return quantized
