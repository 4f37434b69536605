"""Either tower of an MMPModel as a graph, for runtimes without transformers: `torch.export` and ONNX."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from .modeling_mmp import MMPModel


class _Tower(nn.Module):
    """A module whose forward is one method of the model."""

    def __init__(self, model: MMPModel, embed: Callable[..., Any]):
        super().__init__()
        self.model = model
        self.embed = embed
        self.eval()

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.embed(values, mask).pooler_output


def export_text_tower(model: MMPModel) -> ExportedProgram:
    """Φ as a graph: (input_ids, attention_mask), both (batch, tokens) int64, to (batch, embed_dim).

    Batch and length are dynamic. The model is put into evaluation mode. A graph does not check its input: it also takes
    what [`MMPModel.get_text_features`] refuses.
    """
    values = torch.ones(2, 8, dtype=torch.long, device=model.device)
    return _export(model, model.get_text_features, values)


def export_video_tower(model: MMPModel) -> ExportedProgram:
    """Ψ as a graph: video_features (batch, seconds, video_feature_dim) and video_mask (batch, seconds) int64, to
    (batch, embed_dim). Otherwise as [`export_text_tower`]."""
    values = torch.ones(2, 8, model.config.video_feature_dim, dtype=model.dtype, device=model.device)
    return _export(model, model.get_video_features, values)


def export_onnx(model: MMPModel, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes `text_tower.onnx` and `video_tower.onnx`, with the inputs of the graphs above. Needs the `onnx` extra.

    Input names are `input_ids` and `attention_mask`, `video_features` and `video_mask`; the outputs are `text_embeds`
    and `video_embeds`, not normalised. Weights over 2 GB go to a `.data` file next to each.

    Raises:
        ImportError: without the packages of the `onnx` extra.
    """
    towers = {
        "text": (export_text_tower(model), ["input_ids", "attention_mask"]),
        "video": (export_video_tower(model), ["video_features", "video_mask"]),
    }
    try:
        graphs = {
            Path(folder) / f"{name}_tower.onnx": torch.onnx.export(
                program, input_names=inputs, output_names=[f"{name}_embeds"], verbose=False
            )
            for name, (program, inputs) in towers.items()
        }
    except ImportError as error:
        raise ImportError("ONNX export needs more packages: pip install 'polyvid[onnx]'.") from error
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path, graph in graphs.items():
        assert graph is not None  # a file is only written here
        graph.save(path)
    return list(graphs)


def _export(model: MMPModel, embed: Callable[..., Any], values: torch.Tensor) -> ExportedProgram:
    mask = torch.ones(values.shape[:2], dtype=torch.long, device=values.device)
    dynamic = {0: Dim("batch", min=1, max=2**16), 1: Dim("length", min=1, max=2**16)}
    with torch.no_grad():
        return torch.export.export(_Tower(model, embed), (values, mask), dynamic_shapes=(dynamic, dynamic))
