"""From a folder of captioned videos to a trained model and its scores: features are made where they are missing."""

import json
import re
import shutil

import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value, Video
from launching import Launch
from training_data import CONFIGS
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from video_files import write_video

from polyvid.dataset_scripts.own_data.opening import open_own
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train import cli
from polyvid.train.data import own_features
from polyvid.train.data.own_features import complete_data, features_for, videos_at_hand
from polyvid.train.data.videos import VideoFeatures
from polyvid.train.extraction.job import Extraction
from polyvid.train.loop.setup import build_trainer
from polyvid.train.recipe import DataRecipe, load_recipe
from polyvid.train.scoring.benchmark import open_benchmark
from polyvid.train.search.frames import load_encoders
from tiny import tiny_model, tiny_processor

CAPTIONS = ["ein hund läuft", "der hund läuft", "a dog runs", "the cat sleeps"]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A small image network, a model that was made for its features, and 12 captioned videos in three splits."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    CLIPVisionModel(config).save_pretrained(folder / "network")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder / "network"
    )
    (folder / "my_folder" / "clips").mkdir(parents=True)
    lines = ["file_name,de,sw,split"]
    for number in range(12):
        write_video(folder / "my_folder" / "clips" / f"v{number}.mp4", num_frames=6 + number, fps=4)
        split = "test" if number > 9 else "validation" if number > 7 else "train"
        lines.append(f"clips/v{number}.mp4,ein hund {number},mbwa {number},{split}")
    (folder / "my_folder" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def here(everything, tmp_path, monkeypatch):
    """A working directory with copies of them."""
    monkeypatch.chdir(shutil.copytree(everything, tmp_path / "here"))
    monkeypatch.setattr(own_features, "decoding_processes", lambda: 0)  # decode here: faster for a dozen videos
    records = load_encoders(tiny_model(video_feature_dim=16), ["network"]).records
    tiny_model(video_feature_dim=16, video_encoders=records).save_pretrained("model")
    tiny_processor(feature_size=16).save_pretrained("model")
    return tmp_path / "here"


OWN = ["data.dataset=my_folder", "model.init_from=model", "training.epochs=1", "training.batch_size=8"]


def run(*arguments: str) -> int:
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_videos_become_a_model_and_its_scores_by_two_commands(here, capsys):
    assert run("train", "--config", "own", "model.start=random", *OWN) == 0
    assert (
        "Making the features of 12 videos of my_folder, kept in outputs/features/my_folder-" in capsys.readouterr().out
    )
    recipe = load_recipe("outputs/own/recipe.yaml")
    assert sorted(recipe.data.languages) == ["de", "sw"] and recipe.data.features.startswith(
        "outputs/features/my_folder-"
    )
    assert recipe.model.freeze_below == recipe.model.output_layer == 3

    write_video(here / "my_folder" / "clips" / "new.mp4", num_frames=5, fps=4)
    with open(here / "my_folder" / "metadata.csv", "a", encoding="utf-8") as table:
        table.write("clips/new.mp4,ein neuer hund,mbwa,test\n")
    assert run("evaluate", "--model", "outputs/own") == 0
    assert "Making the features of 1 video of" in capsys.readouterr().out
    results = json.loads((here / "outputs" / "results" / "own" / "my_folder" / "results.json").read_text())
    assert results["counts"]["videos_with_features"] == 3
    assert results["protocol"] | {"source": ""} == {
        "benchmark": "my_folder",
        "protocol": "own splits",
        "split": "test",
        "source": "",
        "caption_kinds": None,
        "captions_by": {"de": ["own"], "sw": ["own"]},
    }


def test_features_are_those_that_polyvid_extract_makes_and_are_made_once(here, monkeypatch):
    own = open_own("my_folder")
    made = VideoFeatures(features_for(own, "model"))
    assert run("extract", "my_folder", "extracted", "--encoder", "network", "--workers", "0") == 0
    extracted = VideoFeatures("extracted")
    assert sorted(made) == sorted(extracted)
    assert all((made[name] == extracted[name]).all() for name in made)
    assert made.encoders == tiny_records(made)

    monkeypatch.setattr(Extraction, "run", None)  # would fail if it were called again
    assert VideoFeatures(features_for(own, "model")).keys() == made.keys()


def tiny_records(features: VideoFeatures) -> list:
    """What the model says of its networks is what the folder says of them."""
    from polyvid.modeling import MMPConfig

    records = MMPConfig.from_pretrained("model").video_encoders
    return [{**record, "scaling": features.encoders[0]["scaling"]} for record in records]


@pytest.mark.slow
def test_two_processes_each_make_their_share_and_find_the_same(here):
    """`torchrun --nproc_per_node 2 train/train.py --config own data.dataset=my_folder`, from videos to a model."""
    log = here / "run.log"
    run = Launch(CONFIGS / "own.yaml", [*OWN, "model.start=random"], log, processes=2)
    assert run.wait() == [0, 0], run.said()[-3000:]
    said = [log.with_name(f"run.log.{rank}").read_text() for rank in range(2)]
    assert "Making the features of 12 videos of my_folder" in said[0] and "Making" not in said[1]
    shares = [int(re.findall(r"(\d+)/\1 \[.* videos", text)[0]) for text in said]
    assert sum(shares) == 12 and min(shares) > 0
    own = open_own("my_folder")
    shutil.move("outputs/features", "made_by_two")
    alone = VideoFeatures(features_for(own, "model"))
    [folder] = (here / "made_by_two").glob("my_folder-*")
    together = VideoFeatures(folder)
    assert sorted(alone) == sorted(together)
    assert all((alone[name] == together[name]).all() for name in alone)


@pytest.mark.slow
def test_two_processes_say_that_no_video_can_be_read(here):
    for clip in (here / "my_folder" / "clips").iterdir():
        clip.write_bytes(b"no video")
    run = Launch(CONFIGS / "own.yaml", OWN, here / "run.log", processes=2)
    assert run.wait() == [1, 1]
    assert run.said().count("No video of my_folder can be read; the first is v0 (") == 2
    assert "Traceback" not in run.said()


def test_a_video_that_changed_is_noticed_and_a_copy_of_it_is_not(here):
    own = open_own("my_folder")
    folder = features_for(own, "model")
    clip = here / "my_folder" / "clips" / "v3.mp4"
    clip.write_bytes(clip.read_bytes())  # the same in another moment
    assert features_for(own, "model") == folder
    shutil.copy(here / "my_folder" / "clips" / "v4.mp4", clip)
    with pytest.raises(PolyvidError, match=rf"1 video of my_folder changed .* first is v3: delete {folder}"):
        features_for(own, "model")


def test_missing_and_broken_videos_are_told_and_broken_ones_tried_again(here, capsys):
    (here / "my_folder" / "clips" / "v1.mp4").unlink()
    broken = here / "my_folder" / "clips" / "v2.mp4"
    whole = broken.read_bytes()
    broken.write_bytes(b"no video")
    folder = features_for(open_own("my_folder"), "model")
    shown = capsys.readouterr().out
    assert "my_folder names 12 videos; 1 of them cannot be found. The first is v1." in shown
    assert "1 video of my_folder cannot be read; the first is v2 (" in shown
    assert len(VideoFeatures(folder)) == 10
    broken.write_bytes(whole)
    assert len(VideoFeatures(features_for(open_own("my_folder"), "model"))) == 11


def test_ids_without_names_of_files_find_their_files(here):
    table = here / "my_folder" / "metadata.csv"
    table.write_text(table.read_text().replace("file_name", "video_id").replace("clips/", "").replace(".mp4", ""))
    assert videos_at_hand(open_own("my_folder"))["v3"] == here.joinpath("my_folder/clips/v3.mp4").relative_to(here)


def test_videos_in_parquet_give_the_features_of_the_files(here):
    own = open_own("my_folder")
    files = videos_at_hand(own)
    rows = {
        "video": [{"path": f"{name}.mp4", "bytes": path.read_bytes()} for name, path in files.items()],
        "caption": [video.captions[0]["text"] for video in own.videos],
    }
    features = Features({"video": Video(decode=False), "caption": Value("string")})
    DatasetDict({"test": Dataset.from_dict(rows, features=features)})["test"].to_parquet(
        "parquet/data/test-00000-of-00001.parquet"
    )
    opened = open_benchmark("model", benchmark="parquet", columns={"de": "caption"})
    made = VideoFeatures(features_for(own, "model"))
    assert opened.languages == ["de"] and len(opened.videos) == 12
    assert all((opened.features[name] == made[name]).all() for name in made)


def test_the_recipe_names_networks_where_there_is_no_model_to_start_from(here):
    data = DataRecipe(dataset="my_folder", languages=["all"], validation_languages=["all"])
    with pytest.raises(PolyvidError, match=r"nothing says which networks.*data.video_encoders"):
        complete_data(data, None)
    data.video_encoders = ["network"]
    complete_data(data, None)
    assert features_for(open_own("my_folder"), "model").name == data.features.rsplit("/", 1)[1]


def test_a_language_that_nobody_wrote_in_is_refused_with_those_there(here):
    recipe = load_recipe("own", [*OWN, "data.languages=[fr]"])
    with pytest.raises(PolyvidError, match=r"my_folder has no captions in fr: it has de sw\. Set data.languages"):
        build_trainer(recipe)


def test_a_folder_without_its_videos_says_so(here):
    shutil.rmtree(here / "my_folder" / "clips")
    with pytest.raises(
        PolyvidError, match=r"my_folder names 12 videos, none of which is there \(the first is clips/v0.mp4\)"
    ):
        open_benchmark("model", benchmark="my_folder")


def test_thirteen_languages_are_trained_on_evaluated_and_plotted(here):
    languages = "en de fr cs zh ru vi sw es hi mr id pt-BR".split()
    lines = [",".join(["video_id", "split", *(f"caption_{language}" for language in languages)])]
    for number in range(12):
        split = "test" if number > 9 else "validation" if number > 7 else "train"
        lines.append(",".join([f"v{number}", split, *(f"hund {number} {language}" for language in languages)]))
    (here / "my_folder" / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert run("train", "--config", "own", "model.start=random", "training.epochs=1", *OWN[:2]) == 0
    assert sorted(load_recipe("outputs/own/recipe.yaml").data.languages) == sorted(languages)
    assert run("evaluate", "--model", "outputs/own") == 0
    folder = here / "outputs" / "results" / "own" / "my_folder"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert sorted(results["scores"]["all"]["text_to_video"]) == sorted(languages)
    assert "pt-BR" in (folder / "results.md").read_text(encoding="utf-8") and (folder / "recall.png").is_file()
