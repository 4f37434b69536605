"""Every dataset, in both ways of loading it: as a loading script (datasets 3.6), and as a builder (any version).

Multi-HowTo100M has tests of its own for this, and so have MSR-VTT and C2KD's pack.
"""

import csv
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_files import write_msvd, write_multi30k, write_vatex
from newer_benchmark_files import write_activitynet, write_didemo, write_lsmdc, write_xm3600

from polyvid.dataset_scripts.building import known_datasets, load_builder, write_dataset
from polyvid.dataset_scripts.fluent_emoji_9.fluent_emoji_9 import STYLES, clip_path
from polyvid.dataset_scripts.protocols import XM3600_LANGUAGES
from polyvid.dataset_scripts.tux8.stamps import CAPTIONS

SCRIPTS = Path(__file__).parents[2] / "dataset_scripts"
RUNS_SCRIPTS = int(datasets.__version__.split(".")[0]) < 4


def write_stamps(folder: Path) -> None:
    """What `polyvid fetch tux8` leaves, of two stamps, with other bytes in place of the clips."""
    (folder / "clips").mkdir()
    rows = []
    for video_id, languages in (("animals-swan", ("en", "de", "sr-Latn")), ("food-apple", ("en", "zh-TW"))):
        (folder / "clips" / f"{video_id}.mp4").write_bytes(video_id.encode())
        category = video_id.split("-")[0]
        rows += [(video_id, category, "photo", language, f"{video_id} in {language}") for language in languages]
    table = pa.Table.from_pylist([dict(zip(CAPTIONS.names, row, strict=True)) for row in rows], CAPTIONS)
    pq.write_table(table, folder / "captions.parquet")


def write_styles(folder: Path) -> None:
    """What `polyvid fetch fluent_emoji_9` leaves, with empty clips."""
    with open(SCRIPTS / "fluent_emoji_9" / "splits.csv", newline="") as file:
        concepts = [row["video_id"] for row in csv.DictReader(file)]
    for style in STYLES[1:]:
        (folder / style).mkdir()
        for concept in concepts:
            clip_path(folder, style, concept).touch()


WRITERS = {
    ("vatex", "official"): lambda folder: write_vatex(folder, 3, 4),
    ("multi30k", "both"): lambda folder: write_multi30k(folder, {"train": 3, "val": 2, "test": 2}),
    ("msvd", "standard"): lambda folder: write_msvd(folder, 1310),
    ("xm3600", "all"): lambda folder: write_xm3600(folder, list(XM3600_LANGUAGES), 2, 4 * 36 - 1),
    ("activitynet", "val1"): lambda folder: write_activitynet(folder, 3, 2),
    ("didemo", "paragraph"): lambda folder: write_didemo(folder, {"train": 3, "val": 2, "test": 2}),
    ("lsmdc", "1k"): lambda folder: write_lsmdc(folder, 3),
    ("tux8", "tux_all"): write_stamps,
    ("fluent_emoji_9", "unseen_style"): write_styles,
    ("emoji_motion", "order"): lambda folder: None,  # all that it needs is part of this package
}


def cases():
    return [pytest.param(*key, marks=pytest.mark.slow if key[0] == "fluent_emoji_9" else ()) for key in WRITERS]


@pytest.mark.parametrize(("name", "config"), cases())
def test_loading_script_builder_and_parquet_hold_the_same_rows(name, config, tmp_path):
    given, cache = tmp_path / "given", str(tmp_path / "cache")
    given.mkdir()
    WRITERS[name, config](given)
    options = {"data_dir": str(given)} | ({"check_counts": False} if "emoji" not in name else {})
    builder = load_builder(name)(config_name=config, cache_dir=cache, **options)
    builder.download_and_prepare()
    built = builder.as_dataset()
    write_dataset(load_builder(name)(config_name=config, **options), tmp_path / "out")
    files = {split: f"{tmp_path}/out/{config}/{split}-*.parquet" for split in built}  # as the cards name them
    loaded = {"Parquet": datasets.load_dataset("parquet", data_files=files, cache_dir=cache)}
    if RUNS_SCRIPTS:
        script = str(SCRIPTS / name)
        loaded["script"] = datasets.load_dataset(script, config, cache_dir=cache, trust_remote_code=True, **options)
    for splits in loaded.values():
        assert {split: rows.num_rows for split, rows in splits.items()} == built.num_rows
        for split, rows in built.items():
            assert rows.num_rows > 0
            assert splits[split].data.table.equals(rows.data.table)


def test_every_dataset_is_loaded_in_these_ways():
    elsewhere = {"c2kd", "msrvtt", "multi_howto100m"}
    here = {name for name, _ in WRITERS}
    assert here | elsewhere == set(known_datasets())
