"""C2KD's data pack, in files of its format: captions in all its languages, features beside them, counts asserted."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from benchmark_files import read, small
from newer_benchmark_files import NINE, features, write_c2kd

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.building import find_shards, load_builder, read_shard
from polyvid.dataset_scripts.coverage import feature_video_ids
from polyvid.dataset_scripts.features import FEATURES, features_from_row
from polyvid.dataset_scripts.schema import LANGUAGES
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.data.videos import VideoFeatures, load_videos
from polyvid.train.recipe import DataRecipe


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_c2kd(tmp_path_factory.mktemp("data"))


def test_multi_msrvtt_has_twenty_aligned_captions_in_nine_languages_and_one_to_test_with(pack):
    splits = small("c2kd", pack)
    assert {split: list(videos) for split, videos in splits.items()} == {
        "train": [f"video{n}" for n in range(4)],
        "test": [f"video{n}" for n in range(7010, 7013)],
    }
    captions = splits["train"]["video2"]
    assert len(captions) == 20 * 9
    assert [c[2:] for c in captions if c[0] == "7" and c[1] in ("en", "cs")] == [
        ("en 7 of 2", "human"),
        ("cs 7 of 2", "file:msrvtt_train_multilingual.pkl"),
    ]
    assert [(c[0], c[1], c[2]) for c in splits["test"]["video7011"]] == [
        ("0", code, f"{code} of 7011") for code in LANGUAGES
    ]
    assert set(NINE) == set(LANGUAGES)


def test_vatex_captions_are_of_two_sets_of_people(pack):
    train = small("c2kd", pack, "vatex")["train"]
    captions = next(iter(train.values()))
    assert [c[0] for c in captions] == [f"en{k}" for k in range(10)] + [f"zh{k}" for k in range(10)]
    assert {c[3] for c in captions} == {"human"}


def test_multi_youcook2_is_in_nine_languages_with_czech_by_its_code(pack):
    validation = small("c2kd", pack, "youcook2")["validation"]
    assert list(validation) == ["0", "1", "2"]  # ids are texts here
    assert [(c[1], c[2]) for c in validation["1"]] == [
        *((code, f"{'cz' if code == 'cs' else code} of 1") for code in "en de fr cs zh ru vi es ja".split())
    ]
    assert [c[1] for c in small("c2kd", pack, "youcook2", languages=["cz"])["train"]["0"]] == ["cs"]


def test_rudder_keeps_videos_that_lack_a_language(pack):
    test = small("c2kd", pack, "rudder")["test"]
    assert [c[1] for c in test["test0"]] == ["hi", "mr", "ta"]
    assert [c[1] for c in test["test1"]] == "en hi kn ml mr ta te".split()


@pytest.mark.parametrize("network, dim", [("clip", 6), ("s3d", 8)])
@pytest.mark.parametrize("protocol, split", [("msrvtt", "train"), ("youcook2", "validation")])
def test_features_are_joined_into_the_rows(pack, tmp_path, protocol, split, network, dim):
    options = [f"network={network}", "check_counts=false"]
    build("c2kd", [protocol], data_dir=pack, output_dir=tmp_path, num_shards=2, option=options)
    rows = [row for shard in find_shards(tmp_path / protocol, split) for row in read_shard(shard).to_pylist()]
    assert set(rows[0]) == {"video_id", "num_seconds", "video_features", "captions"}  # as `polyvid join` writes them
    row = next(row for row in rows if row["video_id"] in ("video2", "2"))
    np.testing.assert_array_equal(features_from_row(row), features(2, dim).astype(np.float16))
    assert row["captions"][0]["text"].startswith("en ")
    loaded = datasets.load_dataset(str(tmp_path), protocol)
    assert set(loaded[split].column_names) == {*FEATURES, "captions"}


def test_training_reads_captions_from_the_pack_and_features_from_what_was_built(pack, tmp_path):
    build("c2kd", ["msrvtt"], data_dir=pack, output_dir=tmp_path, option=["network=clip", "check_counts=false"])
    data = DataRecipe(dataset="c2kd", config="msrvtt", data_dir=str(pack), check_counts=False)
    found = VideoFeatures(tmp_path / "msrvtt")
    for split in ("train", "test"):
        videos = load_videos(data, split, ["en", "sw"])
        assert all(found[video["video_id"]].shape[1] == 6 for video in videos)
    assert len(found) == 4 + 3
    assert feature_video_ids(tmp_path / "msrvtt") == set(found)  # what `polyvid coverage` counts


def test_videos_without_features_are_left_out_and_reported(pack, tmp_path):
    path = pack / "rudder" / "clip" / "rudder_train.pkl"
    videos = pickle.loads(path.read_bytes())
    videos[1]["2d"] = np.zeros((0, 6), np.float32)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / path.name).write_bytes(pickle.dumps(videos))
    options = ["network=clip", "check_counts=false", "splits=train"]
    build("c2kd", ["rudder"], data_dir=tmp_path / "data", output_dir=tmp_path / "out", option=options)
    report = (tmp_path / "out" / "reports" / "rudder.json").read_text()
    assert '"rows": {\n  "train": 3' in report and '"train1"' in report
    assert len(small("c2kd", tmp_path / "data", "rudder", splits="train")["train"]) == 4  # captions alone


@pytest.mark.parametrize("name, split, count", [("msrvtt", "test", 1000), ("youcook2", "validation", 3350)])
def test_the_counts_that_are_known_are_asserted(pack, name, split, count, tmp_path):
    with pytest.raises(PolyvidError, match=f"expected {count:,} videos, found 3"):
        read("c2kd", pack, name, splits=split)
    also = {"msrvtt": 968, "youcook2": 3339}[name]  # the incomplete copies that the authors' own code knows
    for number in (count, also):
        folder = tmp_path / str(number)
        folder.mkdir()
        key = {"msrvtt": "eval_caption_en", "youcook2": "caption_en"}[name]
        file = load_builder("c2kd")(config_name=name, data_dir=str(pack))._file(split).name
        (folder / file).write_bytes(pickle.dumps([{"id": n, key: "a dog"} for n in range(number)]))
        assert len(read("c2kd", folder, name, splits=split, languages=["en"])[split]) == number


def write_one(folder, entry):
    (folder / "msrvtt_jsfusion_test_multilingual.pkl").write_bytes(pickle.dumps(entry))
    return folder


ENTRY = {"id": "video1", "2d": np.ones((2, 3), np.float32), "eval_caption_en": "a dog"}


class Harmful:
    def __reduce__(self):
        return print, ("the author's code",)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"video1": ENTRY}, "holds a dict, not a list of videos"),
        ([{"2d": ENTRY["2d"]}], r"test_multilingual.pkl, video 0: expected a dict with the key 'id'"),
        ([ENTRY, ENTRY], r"video 1 \(video1\): this id is in the file twice"),
        ([{"id": "video1", "2d": 0}], r"video 0 \(video1\): there is no eval_caption_en, only 2d id"),
        ([ENTRY | {"eval_caption_en": 3.5}], "its en caption is a float, not text"),
        ([ENTRY | {"2d": np.ones(3, np.float32)}], r"the features '2d' are \(3,\), not an array \(rows, dim\)"),
        ([{key: ENTRY[key] for key in ("id", "eval_caption_en")}], "there are no features '2d', only eval_capt"),
        ([ENTRY | {"2d": np.full((2, 3), np.nan, np.float32)}], "Features of video video1 hold NaN"),
        ([ENTRY | {"audio": Harmful()}], "asks for builtins.print"),
    ],
)  # fmt: skip
def test_what_is_no_pack_is_refused_in_one_line(tmp_path, capsys, content, message):
    write_one(tmp_path, content)
    with pytest.raises(PolyvidError, match=message) as caught:
        small("c2kd", tmp_path, "msrvtt", splits="test", languages=["en"], network="clip")
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_network_or_file_that_is_not_there_is_named(pack, tmp_path):
    with pytest.raises(PolyvidError, match="c2kd has no option 'net': choose from languages .* network.$"):
        small("c2kd", pack, "vatex", net="clip")
    with pytest.raises(PolyvidError, match="no features of 's3d' for vatex: choose from clip"):
        small("c2kd", pack, "vatex", network="s3d")
    with pytest.raises(FileNotFoundError, match="no rudder/clip/rudder_train.pkl or clip/rudder_train.pkl or"):
        small("c2kd", tmp_path, "rudder", network="clip")


@pytest.mark.skipif(int(datasets.__version__.split(".")[0]) >= 4, reason="runs no scripts")
def test_the_folder_is_a_loading_script(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    scripts = Path(__file__).parents[2] / "dataset_scripts" / "c2kd"
    options = {"data_dir": str(pack), "check_counts": False, "trust_remote_code": True, "network": "clip"}
    loaded = datasets.load_dataset(str(scripts), "youcook2", **options)
    assert {split: len(loaded[split]) for split in loaded} == {"train": 4, "validation": 3}
