"""The text backbone: building and loading it, and running its frozen and its trained layers apart.

Neither part is a module of its own: both are *views*, shallow copies of the backbone that share every weight with it
and differ only in their list of layers. So the backbone remains an ordinary `AutoModel` (same parameter names, same
checkpoints) that handles its own masks, position biases and final norm, and no forward pass changes anything that other
threads share.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .dual_encoder_mmp import class_of_tower, text_config_of, without_head
from .errors_mmp import PolyvidError
from .paths_mmp import check_local_path, refuse_pickled_weights


def new_backbone(text_config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with random weights, without a pooler of its own."""
    if (tower := class_of_tower(text_config)) is not None:
        return without_head(tower._from_config(text_config, **_no_pooler(text_config)))
    return AutoModel.from_config(text_config, **_no_pooler(text_config))


def load_backbone_config(name_or_path: str) -> PreTrainedConfig:
    """The configuration of a pre-trained encoder, or of the text tower of a dual encoder.

    Raises:
        OSError: if there is none; the message is one sentence.
    """
    check_local_path(name_or_path, "text backbone")
    try:
        return text_config_of(AutoConfig.from_pretrained(name_or_path))
    except OSError as error:
        raise OSError(
            f"Cannot load the text backbone {str(name_or_path)!r}: it is not a folder with a model in it, and not "
            "available from the Hugging Face Hub. Check the spelling and the network, or pass a folder."
        ) from error


def load_backbone(name_or_path: str, text_config: PreTrainedConfig, dtype: torch.dtype | str) -> PreTrainedModel:
    """A pre-trained encoder, or the text tower of a dual encoder, as deep as `text_config` says.

    Layers above are not loaded.

    Raises:
        PolyvidError: if weights are missing, or pickled.
        OSError: if the Hub has none as safetensors.
    """
    refuse_pickled_weights(name_or_path)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the report would list every weight of the layers above as unexpected
    try:
        whole = AutoConfig.from_pretrained(name_or_path)
        options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, "use_safetensors": True}
        if text_config_of(whole) is not whole:
            whole.text_config = text_config
            dual_encoder, report = AutoModel.from_pretrained(name_or_path, config=whole, **options)
            backbone = without_head(dual_encoder.text_model)
        else:
            options |= _no_pooler(text_config)
            loader = class_of_tower(text_config) or AutoModel
            backbone, report = loader.from_pretrained(name_or_path, config=text_config, **options)
            without_head(backbone)
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(report["missing_keys"]):
        raise PolyvidError(f"{str(name_or_path)!r} lacks {len(missing)} weights of the backbone, such as {missing[0]}.")
    return backbone


def layers_of(backbone: PreTrainedModel) -> nn.ModuleList:
    """The backbone's stack of Transformer layers, its own `ModuleList` object.

    Raises:
        PolyvidError: if there is no single stack of `num_hidden_layers` modules (ALBERT shares one layer, XLM spreads a
            layer over several lists), so that "the layers below n" are not modules that can be frozen.
    """
    return backbone.get_submodule(_path_of_layers(backbone))


def run_frozen(backbone: PreTrainedModel, depth: int, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Output of layer `depth` (counted from 1); above it, only the backbone's final norm runs, if it has one.

    Raises:
        PolyvidError: if the backbone cannot be resumed from there, see [`resume`].
    """
    _outputs_per_layer(backbone, depth, mask.device)
    return _record(backbone, depth, input_ids, mask)[0]


def resume(backbone: PreTrainedModel, depth: int, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The backbone's output, computed from the output of layer `depth` instead of from tokens.

    Raises:
        PolyvidError: if the output differs from that of the whole backbone, as it would if layer 1 computed a position
            bias for all others. This is checked once per backbone, on eight tokens.
    """
    return _resume(backbone, depth, hidden_states, mask, _outputs_per_layer(backbone, depth, mask.device))


def _resume(
    backbone: PreTrainedModel, depth: int, hidden_states: torch.Tensor, mask: torch.Tensor, num_outputs: int
) -> torch.Tensor:
    layers = list(layers_of(backbone))
    output = (hidden_states, *[None] * (num_outputs - 1)) if num_outputs else hidden_states
    # Stand-ins keep the positions of the lower layers, because window sizes and layer types go by a layer's index.
    stand_ins = [_StandIn(layer, output) for layer in layers[:depth]]
    # Any token will do: the first stand-in discards its embedding.
    tokens = torch.zeros(hidden_states.shape[:2], dtype=torch.long, device=hidden_states.device)
    view = _with_layers(backbone, [*stand_ins, *layers[depth:]])
    return view(input_ids=tokens, attention_mask=mask).last_hidden_state


def _record(
    backbone: PreTrainedModel, depth: int, input_ids: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """The output of layer `depth`, and how many outputs it has; 0 where it returns a bare tensor."""
    layers = list(layers_of(backbone))
    recorder = _Recorder(layers[depth - 1])
    _with_layers(backbone, [*layers[: depth - 1], recorder])(input_ids=input_ids, attention_mask=mask)
    if isinstance(recorder.output, torch.Tensor):
        return recorder.output, 0
    return recorder.output[0], len(recorder.output)


@torch.no_grad()
def _outputs_per_layer(backbone: PreTrainedModel, depth: int, device: torch.device) -> int:
    """How many outputs layer `depth` has; the first time, checks that resuming gives the whole backbone's output."""
    known = backbone.__dict__.setdefault("_mmp_outputs_per_layer", {})
    if depth in known:
        return known[depth]
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    tokens = torch.arange(8, device=device)[None] % backbone.config.vocab_size
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0]], device=device)
    try:
        whole = backbone(input_ids=tokens, attention_mask=mask).last_hidden_state
        hidden_states, num_outputs = _record(backbone, depth, tokens, mask)
        resumed = _resume(backbone, depth, hidden_states, mask, num_outputs)
        same = torch.allclose(whole[:, :6], resumed[:, :6], rtol=1e-3, atol=1e-3)
        reason = "the output differs"
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        same, reason = False, f"{type(error).__name__}: {error}"
    finally:
        for module in training:
            module.training = True
    if not same:
        raise PolyvidError(
            f"The {backbone.config.model_type!r} backbone cannot be resumed from the output of layer {depth} "
            f"({reason}). Pass input_ids instead of frozen_hidden_states, or set freeze_below=output_layer."
        )
    return known.setdefault(depth, num_outputs)


def _no_pooler(text_config: PreTrainedConfig) -> dict[str, bool]:
    """The argument that keeps BERT-like encoders from adding a pooler of their own; other encoders do not have it."""
    model_class = class_of_tower(text_config) or MODEL_MAPPING[type(text_config)]
    known = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in known else {}


class _InPlaceOf(nn.Module):
    """Takes the position of `layer` in a view; all its other attributes are the layer's."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.__dict__["layer"] = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["layer"], name)


class _Recorder(_InPlaceOf):
    """Runs the layer and keeps its output."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.output = self.layer(*args, **kwargs)
        return self.output


class _StandIn(_InPlaceOf):
    """Computes nothing and returns a fixed output."""

    def __init__(self, layer: nn.Module, output: torch.Tensor | tuple[torch.Tensor | None, ...]):
        super().__init__(layer)
        self.output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output


def _path_of_layers(backbone: PreTrainedModel) -> str:
    depth = backbone.config.num_hidden_layers
    stacks: list[str] = []
    for name, module in backbone.named_modules():
        inside_another = any(name.startswith(f"{stack}.") for stack in stacks)
        if isinstance(module, nn.ModuleList) and len(module) == depth and not inside_another:
            stacks.append(name)
    if len(stacks) != 1:
        raise PolyvidError(
            f"The {backbone.config.model_type!r} backbone has no single stack of {depth} layers (found: "
            f"{', '.join(stacks) or 'none'}); set freeze_below to 0 or to output_layer."
        )
    return stacks[0]


def _with_layers(backbone: PreTrainedModel, layers: Sequence[nn.Module]) -> PreTrainedModel:
    """A view: the backbone with another list of layers."""
    view: Any = _shallow(backbone)
    parent = view
    *owners, last = _path_of_layers(backbone).split(".")
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
