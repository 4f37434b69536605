"""A saved folder works where the package is not: in a fresh process that cannot import it, and once more from there."""

import subprocess
import sys

import pytest
import torch

from polyvid.modeling import MMPModel
from tiny import tiny_batch, tiny_model, tiny_processor

# Runs with the package out of reach: importing `polyvid` is an error, as it is on a machine that never installed it.
ELSEWHERE = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "polyvid":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

folder, copy, inputs = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
search = pipeline("text-to-video-retrieval", model=folder, trust_remote_code=True)
given = torch.load(inputs)
embeds = {name: value for name, value in model(**given["batch"]).items() if name.endswith("_embeds")}
embeds["frozen"] = model.encode_frozen_layers(given["batch"]["input_ids"], given["batch"]["attention_mask"])
embeds["texts"] = model.encode_texts(given["texts"], processor)
embeds["videos"] = model.encode_videos(given["videos"], processor)
found = search(given["texts"][0], videos=given["videos"], top_k=2)
modules = {type(thing).__module__ for thing in (config, model, processor, processor.feature_extractor, search)}
assert all(module.startswith("transformers_modules.") for module in modules), modules
trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
torch.save({"embeds": embeds, "found": found, "trained": trained}, copy + ".pt")
model.save_pretrained(copy)
processor.save_pretrained(copy)
"""


def elsewhere(folder, copy, inputs, cache):
    # -I: neither the current folder nor PYTHONPATH; `cache` is where transformers puts the code it loads
    environment = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PATH": ""}
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(folder), str(copy), str(inputs)]
    result = subprocess.run(command, env=environment, cwd=cache, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return torch.load(f"{copy}.pt")


@pytest.mark.parametrize("backbone", ["xlm-roberta", pytest.param("modernbert", marks=pytest.mark.slow)])
def test_a_saved_folder_is_all_one_needs_even_twice_removed(backbone, tmp_path):
    model, processor = tiny_model(backbone), tiny_processor(feature_mean=[0.5] * 10, feature_std=[2.0] * 10)
    model.save_pretrained(tmp_path / "first")
    processor.save_pretrained(tmp_path / "first")
    given = {
        "batch": tiny_batch(),
        "texts": ["der hund läuft", "a cat sleeps in the park"],
        "videos": [torch.randn(seconds, 10) for seconds in (3, 8, 1)],
    }
    torch.save(given, tmp_path / "inputs.pt")
    expected = {name: value for name, value in model(**given["batch"]).items() if name.endswith("_embeds")}
    expected["frozen"] = model.encode_frozen_layers(given["batch"]["input_ids"], given["batch"]["attention_mask"])
    expected["texts"] = model.encode_texts(given["texts"], processor)
    expected["videos"] = model.encode_videos(given["videos"], processor)

    first = elsewhere(tmp_path / "first", tmp_path / "second", tmp_path / "inputs.pt", tmp_path)
    second = elsewhere(tmp_path / "second", tmp_path / "third", tmp_path / "inputs.pt", tmp_path)
    for result in (first, second):
        assert result["embeds"].keys() == expected.keys()
        for name, embeds in expected.items():
            torch.testing.assert_close(result["embeds"][name], embeds, msg=lambda text, name=name: f"{name}: {text}")
        assert result["trained"] == [name for name, p in model.named_parameters() if p.requires_grad]
        assert result["found"] == first["found"] and len(result["found"]) == 2
    for name in (
        "model.safetensors",
        "processor_config.json",
        *(path.name for path in (tmp_path / "first").glob("*.py")),
    ):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "third" / name).read_bytes(), name
    torch.testing.assert_close(
        MMPModel.from_pretrained(tmp_path / "third")(**given["batch"]).text_embeds, expected["text_embeds"]
    )


def test_the_folder_holds_all_code_and_no_more(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    code = {path.name for path in tmp_path.glob("*.py")}
    assert {"modeling_mmp.py", "configuration_mmp.py", "processing_mmp.py", "pipeline_mmp.py", "losses_mmp.py"} <= code
    networks = ("r2plus1d", "s3d", "efficientnet_lite0")  # with which a model reads videos
    allowed = {f"{kind}_{name}.py" for kind in ("modeling", "configuration") for name in networks}
    assert all(name.endswith("_mmp.py") or name in allowed | {"official_checkpoint.py"} for name in code)
