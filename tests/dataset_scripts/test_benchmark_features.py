"""Features of benchmarks: which videos have any, and region features of images from the formats people have."""

import base64
import json

import datasets
import numpy as np
import pytest
from benchmark_files import write_msrvtt, write_test_pairs

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.building import ShardedWriter, shard_name, write_shard
from polyvid.dataset_scripts.coverage import coverage, feature_coverage, feature_video_ids
from polyvid.dataset_scripts.features import FEATURES, features_from_row, features_to_row, rows_to_table
from polyvid.dataset_scripts.join import join
from polyvid.dataset_scripts.multi30k.regions import convert_regions, read_regions

DIM = 8


def test_videos_without_features_are_counted_listed_and_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_test_pairs(tmp_path, list(range(1000)))
    table = rows_to_table(features_to_row(f"video{n}", np.ones((2, 4))) for n in range(968))
    write_shard([table], tmp_path / "features" / shard_name("train", 0, 1), table.schema)
    assert len(feature_video_ids(tmp_path / "features")) == 968
    report = tmp_path / "report.json"
    coverage("vtt", data_dir=tmp_path, features=tmp_path / "features", split=["test"], output=report)
    assert "| test | 1,000 | 968 (96.8 %) | 1,000 | 968 |" in capsys.readouterr().out
    written = json.loads(report.read_text())["test"]
    assert (written["videos"], written["with_features"], len(written["missing"])) == (1000, 968, 32)
    assert written["missing"][0] == "video968"


def test_a_restricted_split_keeps_only_rows_with_features():
    rows = [{"video_id": v, "captions": [{}] * n} for v, n in (("a", 2), ("b", 3), ("c", 1))]
    kept, report = feature_coverage({"test": rows}, {"a", "c"})
    assert [row["video_id"] for row in kept["test"]] == ["a", "c"]
    assert (report["test"].captions, report["test"].captions_with_features, report["test"].missing) == (6, 3, ["b"])


def test_a_built_benchmark_joins_with_features_and_the_report_lists_who_lacks_them(tmp_path):
    raw, built = tmp_path / "raw", tmp_path / "built"
    raw.mkdir()
    write_msrvtt(raw, {"train": range(5), "validate": range(5, 7), "test": range(7, 9)})
    write_test_pairs(raw, [7, 8])
    build("msrvtt", ["1k-A"], data_dir=raw, output_dir=built, num_shards=1, option=["check_counts=false"])
    arrays = {f"video{n}": np.full((n + 1, 4), n, np.float16) for n in (0, 2, 4, 5, 8)}
    with ShardedWriter(tmp_path, FEATURES, num_shards=2) as writer:
        writer.write(rows_to_table(features_to_row(name, array) for name, array in arrays.items()))
    report = join(built / "1k-A", tmp_path, tmp_path / "joined")
    assert {split: r["without_features"] for split, r in report.items()} == {
        "train": ["video1", "video3"],
        "validation": ["video6"],
        "test": ["video7"],
    }
    joined = datasets.load_dataset(str(tmp_path / "joined"), cache_dir=str(tmp_path / "cache"))
    assert sorted(joined["train"]["video_id"]) == ["video0", "video2", "video4"]
    [row] = joined["test"]
    assert row["captions"][0]["text"] == "caption 2 of clip 8"
    np.testing.assert_array_equal(features_from_row(row), arrays["video8"])


# --- regions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return {name: rng.random((count, DIM), dtype=np.float32) for name, count in (("11", 4), ("22", 4), ("33", 4))}


def write_tsv(file, images):
    def encode(array):
        return base64.b64encode(array.tobytes()).decode()

    rows = [
        [name, "500", "333", str(len(regions)), encode(np.zeros((len(regions), 4), np.float32)), encode(regions)]
        for name, regions in images.items()
    ]
    file.write_text("".join("\t".join(row) + "\n" for row in rows))


def write_format(kind, folder, images):
    folder.mkdir()
    if kind == "tsv":
        write_tsv(folder / "flickr30k_train.tsv.0", dict(list(images.items())[:2]))
        write_tsv(folder / "flickr30k_train.tsv.1", dict(list(images.items())[2:]))
    elif kind == "one npy":
        np.save(folder / "ims.npy", np.stack(list(images.values())))
        (folder / "names.txt").write_text("".join(f"{name}.jpg\n" for name in images))
        return folder / "ims.npy", folder / "names.txt"
    for name, regions in images.items():
        if kind == "npz":
            np.savez(folder / f"{name}.jpg.npz", x=regions.T, bbox=np.zeros((len(regions), 4)))
        elif kind == "npy":
            np.save(folder / f"{name}.npy", regions)
    return folder, None


@pytest.mark.parametrize("kind", ["tsv", "npz", "npy", "one npy"])
def test_regions_are_read_alike_from_every_format(kind, tmp_path, images):
    path, names = write_format(kind, tmp_path / "raw", images)
    found = dict(read_regions(path, names, DIM))
    assert list(found) == list(images)
    for name in images:
        np.testing.assert_array_equal(found[name], images[name])


def test_converted_regions_are_a_feature_dataset_with_regions_for_seconds(tmp_path, images):
    path, _ = write_format("tsv", tmp_path / "raw", images)
    assert convert_regions(path, tmp_path / "out", max_regions=3, dim=DIM) == 3
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["video_id"][:] == ["11", "22", "33"]
    np.testing.assert_allclose(features_from_row(rows[1]), images["22"][:3], rtol=1e-3)


def test_a_cut_off_or_strange_region_file_is_named_and_leaves_nothing_half_written(tmp_path, images):
    write_tsv(tmp_path / "cut.tsv", images)
    (tmp_path / "cut.tsv").write_text((tmp_path / "cut.tsv").read_text()[:-60])
    with pytest.raises(ValueError, match=r"cut\.tsv, line 3: not a row of region features"):
        convert_regions(tmp_path / "cut.tsv", tmp_path / "out", dim=DIM)
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(ValueError, match=r"image 7: expected features \(regions, 8\), found \(3, 5\)"):
        dict(read_regions(write_format("npy", tmp_path / "x", {"7": np.zeros((3, 5), np.float32)})[0], dim=DIM))
    (tmp_path / "z").mkdir()
    np.savez(tmp_path / "z" / "1.npz", boxes=np.zeros(4))
    with pytest.raises(ValueError, match=r"1\.npz: cannot be read \(none of features, x, arr_0 in it, only boxes\)"):
        dict(read_regions(tmp_path / "z", dim=DIM))
    with pytest.raises(ValueError, match="pass the list of image names"):
        dict(read_regions(write_format("one npy", tmp_path / "one", images)[0], dim=DIM))
    with pytest.raises(FileNotFoundError, match="No .tsv, .npz or .npy"):
        dict(read_regions(tmp_path / "nowhere", dim=DIM))
