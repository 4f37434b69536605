"""Both towers as graphs: torch.compile without breaks, torch.export, ONNX; all against eager."""

import numpy as np
import pytest
import torch

from polyvid.modeling import export_onnx, export_text_tower, export_video_tower
from tiny import BACKBONES, tiny_batch, tiny_model

# other numbers of rows, tokens and seconds than the towers were traced with, down to a single one
SIZES = [(3, 12, 9), (5, 3, 20), (1, 1, 1)]


def towers(model):
    return [
        (lambda *text: model.get_text_features(*text).pooler_output, ("input_ids", "attention_mask")),
        (lambda *video: model.get_video_features(*video).pooler_output, ("video_features", "video_mask")),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["none", "sinusoidal"])
def test_exported_towers_take_any_batch_and_length(positions):
    model = tiny_model(video_positions=positions)
    graphs = [export_text_tower(model).module(), export_video_tower(model).module()]
    for size in SIZES:
        batch = tiny_batch(*size)
        for graph, (tower, names) in zip(graphs, towers(model), strict=True):
            inputs = [batch[name] for name in names]
            torch.testing.assert_close(graph(*inputs), tower(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["xlm-roberta", "modernbert"])
def test_onnx_towers_take_any_batch_and_length(backbone, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = tiny_model(backbone)
    paths = export_onnx(model, tmp_path)
    assert [path.name for path in paths] == ["text_tower.onnx", "video_tower.onnx"]
    for path, (tower, names) in zip(paths, towers(model), strict=True):
        session = onnxruntime.InferenceSession(path)
        assert [i.name for i in session.get_inputs()] == list(names)
        for size in SIZES:
            batch = tiny_batch(*size)
            outputs = session.run(None, {name: batch[name].numpy() for name in names})
            expected = tower(*(batch[name] for name in names)).detach().numpy()
            np.testing.assert_allclose(outputs[0], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_both_towers_trace_into_one_graph_for_training(backbone):
    """`fullgraph=True` raises at a graph break. The same random numbers drop the same units."""
    model = tiny_model(backbone).train()
    for tower, names in towers(model):
        torch._dynamo.reset()
        compiled = torch.compile(tower, fullgraph=True, dynamic=True, backend="eager")
        for size in SIZES[:2]:
            outputs = []
            for function in (compiled, tower):
                torch.manual_seed(0)
                outputs.append(function(*(tiny_batch(*size)[name] for name in names)))
            torch.testing.assert_close(*outputs)
            assert outputs[0].requires_grad


@pytest.mark.slow
def test_compiled_code_gives_the_same_embeddings():
    """With torch's default backend, which writes and builds code; from cached hidden states as well."""
    model, batch = tiny_model(freeze_below=3), tiny_batch()
    states = model.encode_frozen_layers(batch["input_ids"], batch["attention_mask"])
    torch._dynamo.reset()
    with torch.no_grad():
        for tower, names in towers(model):
            inputs = [batch[name] for name in names]
            torch.testing.assert_close(torch.compile(tower, fullgraph=True)(*inputs), tower(*inputs))
        compiled = torch.compile(model.get_text_features, fullgraph=True)
        torch.testing.assert_close(
            compiled(frozen_hidden_states=states, attention_mask=batch["attention_mask"]).pooler_output,
            model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output,
        )
