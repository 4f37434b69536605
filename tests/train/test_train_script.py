"""`train/train.py` as users launch it: errors are one line, and the exit code is not 0."""

import shutil
from pathlib import Path

import pytest
from emoji_features import write_features

from polyvid.dataset_scripts.fluent_emoji_9 import build
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train import cli
from polyvid.train.train import main
from tiny import tiny_model, tiny_processor

RECIPE = Path(__file__).parents[2] / "train" / "configs" / "demo" / "none.yaml"
FOLDER = Path(build.__file__).parent


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A tiny backbone and features of all clips."""
    folder = tmp_path_factory.mktemp("train")
    write_features(folder / "features", dim=10)
    tiny_model().text_model.save_pretrained(folder / "backbone")
    tiny_processor().tokenizer.save_pretrained(folder / "backbone")
    return folder


@pytest.fixture
def overrides(workspace, tmp_path):
    return [
        f"model.backbone={workspace / 'backbone'}",
        f"data.features={workspace / 'features'}",
        f"output_dir={tmp_path / 'out'}",
        f"data.frozen_states={tmp_path / 'states'}",
        "model.output_layer=3",
        "model.freeze_below=3",
        "model.embed_dim=16",
        "model.video_feature_dim=10",
        "training.epochs=1",
    ]


def test_a_recipe_trains_a_model_and_a_second_run_finds_it_finished(overrides, tmp_path, capsys):
    main(RECIPE, overrides)
    weights = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    main(RECIPE, overrides)
    assert "holds the finished model already" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epoch=2", "there is no key 'training.epoch'; did you mean 'training.epochs'"),
        ("data.languages=[en,xx]", "Unknown language 'xx': choose from en de fr cs zh ru vi sw es, or"),
        ("model.backbone=nobody/no-such-model", "nobody/no-such-model"),
        ("model.init_from=nobody/no-such-model", "Cannot load 'nobody/no-such-model' to start from"),
        (
            "model.init_from=outputs/no-such/model",
            "to start from: train it first. (There is no model at",
        ),
        ("data.features=nowhere", "There is no folder of shards at 'nowhere' in "),
        ("data.train_split=dev", "fluent_emoji_9 has no split 'dev': choose from pretrain finetune validation test"),
        ("data.dataset=emoji", "Unknown dataset 'emoji': choose from"),
        ("training.schedule=linaer", "training.schedule=linaer: linaer is not a valid SchedulerType"),
        ("training.trackers=[tensorbord]", "training.trackers: there is no tracker 'tensorbord'; choose from aim all"),
        ("model.output_layer=30", "output_layer"),
        ("model.video_feature_dim=11", "11"),
    ],
)
def test_bad_input_is_one_clear_line(overrides, change, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it retries for half a minute
    text = refused([*overrides, change], capsys)
    assert text.startswith("error: ") and message in text and "\n" not in text
    assert not (tmp_path / "out" / "model.safetensors").exists()


def refused(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line `polyvid train` writes before it ends with exit code 1."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "--config", str(RECIPE), *overrides])
    assert caught.value.code == 1
    return capsys.readouterr().err.rstrip("\n").split("\n")[-1]


def test_a_missing_clip_is_named(overrides, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "data", ignore=shutil.ignore_patterns("1f418.mp4"))
    with pytest.raises((PolyvidError, OSError), match="The clip of 1f418 is missing"):
        for split in ("finetune", "pretrain", "test"):
            main(RECIPE, [*overrides, f"data.data_dir={tmp_path / 'data'}", f"data.train_split={split}"])
