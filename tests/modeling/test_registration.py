"""Importing any name of the package registers the model, so that `AutoModel` loads it without `trust_remote_code`."""

import os
import subprocess
import sys

import pytest

from tiny import tiny_model, tiny_processor

LOAD = """
import sys
import polyvid, polyvid.modeling
assert not any(name in sys.modules for name in ("torch", "transformers"))
{first}
assert "torch" in sys.modules
from transformers import AutoModel, AutoProcessor
model, processor = AutoModel.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])
print(type(model).__module__, type(processor).__module__)
model.save_pretrained(sys.argv[2])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "from polyvid import MMPModel",
        "import polyvid; polyvid.VideoIndex",
        "from polyvid.modeling import S3DConfig",
        "import polyvid.modeling as modeling; modeling.MMPProcessor",
        "from polyvid.modeling import *",
    ],
)
def test_any_name_registers_all(first, folder, tmp_path):
    command = [sys.executable, "-c", LOAD.format(first=first), folder, tmp_path]
    result = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["polyvid.modeling.modeling_mmp", "polyvid.modeling.processing_mmp"]
    assert (tmp_path / "modeling_mmp.py").exists()  # saved with its code
