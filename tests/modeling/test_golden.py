"""A model that was saved before, with the code it was saved with, loads and gives the numbers it gave then.

This catches what no test of saving and loading in one version can see: a new transformers that initialises a weight at
random instead of loading it, code of ours that no longer reads old files, and code beside old models that no longer
runs. make_golden.py says when the folder may be made again.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from polyvid.modeling import MMPModel

GOLDEN = Path(__file__).parent / "golden"

ELSEWHERE = """
import json, sys
from pathlib import Path

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "polyvid":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, pipeline

folder, output = map(Path, sys.argv[1:])
model, report = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
given, texts = load_file(folder / "embeddings.safetensors"), json.loads((folder / "texts.json").read_text("utf-8"))
videos = [given[f"video_{i}"] for i in range(len(texts))]
found = {"texts": model.encode_texts(texts, processor), "videos": model.encode_videos(videos, processor)}
save_file(found, output)
search = pipeline("text-to-video-retrieval", model=str(folder), trust_remote_code=True)
hits = search(texts, videos=videos, top_k=1)
print(json.dumps([[name for name in report if report[name]], [int(hit["video_id"]) for [hit] in hits]]))
"""


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "embeddings.safetensors"), json.loads((GOLDEN / "texts.json").read_text("utf-8"))


def assert_as_before(found, golden):
    for name in ("texts", "videos"):
        torch.testing.assert_close(found[name], golden[0][name], rtol=1e-4, atol=1e-4)


def test_the_installed_package_loads_it(golden):
    model, report = AutoModel.from_pretrained(GOLDEN, output_loading_info=True)
    processor = AutoProcessor.from_pretrained(GOLDEN)
    assert type(model) is MMPModel
    assert not any(report.values()), report  # nothing initialised, unexpected or of another shape
    videos = [golden[0][f"video_{i}"] for i in range(len(golden[1]))]
    assert_as_before(
        {"texts": model.encode_texts(golden[1], processor), "videos": model.encode_videos(videos, processor)}, golden
    )


@pytest.mark.slow
def test_its_own_code_still_runs_without_the_package(golden, tmp_path):
    folder = tmp_path / "golden"  # a copy: transformers compiles the code where it lies
    shutil.copytree(GOLDEN, folder)
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(folder), str(tmp_path / "found.safetensors")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    problems, best = json.loads(result.stdout.splitlines()[-1])
    assert problems == []
    assert_as_before(load_file(tmp_path / "found.safetensors"), golden)
    cosines = torch.nn.functional.normalize(golden[0]["texts"]) @ torch.nn.functional.normalize(golden[0]["videos"]).T
    assert best == cosines.argmax(1).tolist()


def test_it_is_small():
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 1_000_000
