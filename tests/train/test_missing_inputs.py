"""Commands look for the files and folders they were given before they load a model, which can take minutes."""

from pathlib import Path

import pytest
import transformers
from training_data import write_features

from polyvid.train import cli

INDEX = ("index", "features", "i.safetensors", "--model", "model")
EVALUATE = ("evaluate", "--model", "model", "--benchmark", "vtt", "--features", "features", "--data-dir", "raw")
TRANSLATE = ("translate", "vtt", "--to", "de", "--data-dir", "raw", "--output-dir", "out")
TRAIN = ("train", "--config", "vtt_en", "output_dir=out", "model.init_from=null", "model.backbone=model")
PRETRAIN = ("train", "--config", "mmp", "output_dir=out", "model.backbone=model")
DATA = ("data.data_dir=raw", "data.features=features")
SHEET = ("contact-sheet", "video0", "--model", "model", "--output", "out", "--benchmark", "vtt")


@pytest.fixture
def no_model_is_loaded(tmp_path, monkeypatch):
    """A folder with what the commands need, but nothing that a model can be loaded from."""

    def load(*arguments, **options):
        raise AssertionError("a model was loaded first")

    for name in ("AutoModel", "AutoModelForSeq2SeqLM", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", load)
    for name in ("model", "raw", "videos"):
        (tmp_path / name).mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    write_features(tmp_path / "features", ["a"])
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_model_is_loaded")
@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ((INDEX[0], "nowhere", *INDEX[2:]), "folder of shards"),
        ((*INDEX[:4], "./nowhere"), "model"),
        (("index", "features", "nowhere.safetensors", "--add"), "video index"),
        (("index", "nowhere.safetensors", "--remove", "a"), "video index"),
        (("search", "nowhere.safetensors", "a dog", "--model", "model"), "video index"),
        ((*EVALUATE[:2], "./nowhere", *EVALUATE[3:]), "model"),
        ((*EVALUATE, "--features", "nowhere"), "folder of features"),
        ((*EVALUATE, "--data-dir", "nowhere"), "folder of official files"),
        ((*EVALUATE, "--translations", "nowhere"), "file or folder of translations"),
        ((*SHEET, "--features", "features", "--data-dir", "raw", "--clips", "nowhere"), "folder of clips"),
        (("extract", "nowhere", "out", "--encoder", "model"), "folder and no list of videos"),
        (("extract", "videos", "out", "--encoder", "model", "--encoder", "./nowhere"), "encoder"),
        (("extract", "videos", "out", "--encoder", "model", "--encoder", "nowhere_s3d.pth"), "encoder"),
        ((*TRAIN, "data.features=features", "data.data_dir=nowhere"), "folder of official files"),
        ((*TRAIN, "data.data_dir=raw", "data.features=nowhere"), "folder of shards"),
        ((*TRAIN, *DATA, "model.backbone=./nowhere"), "text backbone"),
        ((*TRAIN, *DATA, "model.init_from=./nowhere"), "model"),
        (
            ("train", "--config", "mmp", "output_dir=out", "model.backbone=model", "data.clips=nowhere"),
            "folder of shards",
        ),
        ((*TRANSLATE, "--data-dir", "nowhere"), "folder of official files"),
        ((*TRANSLATE, "--model", "./nowhere"), "model"),
        (("coverage", "vtt", "--data-dir", "nowhere", "--features", "features"), "folder of official files"),
        (("coverage", "vtt", "--data-dir", "raw", "--features", "nowhere"), "folder of shards"),
        (("statistics", "nowhere"), "dataset"),
        (("statistics", "raw", "--tokenizer", "./nowhere"), "tokenizer"),
        (("join", "nowhere", "features", "out"), "folder of shards"),
        (("join", "features", "nowhere", "out"), "folder of shards"),
        (("build", "msrvtt", "1k-A", "--data-dir", "nowhere", "--output-dir", "out"), "folder of official files"),
        (("push", "model", "nowhere", "--repo-id", "lab/x"), "folder"),
        (("push", "model", "model", "--repo-id", "lab/x", "--results", "nowhere"), "results.json"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else value,
)
def test_what_is_missing_is_named_before_anything_is_loaded_or_written(arguments, missing, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    assert caught.value.code == 1
    line = capsys.readouterr().err.strip().split("\n")[-1]
    assert line.startswith("error: ") and f"There is no {missing} " in line and "nowhere" in line
    assert not Path("out").exists()
