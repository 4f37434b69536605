"""Features people already have become the shards `polyvid extract` would have made."""

import json
import pickle

import numpy as np
import pytest
import synthetic_howto100m as synthetic
import typer
from lock_holder import held_elsewhere
from shard_files import rows_of

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.join import join
from polyvid.dataset_scripts.locking import LockedError
from polyvid.dataset_scripts.multi30k.regions import convert_regions
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.extraction import shards
from polyvid.train.extraction.import_features import import_features, open_source, to_seconds

RNG = np.random.default_rng(0)
ARRAYS = {f"video{index}": RNG.standard_normal((3 + index, 4)).astype(np.float32) for index in range(5)}


def save(arrays, path):
    """Writes `arrays` in the format of the path's suffix."""
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(arrays))
    elif path.suffix == ".h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            for video_id, array in arrays.items():
                file[video_id] = array
    else:
        path.mkdir()
        for video_id, array in arrays.items():
            np.save(path / f"{video_id}.npy", array)
    return path


def failures_of(folder):
    lines = (folder / "failures.jsonl").read_text().splitlines()
    return {failure["video_id"]: failure["reason"] for failure in map(json.loads, lines)}


@pytest.mark.parametrize("name", ["npy", "dict.pkl", "file.h5"])
def test_three_formats_one_result(name, tmp_path):
    source = save(ARRAYS, tmp_path / name)
    import_features(tmp_path / "out", [source], num_shards=2, width=4)
    rows = rows_of(tmp_path / "out")
    assert rows.keys() == ARRAYS.keys()
    assert all(np.array_equal(rows[video_id], ARRAYS[video_id].astype(np.float16)) for video_id in ARRAYS)


def test_groups_with_a_dataset_called_features(tmp_path):
    with pytest.importorskip("h5py").File(tmp_path / "file.h5", "w") as file:
        file["abc/features"] = ARRAYS["video0"]
    assert np.array_equal(open_source(tmp_path / "file.h5")["abc"](), ARRAYS["video0"])


def test_two_sources_are_concatenated(tmp_path):
    one_less = {video_id: array[:-1] for video_id, array in ARRAYS.items()}  # the last, broken second
    sources = [save(ARRAYS, tmp_path / "r2plus1d"), save(one_less, tmp_path / "s3d.pkl")]
    import_features(tmp_path / "out", sources, num_shards=1, width=8)
    expected = np.concatenate([ARRAYS["video3"][:-1]] * 2, axis=1).astype(np.float16)
    assert np.array_equal(rows_of(tmp_path / "out")["video3"], expected)


def test_several_vectors_a_second_are_averaged():
    features = np.arange(10.0).reshape(5, 2)
    assert to_seconds(features, rate=2).tolist() == [[1, 2], [5, 6], [8, 9]]
    # 1.5 a second: vectors start at 0, 2/3, 4/3, 2, 8/3
    assert to_seconds(features, rate=1.5).tolist() == [[1, 2], [4, 5], [7, 8]]
    assert to_seconds(features[None], rate=1).tolist() == features.tolist()  # a batch dimension of one


def test_what_does_not_fit_is_refused_with_the_reason(tmp_path):
    arrays = ARRAYS | {
        "flat": np.zeros(4, np.float32),
        "none": np.zeros((0, 4), np.float32),
        "wide": np.zeros((3, 5), np.float32),
        "nan": np.full((3, 4), np.nan, np.float32),
        "fast": np.zeros((20, 4), np.float32),
    }
    source = save(arrays, tmp_path / "npy")
    (source / "damaged.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "durations.csv").write_text("video_id,seconds\nvideo0,3.4\nfast,10\n")
    import_features(tmp_path / "out", [source], num_shards=2, width=4, durations=tmp_path / "durations.csv")
    assert rows_of(tmp_path / "out").keys() == ARRAYS.keys()
    reasons = failures_of(tmp_path / "out")
    assert "shape [4]" in reasons["flat"]
    assert "shape [0, 4]" in reasons["none"]
    assert reasons["wide"] == "width 5, expected 4"
    assert "NaN" in reasons["nan"]
    assert "unreadable" in reasons["damaged"]
    assert reasons["fast"] == (
        "20 seconds of features for a video of 10 s: the rate is rather 2 a second than 1"
    )  # fmt: skip


class Harmful:
    def __reduce__(self):
        return print, ("code of the file's author",)


def test_a_pickle_runs_no_code(tmp_path, capsys):
    (tmp_path / "dict.pkl").write_bytes(pickle.dumps({"video": Harmful()}))
    with pytest.raises(ValueError, match="asks for builtins.print, which could run a program: only dicts"):
        open_source(tmp_path / "dict.pkl")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("list.pkl", pickle.dumps([1, 2]), "holds a list, not a dict"),
        ("cut.pkl", pickle.dumps(ARRAYS)[:100], "not a whole pickle of arrays"),
        ("text.h5", b"no HDF5", "Cannot read"),
        ("features.mat", b"MATLAB", "give a folder of .npy files"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path, name, content, reason):
    if name.endswith(".h5"):
        pytest.importorskip("h5py")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        open_source(tmp_path / name)


def test_wrong_arguments(tmp_path):
    source = save(ARRAYS, tmp_path / "npy")
    with pytest.raises(FileNotFoundError):
        open_source(tmp_path / "absent")
    with pytest.raises(ValueError, match="--rate must be at least one"):
        import_features(tmp_path / "out", [source], rate=0.5)
    (tmp_path / "durations.csv").write_text("video_id,seconds\nvideo0,long\n")
    with pytest.raises(ValueError, match="durations.csv, line 2"):
        import_features(tmp_path / "out", [source], durations=tmp_path / "durations.csv")
    with pytest.raises(typer.Exit):  # every video failed: width 4, expected 1024
        import_features(tmp_path / "out", [source])


def test_shards_of_features_and_of_other_things_never_share_a_folder(tmp_path, monkeypatch):
    """Their files have the same names: whichever came later replaced the other's."""
    release = synthetic.write_release(tmp_path / "release", 12, ("de",))
    build("multi_howto100m", ["de"], data_dir=release, output_dir=tmp_path / "built", num_shards=2)
    arrays = save({synthetic.video_id(n): np.ones((3, 4), np.float32) for n in range(12)}, tmp_path / "npy")
    features, joined = tmp_path / "features", tmp_path / "joined"
    import_features(features, [arrays], num_shards=2, width=4)
    join(tmp_path / "built" / "de", features, joined)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}

    with pytest.raises(PolyvidError, match="train-0000.-of-00002.parquet holds more than features: choose another"):
        import_features(joined, [arrays], num_shards=2, width=4)
    with pytest.raises(PolyvidError, match="features would be joined into itself: choose another folder"):
        join(tmp_path / "built" / "de", features, features)
    with pytest.raises(PolyvidError, match="de would be joined into itself"):
        join(tmp_path / "built" / "de", features, tmp_path / "built" / "de")
    import_features(tmp_path / "others", [arrays], num_shards=2, width=4)
    before |= {path: path.read_bytes() for path in (tmp_path / "others").glob("*.parquet")}
    with pytest.raises(PolyvidError, match="others holds features of `polyvid extract` or `import-features`: choose"):
        join(tmp_path / "built" / "de", features, tmp_path / "others")
    with pytest.raises(PolyvidError, match="others holds features of `polyvid extract` or `import-features`: choose"):
        convert_regions(save({"image": np.ones((2, 4), np.float32)}, tmp_path / "regions"), tmp_path / "others", dim=4)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before


def test_features_wait_for_the_folder_that_another_command_fills(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "WAIT", 0.0)
    arrays = save(ARRAYS, tmp_path / "npy")
    with held_elsewhere(tmp_path / "out"), pytest.raises(LockedError, match="is being written by `polyvid build`"):
        import_features(tmp_path / "out", [arrays], num_shards=2, width=4)
    assert not (tmp_path / "out").exists()
