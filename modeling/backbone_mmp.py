"""A text backbone in two parts: the frozen layers, and the layers that are trained on top of them.

Neither part is a module of its own: both are *views*, shallow copies of the backbone that share every weight with it
and differ only in their list of layers. So the backbone stays an ordinary `AutoModel` (same parameter names, same
checkpoints), masks, position biases and final norms stay its own business, and nothing shared is changed while a
forward runs, whatever other threads do.
"""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel


def layers_of(backbone: PreTrainedModel) -> nn.ModuleList:
    """The backbone's stack of Transformer layers, its own `ModuleList` object.

    Raises:
        ValueError: if there is no single stack of `num_hidden_layers` modules (ALBERT shares one layer, XLM spreads a
            layer over several lists), so that "the layers below n" are no modules one could freeze.
    """
    return backbone.get_submodule(_path_of_layers(backbone))


def run_frozen(backbone: PreTrainedModel, depth: int, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Output of layer `depth` (counted from 1), running nothing above it but the backbone's final norm, if any."""
    return _record(backbone, depth, input_ids, mask)[0]


def resume(
    backbone: PreTrainedModel, depth: int, hidden_states: torch.Tensor, mask: torch.Tensor, num_outputs: int
) -> torch.Tensor:
    """The backbone's output, computed from the output of layer `depth` instead of from tokens.

    `num_outputs` is what [`check_resumable`] returned.
    """
    path, layers = _path_of_layers(backbone), list(layers_of(backbone))
    output = (hidden_states, *[None] * (num_outputs - 1)) if num_outputs else hidden_states
    # The places below stay filled, so that what goes by a layer's index (window sizes, layer types) still holds.
    stand_ins = [_StandIn(layer, output) for layer in layers[:depth]]
    # Any token will do: what the embeddings make of it is thrown away by the first stand-in.
    tokens = torch.zeros(hidden_states.shape[:2], dtype=torch.long, device=hidden_states.device)
    view = _with_layers(backbone, path, [*stand_ins, *layers[depth:]])
    return view(input_ids=tokens, attention_mask=mask).last_hidden_state


@torch.no_grad()
def check_resumable(backbone: PreTrainedModel, depth: int) -> int:
    """Tries it on eight tokens: layers that see only their predecessor's output can be resumed, others cannot.

    Returns:
        How many outputs a layer of this backbone has; 0 where it returns a bare tensor.

    Raises:
        ValueError: if resuming from layer `depth` gives another output than running the backbone whole, as it would
            where layer 1 computes a position bias for all others.
    """
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    device = backbone.get_input_embeddings().weight.device
    tokens = torch.arange(8, device=device)[None] % backbone.config.vocab_size
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0]], device=device)
    try:
        whole = backbone(input_ids=tokens, attention_mask=mask).last_hidden_state
        hidden_states, num_outputs = _record(backbone, depth, tokens, mask)
        resumed = resume(backbone, depth, hidden_states, mask, num_outputs)
        same = torch.allclose(whole[:, :6], resumed[:, :6], rtol=1e-3, atol=1e-3)
        reason = "the output differs"
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        same, reason = False, f"{type(error).__name__}: {error}"
    finally:
        for module in training:
            module.training = True
    if not same:
        raise ValueError(
            f"The {backbone.config.model_type!r} backbone cannot be resumed from the output of layer {depth} "
            f"({reason}). Pass input_ids instead of frozen_hidden_states, or set freeze_below=output_layer."
        )
    return num_outputs


class _InPlaceOf(nn.Module):
    """Sits in a view where `layer` sits in the backbone; whatever else is asked of it, the layer answers."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.__dict__["layer"] = layer

    def __getattr__(self, name: str):
        return getattr(self.__dict__["layer"], name)


class _Recorder(_InPlaceOf):
    """Runs the layer and keeps its output."""

    def forward(self, *args, **kwargs):
        self.output = self.layer(*args, **kwargs)
        return self.output


class _StandIn(_InPlaceOf):
    """Does no work and returns what it was given to return."""

    def __init__(self, layer: nn.Module, output: torch.Tensor | tuple):
        super().__init__(layer)
        self.output = output

    def forward(self, *args, **kwargs):
        return self.output


def _record(
    backbone: PreTrainedModel, depth: int, tokens: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, int]:
    layers = list(layers_of(backbone))
    recorder = _Recorder(layers[depth - 1])
    view = _with_layers(backbone, _path_of_layers(backbone), [*layers[: depth - 1], recorder])
    view(input_ids=tokens, attention_mask=mask)
    if isinstance(recorder.output, torch.Tensor):
        return recorder.output, 0
    return recorder.output[0], len(recorder.output)


def _path_of_layers(backbone: PreTrainedModel) -> str:
    depth = backbone.config.num_hidden_layers
    stacks: list[str] = []
    for name, module in backbone.named_modules():
        inside_another = any(name.startswith(f"{stack}.") for stack in stacks)
        if isinstance(module, nn.ModuleList) and len(module) == depth and not inside_another:
            stacks.append(name)
    if len(stacks) != 1:
        raise ValueError(
            f"The {backbone.config.model_type!r} backbone has no single stack of {depth} layers (found: "
            f"{', '.join(stacks) or 'none'}); set freeze_below to 0 or to output_layer."
        )
    return stacks[0]


def _with_layers(backbone: PreTrainedModel, path: str, layers: list[nn.Module]) -> PreTrainedModel:
    view = parent = _shallow(backbone)
    *owners, last = path.split(".")
    for name in owners:
        child = _shallow(parent._modules[name])
        parent._modules[name] = child
        parent = child
    parent._modules[last] = nn.ModuleList(layers)
    return view


def _shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    # accelerate's hooks replace `forward` on the instance by one bound to the original module
    twin.__dict__.pop("forward", None)
    return twin
