"""What an earlier run left: it is kept where it is whole, and only there."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import synthetic_howto100m as synthetic

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.building import atomic_path, load_builder, write_dataset
from polyvid.dataset_scripts.join import join
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.train.errors import explain

PACKAGE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return synthetic.write_release(tmp_path_factory.mktemp("release"), 30, ("de", "fr"))


@pytest.fixture
def built(release, tmp_path):
    build("multi_howto100m", ["de", "fr"], data_dir=release, output_dir=tmp_path / "built", num_shards=2)
    return tmp_path / "built"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def cut_off(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-100])


def remove(shard: Path) -> None:
    shard.unlink()


def drop_a_row(shard: Path) -> None:
    table = pq.read_table(shard)
    pq.write_table(table.slice(1), shard)


@pytest.mark.parametrize("damage", [cut_off, remove, drop_a_row])
def test_a_config_that_is_not_whole_is_built_again(release, built, capsys, damage):
    whole = contents(built / "de")
    damage(built / "de" / "train-00001-of-00002.parquet")
    build("multi_howto100m", ["de", "fr"], data_dir=release, output_dir=built, num_shards=2)
    printed = capsys.readouterr().out
    assert contents(built / "de") == whole
    assert "built again" in printed and "de: built" in printed and "fr: was already there" in printed


def test_the_report_records_rows_and_options(built):
    report = json.loads((built / "reports" / "de.json").read_text())
    assert report["rows"] == {"train": len(synthetic.numbers("de", 30))} and report["options"] == {}


def test_a_config_built_with_other_options_is_not_taken_for_this_one(release, tmp_path):
    languages = ["languages=de,fr"]
    build("multi_howto100m", ["all"], data_dir=release, output_dir=tmp_path / "built", option=languages)
    build("multi_howto100m", ["all"], data_dir=release, output_dir=tmp_path / "built", option=languages)
    with pytest.raises(PolyvidError, match="all was built with the options .*: delete it, or choose another"):
        build("multi_howto100m", ["all"], data_dir=release, output_dir=tmp_path / "built", option=["languages=fr,de"])


def test_a_build_that_cannot_write_its_report_leaves_the_earlier_one(release, built):
    whole = contents(built / "de")
    (built / "reports" / ".de.json.incomplete").mkdir()  # stands for a disk that is full after the last shard
    builder = load_builder("multi_howto100m")(config_name="de", data_dir=str(release))
    with pytest.raises(OSError, match="Could not write .*de .*Nothing was left"):
        write_dataset(builder, built, num_shards=3)
    assert contents(built / "de") == whole


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_names_the_file_that_could_not_be_written(tmp_path):
    with pytest.raises(OSError) as full, atomic_path(tmp_path / "report.json"), open("/dev/full", "w") as file:
        file.write("{}")
    assert explain(full.value) == f"No space left on device, so nothing was written: {tmp_path / 'report.json'}"
    assert not any(tmp_path.iterdir())


def test_leftovers_of_a_killed_run_are_removed(release, built):
    for folder in (".ru.incomplete", ".all.incomplete/multi-howto100m-x"):
        (built / folder).mkdir(parents=True)
        (built / folder / "part").write_bytes(b"x")
    (built / "reports" / ".de.json.incomplete").write_text("{")
    build("multi_howto100m", ["de"], data_dir=release, output_dir=built, num_shards=2)
    assert sorted(path.name for path in built.iterdir()) == ["README.md", "de", "fr", "reports"]
    assert sorted(path.name for path in (built / "reports").iterdir()) == ["de.json", "fr.json"]


@pytest.mark.parametrize("damage", [cut_off, remove, drop_a_row])
def test_a_joined_shard_that_is_not_whole_is_joined_again(built, tmp_path, damage):
    features = synthetic.write_features(tmp_path / "features", range(30))
    join(built / "de", features, tmp_path / "joined")
    whole = contents(tmp_path / "joined")
    damage(tmp_path / "joined" / "train-00001-of-00004.parquet")
    join(built / "de", features, tmp_path / "joined")
    assert contents(tmp_path / "joined") == whole


def test_a_join_with_more_features_than_before_has_them(built, tmp_path):
    join(built / "de", synthetic.write_features(tmp_path / "few", range(10)), tmp_path / "joined")
    features = synthetic.write_features(tmp_path / "all", range(30))
    report = join(built / "de", features, tmp_path / "joined")
    rows = sum(pq.read_metadata(path).num_rows for path in (tmp_path / "joined").glob("*.parquet"))
    assert rows == report["train"]["rows"] == len(synthetic.numbers("de", 30))


def test_making_a_builder_writes_nothing_next_to_the_package(release):
    """datasets puts `dataset_scripts.lock` there, which fails in a `site-packages` that is read only."""
    code = f"""
import datasets.utils.py_utils as utils
from polyvid.dataset_scripts.building import load_builder
seen = []
original = utils.FileLock
utils.FileLock = lambda path, *args, **kwargs: seen.append(str(path)) or original(path, *args, **kwargs)
for name in ("multi_howto100m", "msrvtt", "fluent_emoji_9"):
    builder = load_builder(name)
    builder(config_name=builder.BUILDER_CONFIGS[0].name, data_dir={str(release)!r})
print([path for path in seen if "dataset_scripts" in path])
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"
