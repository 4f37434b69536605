"""Features of another network are refused wherever they meet a model, even where their width is the same."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from shard_files import rows_of
from transformers.utils import logging

from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, recorded_encoders, rows_to_table
from polyvid.dataset_scripts.join import join
from polyvid.hub_cards.publish.cards import model_card
from polyvid.modeling import MMPConfig, MMPModel, VideoIndex, provenance_mmp
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.provenance_mmp import digest_of_weights
from polyvid.train.cli import main
from polyvid.train.data.videos import VideoFeatures
from polyvid.train.extraction.shards import FeatureShards
from polyvid.train.loop.starting_model import record_encoders
from polyvid.train.recipe import DataRecipe, ModelRecipe, Recipe
from polyvid.train.scoring.benchmark import OpenedBenchmark
from polyvid.train.scoring.measure import measure
from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor

RECORD = {"fps": 2, "window": 2, "stride": 2, "scaling": {"shortest_edge": 224, "crop": 224}, "columns": 10}
OURS = [{"id": "network-a", "weights": "a" * 32, **RECORD}]
OTHERS = [{"id": "network-b", "weights": "b" * 32, **RECORD}]


@pytest.fixture
def warnings(monkeypatch):
    """What is warned of; each text once, as `warning_once` does."""
    said = {}
    monkeypatch.setattr(logging.logging.Logger, "warning_once", lambda self, text: said.setdefault(text), raising=False)
    monkeypatch.setattr(provenance_mmp, "warn_once", said.setdefault)
    return said


def write_features(folder, encoders, video_ids=("v1", "v2", "v3")):
    generator = np.random.default_rng(0)
    rows = [features_to_row(video_id, generator.normal(size=(3, VIDEO_FEATURE_DIM))) for video_id in video_ids]
    write_shard([rows_to_table(rows)], folder / shard_name("train", 0, 1), FEATURES.arrow_schema.remove_metadata())
    if encoders is not None:
        settings = {"format": 2, "encoders": encoders, "per": "second", "num_shards": 1}
        (folder / "extraction.json").write_text(json.dumps(settings))
    return folder


def write_model(folder, encoders):
    tiny_model(video_encoders=encoders).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def test_a_model_keeps_the_record_and_loads_without_one(tmp_path):
    assert MMPModel.from_pretrained(write_model(tmp_path / "new", OURS)).config.video_encoders == OURS
    file = write_model(tmp_path / "old", None) / "config.json"
    config = json.loads(file.read_text())
    assert config.pop("video_encoders") is None
    file.write_text(json.dumps(config))
    assert MMPConfig.from_pretrained(tmp_path / "old").video_encoders is None


@pytest.mark.parametrize("broken", [[], ["s3d"], [{"columns": 512}], [{"id": 7}]])
def test_a_record_that_names_no_network_is_refused(broken):
    with pytest.raises(Exception, match="video_encoders"):
        MMPConfig(video_encoders=broken)


def test_weights_count_for_more_than_names(tmp_path):
    """A network has the same weights under any name and in any file; another precision of the run changes no record."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    weights = network.state_dict()
    renamed = {f"x.{name}": tensor.clone() for name, tensor in reversed(weights.items())}
    assert digest_of_weights(weights.values()) == digest_of_weights(renamed.values())
    network[0].weight.data[0, 0, 0, 0] += 1e-6
    assert digest_of_weights(network.state_dict().values()) != digest_of_weights(renamed.values())


def options(folder, init_from=None, **data):
    model = ModelRecipe(init_from=init_from)
    return Recipe(name="x", output_dir="x", model=model, data=DataRecipe(features=str(folder), **data))


def test_a_new_model_is_made_for_the_features_it_is_trained_on(tmp_path):
    model = tiny_model()
    record_encoders(options(write_features(tmp_path, OURS)), model)
    assert model.config.video_encoders == [OURS[0] | {"per": "second"}]


def test_training_refuses_features_of_another_network(tmp_path, warnings):
    folder, model = write_features(tmp_path, OTHERS), tiny_model(video_encoders=OURS)
    with pytest.raises(PolyvidError) as refused:
        record_encoders(options(folder, "runs/pretrained"), model)
    message = str(refused.value)
    assert "network-a" in message and "network-b" in message and "runs/pretrained" in message and str(folder) in message
    assert "\n" not in message
    record_encoders(options(folder, "runs/pretrained", allow_other_encoders=True), model)
    assert model.config.video_encoders[0]["id"] == "network-b"
    assert len(warnings) == 1


@pytest.mark.parametrize("change", [{"window": 4}, {"fps": 25}, {"scaling": {"shortest_edge": 256, "crop": 224}}])
def test_the_same_network_fed_otherwise_is_refused_too(change, tmp_path):
    folder, model = write_features(tmp_path, [OURS[0] | change]), tiny_model(video_encoders=OURS)
    with pytest.raises(PolyvidError, match=next(iter(change))):
        record_encoders(options(folder, "runs/pretrained"), model)


@pytest.mark.parametrize("of_features, of_model", [(None, OURS), (OURS, None), (None, None)])
def test_what_was_not_recorded_works_with_one_warning(of_features, of_model, tmp_path, warnings):
    folder, model = write_features(tmp_path, of_features), tiny_model(video_encoders=of_model)
    for _ in range(2):
        record_encoders(options(folder, "runs/pretrained"), model)
    assert len(warnings) == 1
    known = of_features or of_model
    assert (model.config.video_encoders or [{}])[0].get("id") == (known and "network-a")


def test_evaluation_refuses_features_of_another_network(tmp_path, warnings):
    model = write_model(tmp_path / "model", OURS)
    folder = write_features(tmp_path / "features", OTHERS)
    captions = [{"caption_id": "0", "language": "en", "text": "a dog", "source": "human"}]
    videos = [{"video_id": video_id, "captions": captions} for video_id in ("v1", "v2", "v3")]
    protocol = {"benchmark": "x", "protocol": "p", "split": "test", "caption_kinds": None, "source": ""}
    protocol["captions_by"] = {"en": ["human"]}

    def opened(allow):
        return OpenedBenchmark("run", 0, videos, ["en"], protocol, VideoFeatures(folder), allow)

    with pytest.raises(PolyvidError, match="network-b.*network-a.*--allow-other-encoders"):
        measure(str(model), opened(False), output=tmp_path / "results", device="cpu")
    assert not (tmp_path / "results" / "results.json").exists()
    measure(str(model), opened(True), output=tmp_path / "results", device="cpu")
    recorded = json.loads((tmp_path / "results" / "results.json").read_text())["video_encoders"]
    assert recorded["others_allowed"] is True
    assert (recorded["of_model"][0]["id"], recorded["of_features"][0]["id"]) == ("network-a", "network-b")


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def test_index_and_search_refuse_features_and_models_of_another_network(tmp_path, capsys):
    ours, others = write_model(tmp_path / "ours", OURS), write_model(tmp_path / "others", OTHERS)
    features, index = write_features(tmp_path / "features", OURS), tmp_path / "videos.safetensors"
    assert run("index", features, index, "--model", others) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "network-a" in line and "network-b" in line and not index.exists()

    assert run("index", features, index, "--model", ours) == 0
    assert VideoIndex.load(index).video_encoders == recorded_encoders(features)
    assert run("search", index, "a dog") == 0
    capsys.readouterr()
    assert run("search", index, "a dog", "--model", others) == 1  # its text tower is the same, its video tower is not
    assert "network-b" in capsys.readouterr().err

    assert run("index", features, index, "--model", others, "--allow-other-encoders") == 0
    loaded = VideoIndex.load(index)
    assert loaded.other_encoders and loaded.video_encoders == recorded_encoders(features)
    assert run("search", index, "a dog") == 0


def test_indexes_of_different_networks_are_not_joined():
    model, processor = tiny_model(), tiny_processor()
    parts = [
        VideoIndex.build(model, {name: np.ones((2, VIDEO_FEATURE_DIM))}, processor=processor, encoders=encoders)
        for name, encoders in (("v1", OURS), ("v2", OTHERS))
    ]
    with pytest.raises(PolyvidError, match="network-a.*network-b"):
        VideoIndex.cat(parts)


def test_imported_features_carry_what_is_declared(tmp_path, capsys):
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "v1.npy", np.ones((3, 10), np.float32))
    command = ["import-features", tmp_path / "shards", tmp_path / "npy", "--width", "10", "--num-shards", "1"]
    assert run(*command) == 0
    assert recorded_encoders(tmp_path / "shards") is None
    assert run(*command, "--encoder", "s3d_howto100m") == 0  # it may be said later
    assert recorded_encoders(tmp_path / "shards") == [{"id": "s3d_howto100m"}]
    assert rows_of(tmp_path / "shards")["v1"].shape == (3, 10)
    assert run(*command, "--encoder", "network-b") == 1
    assert run(*command, "--encoder", "a", "--encoder", "b") == 1
    assert "1 sources need as many --encoder" in capsys.readouterr().err


def test_joined_clips_keep_the_record_and_no_other_features_come_among_them(tmp_path):
    rows = pa.table({"video_id": ["v1", "v2", "v3"], "text": ["a", "b", "c"]})
    write_shard([rows], tmp_path / "dataset" / shard_name("train", 0, 1), rows.schema)
    ours, others = write_features(tmp_path / "ours", OURS), write_features(tmp_path / "others", OTHERS)
    join(tmp_path / "dataset", ours, tmp_path / "joined")
    assert recorded_encoders(tmp_path / "joined") == recorded_encoders(ours)
    with pytest.raises(PolyvidError, match="network-a.*network-b"):
        join(tmp_path / "dataset", others, tmp_path / "joined")


def test_the_card_names_the_networks(tmp_path):
    card = str(model_card(write_model(tmp_path / "model", OURS), "lab/model", []))
    assert "`network-a` (columns 10, fps 2" in card and "are refused" in card


def test_a_folder_of_an_older_version_can_be_continued(tmp_path, warnings):
    before = {"name": "net", "fps": 2, "window": 2, "stride": 2, "scaling": None, "dtype": "float32"}
    old = {"encoders": [before], "per": "second", "num_shards": 1}
    (tmp_path / "extraction.json").write_text(json.dumps(old))
    now = {"format": 2, "encoders": [before | {"id": "net", "weights": "a" * 32, "columns": 10}], "per": "second"}
    FeatureShards(tmp_path, 1).check_settings(now)
    assert len(warnings) == 1
    assert json.loads((tmp_path / "extraction.json").read_text()) == old
    assert recorded_encoders(tmp_path) is None  # half of its features may be of other weights
    with pytest.raises(PolyvidError, match="window"):
        FeatureShards(tmp_path, 1).check_settings(now | {"encoders": [before | {"window": 4}]})


def test_a_damaged_record_is_one_line(tmp_path):
    for content in ('{"format": 2', '{"format": 2, "encoders": [{}]}', "[]", '{"format": 2, "encoders": 7}'):
        (tmp_path / "extraction.json").write_text(content)
        with pytest.raises(PolyvidError, match="is damaged"):
            recorded_encoders(tmp_path)
