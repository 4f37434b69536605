"""The feature column, and joining features with subtitles."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_howto100m as synthetic
from datasets import load_dataset

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.building import shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_from_row, features_to_row, rows_to_table
from polyvid.dataset_scripts.join import join
from polyvid.modeling.errors_mmp import PolyvidError

NUM_VIDEOS = 50
WITH_FEATURES = range(10, NUM_VIDEOS + 5)  # ten videos lack features, five have nothing else


@pytest.fixture(scope="module")
def subtitles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subtitles")
    release = synthetic.write_release(folder / "raw", NUM_VIDEOS, ("en", "de"))
    options = ["languages=en,de"]
    build("multi_howto100m", ["all", "de"], data_dir=release, output_dir=folder, num_shards=4, option=options)
    return folder


def features_folder(folder, num_shards):
    return synthetic.write_features(folder, WITH_FEATURES, num_shards)


def read(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_array_comes_back_as_it_was():
    array = np.random.default_rng(0).normal(size=(40, 1024)).astype(np.float32)
    row = features_to_row("v", array)
    assert row["num_seconds"] == 40 and len(row["video_features"]) == 40 * 1024 * 2
    np.testing.assert_array_equal(features_from_row(row), array.astype(np.float16))
    np.testing.assert_array_equal(
        features_from_row(features_to_row("v", array.astype(">f4")[:, ::-1])), array.astype(np.float16)[:, ::-1]
    )


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros(1024), r"video v must be \[num_seconds, dim\], not \[1024\]"),
        (np.zeros((0, 1024)), r"not \[0, 1024\]"),
        (np.full((2, 4), np.nan), "video v hold NaN"),
        (np.full((2, 4), 70000.0), "beyond float16"),
    ],
)
def test_arrays_that_are_no_features_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        features_to_row("v", array)


def test_cut_off_buffer_is_refused():
    row = features_to_row("v", np.zeros((3, 8)))
    with pytest.raises(ValueError, match="video v: 47 bytes are not 3 float16 rows"):
        features_from_row(row | {"video_features": row["video_features"][:-1]})


def test_feature_shards_load_with_datasets(tmp_path):
    folder = features_folder(tmp_path / "features", 2)
    loaded = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features == FEATURES
    for row in loaded:
        np.testing.assert_array_equal(features_from_row(row), synthetic.features(int(row["video_id"][:7])))


@pytest.mark.parametrize("num_shards", [1, 4, 8])
def test_join_has_every_video_of_both_sides_once(subtitles, tmp_path, num_shards):
    report = join(subtitles / "all", features_folder(tmp_path / "features", num_shards), tmp_path / "joined")
    rows = read(tmp_path / "joined")
    assert len(list((tmp_path / "joined").glob("*.parquet"))) == max(num_shards, 4)
    assert sorted(row["video_id"] for row in rows) == [synthetic.video_id(n) for n in range(10, NUM_VIDEOS)]
    for row in rows:
        number = int(row["video_id"][:7])
        np.testing.assert_array_equal(features_from_row(row), synthetic.features(number))
        assert row["en"] == synthetic.subtitles("en", number)
        assert row["de"]["text"] == (
            synthetic.subtitles("de", number)["text"] if synthetic.has_subtitles("de", number) else []
        )
    assert report == {
        "train": {
            "rows": NUM_VIDEOS - 10,
            "without_features": [synthetic.video_id(n) for n in range(10)],
            "without_rows": [synthetic.video_id(n) for n in range(NUM_VIDEOS, NUM_VIDEOS + 5)],
            "features_twice": [],
        }
    }
    assert json.loads((tmp_path / "joined" / "join_report.json").read_text()) == report


def test_stopped_join_resumes(subtitles, tmp_path):
    features = features_folder(tmp_path / "features", 8)
    join(subtitles / "all", features, tmp_path / "whole")
    join(subtitles / "all", features, tmp_path / "stopped")
    shards = sorted((tmp_path / "stopped").glob("*.parquet"))
    kept = {path: path.stat().st_mtime_ns for path in shards[:3]}
    for path in shards[3:]:
        path.unlink()
    (tmp_path / "stopped" / f".{shards[3].name}.incomplete").write_bytes(b"PAR1 half a shard")
    (tmp_path / "stopped" / "join_report.json").unlink()
    join(subtitles / "all", features, tmp_path / "stopped")
    assert {path: path.stat().st_mtime_ns for path in shards[:3]} == kept
    assert {path.name: path.read_bytes() for path in (tmp_path / "stopped").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }


def test_features_that_come_twice_are_reported_and_the_first_used(subtitles, tmp_path):
    rows = [features_to_row(synthetic.video_id(20), np.full((3, 4), value)) for value in (1, 2)]
    write_shard([rows_to_table(rows)], tmp_path / shard_name("train", 0, 1), FEATURES.arrow_schema.remove_metadata())
    report = join(subtitles / "all", tmp_path, tmp_path / "joined")
    (row,) = read(tmp_path / "joined")
    assert features_from_row(row).max() == 1
    assert report["train"]["features_twice"] == [synthetic.video_id(20)]


def test_what_cannot_be_joined_is_refused(subtitles, tmp_path):
    features = features_folder(tmp_path / "features", 3)
    with pytest.raises(ValueError, match="4 shards in .* and 3 in .* do not join"):
        join(subtitles / "all", features, tmp_path / "joined")
    (features / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 of 3 shards, the first is train-00001-of-00003.parquet"):
        join(subtitles / "all", features, tmp_path / "joined")
    with pytest.raises(FileNotFoundError, match="There is no folder of shards at '.*nowhere'"):
        join(tmp_path / "nowhere", features, tmp_path / "joined")
    with pytest.raises(PolyvidError, match="both have a column 'num_seconds': join a dataset of subtitles or captions"):
        join(features_folder(tmp_path / "others", 3), features_folder(tmp_path / "again", 3), tmp_path / "joined")
    assert not list((tmp_path / "joined").glob("*.parquet"))


def test_failure_while_a_shard_is_written_leaves_none(tmp_path):
    def tables():
        yield rows_to_table([features_to_row("v", np.zeros((2, 4)))])
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_shard(tables(), tmp_path / "train-00000-of-00001.parquet", FEATURES.arrow_schema.remove_metadata())
    assert list(tmp_path.iterdir()) == []
    assert isinstance(rows_to_table([]), pa.Table)
