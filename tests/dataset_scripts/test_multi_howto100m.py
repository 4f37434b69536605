"""Multi-HowTo100M: what is in the JSON is in the rows, and whatever is wrong with the JSON is said or counted."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import synthetic_howto100m as synthetic
from datasets import load_dataset
from peak_memory import PEAK_MEMORY

from polyvid.dataset_scripts.build import build
from polyvid.dataset_scripts.building import load_builder, write_dataset
from polyvid.dataset_scripts.multi_howto100m import subtitle_json
from polyvid.dataset_scripts.multi_howto100m.subtitle_json import RepairReport, SubtitleFileError, read_subtitles
from polyvid.dataset_scripts.schema import LANGUAGES, shard_of

SCRIPT = Path(__file__).parents[2] / "dataset_scripts" / "multi_howto100m"
SCRIPTS_RUN = int(datasets.__version__.split(".")[0]) < 4
NUM_VIDEOS = 60
GOOD = {"text": ["eins", "zwei"], "start": [0.5, 3.25], "end": [3.0, 6.75]}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return synthetic.write_release(tmp_path_factory.mktemp("release"), NUM_VIDEOS)


@pytest.fixture(scope="module")
def built(release, tmp_path_factory):
    """All kinds of configs as Parquet, by the command."""
    folder = tmp_path_factory.mktemp("built")
    build("multi_howto100m", ["de", "cz", "all", "howto100m"], data_dir=release, output_dir=folder, num_shards=4)
    return folder


def rows_of(path: Path) -> tuple[list[dict], RepairReport]:
    report = RepairReport(str(path))
    return [row for table in read_subtitles(path, report) for row in table.to_pylist()], report


def write(path: Path, content: str | bytes | dict) -> Path:
    content = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def is_all(row: dict, languages=LANGUAGES) -> bool:
    number, nothing = int(row["video_id"][:7]), {"text": [], "start": [], "end": []}
    return all(
        row[language]
        == (synthetic.subtitles(language, number) if synthetic.has_subtitles(language, number) else nothing)
        for language in languages
    )


# --- what users do ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SCRIPTS_RUN, reason="datasets >= 4 runs no scripts")
def test_loading_script_gives_the_rows_of_the_json(release, tmp_path):
    german = load_dataset(
        str(SCRIPT), "de", data_dir=str(release), split="train", trust_remote_code=True, cache_dir=str(tmp_path)
    )
    truth = json.loads((release / "how2_de.json").read_text())
    assert german["video_id"] == list(truth)  # the order too
    assert [{name: row[name] for name in GOOD} for row in german] == list(truth.values())

    streamed = load_dataset(
        str(SCRIPT), "cz", data_dir=str(release), split="train", trust_remote_code=True, streaming=True
    )
    assert [row["video_id"] for row in streamed] == list(json.loads((release / "how2_cs.json").read_text()))


@pytest.mark.skipif(SCRIPTS_RUN, reason="datasets 3.6 runs scripts")
def test_newer_datasets_use_the_same_file_as_a_builder(release, tmp_path):
    with pytest.raises(RuntimeError, match="scripts are no longer supported"):
        load_dataset(str(SCRIPT), "de", data_dir=str(release))
    builder = load_builder("multi_howto100m")(config_name="cz", data_dir=str(release), cache_dir=str(tmp_path))
    builder.download_and_prepare()
    truth = json.loads((release / "how2_cs.json").read_text())
    assert list(builder.as_dataset(split="train")["video_id"]) == list(truth)


@pytest.mark.parametrize(
    "config, file", [("de", "how2_de.json"), ("cs", "how2_cs.json"), ("howto100m", "raw_caption.json")]
)
def test_built_dataset_loads_without_any_code(built, release, tmp_path, config, file):
    loaded = load_dataset(str(built), config, split="train", cache_dir=str(tmp_path))
    truth = json.loads((release / file).read_text())
    assert {row["video_id"]: {name: row[name] for name in GOOD} for row in loaded} == truth
    streamed = load_dataset(str(built), config, split="train", streaming=True)
    assert [row["video_id"] for row in streamed] == list(loaded["video_id"])


def test_all_has_one_row_per_video_with_every_language(built, tmp_path):
    rows = list(load_dataset(str(built), "all", split="train", cache_dir=str(tmp_path)))
    assert sorted(row["video_id"] for row in rows) == [synthetic.video_id(number) for number in range(NUM_VIDEOS)]
    assert all(is_all(row) for row in rows)
    assert any(row["sw"]["text"] == [] for row in rows)


def test_all_in_many_partitions_is_the_same(release, tmp_path, monkeypatch):
    module = sys.modules[load_builder("multi_howto100m").__module__]
    monkeypatch.setattr(module, "PARTITION_BYTES", 20_000)  # 64 partitions of this small release
    builder = load_builder("multi_howto100m")(
        config_name="all", data_dir=str(release), languages=["en", "cz", "zh"], cache_dir=str(tmp_path / "cache")
    )
    assert write_dataset(builder, tmp_path, num_shards=4) == {"train": NUM_VIDEOS}
    shards = [pq.read_table(path) for path in sorted((tmp_path / "all").glob("*.parquet"))]
    assert shards[0].column_names == ["video_id", "en", "cs", "zh"]
    rows = [row for shard in shards for row in shard.to_pylist()]
    assert len(rows) == NUM_VIDEOS and all(is_all(row, ("en", "cs", "zh")) for row in rows)
    assert not list((tmp_path / "cache").glob("multi-howto100m-*")), "the spilled rows are removed"


def test_videos_are_in_the_shard_of_their_id(built):
    for config in ("de", "cs", "all", "howto100m"):
        for index, path in enumerate(sorted((built / config).glob("train-*-of-00004.parquet"))):
            ids = pq.read_table(path, columns=["video_id"])["video_id"].to_pylist()
            assert ids and {shard_of(video_id, 4) for video_id in ids} == {index}


def test_howto100m_has_its_categories(built):
    row = load_dataset(str(built), "howto100m", split="train", streaming=True).take(1)
    row = next(iter(row))
    number = int(row["video_id"][:7])
    assert (row["category_1"], row["category_2"]) == ("Food, Drinks", "Recipes")
    assert (row["rank"], row["task_id"]) == (number % 200 + 1, number)


def test_card_lists_what_was_built_and_a_second_run_builds_only_the_rest(release, tmp_path, capsys):
    build("multi_howto100m", ["de"], data_dir=release, output_dir=tmp_path)
    first = (tmp_path / "de" / "train-00000-of-00001.parquet").stat().st_mtime_ns
    build("multi_howto100m", ["de", "ru", "sw"], data_dir=release, output_dir=tmp_path)
    assert (tmp_path / "de" / "train-00000-of-00001.parquet").stat().st_mtime_ns == first
    assert "de: was already there" in capsys.readouterr().out
    assert datasets.get_dataset_config_names(str(tmp_path)) == ["de", "ru", "sw"]
    assert json.loads((tmp_path / "reports" / "ru.json").read_text())["ru"]["reasons"] == {}


@pytest.mark.slow
def test_two_processes_build_the_same_as_one(built, release, tmp_path):
    build("multi_howto100m", ["de", "cs"], data_dir=release, output_dir=tmp_path, num_shards=4, num_proc=2)
    for config in ("de", "cs"):
        for shard in (tmp_path / config).iterdir():
            assert shard.read_bytes() == (built / config / shard.name).read_bytes()


def test_shards_aim_at_500_megabytes_in_powers_of_two(release, monkeypatch):
    builder = load_builder("multi_howto100m")(config_name="de", data_dir=str(release))
    sizes = {16e9: 16, 1e9: 1, 1.7e9: 2, 100: 1}
    for size, shards in sizes.items():
        monkeypatch.setattr("os.path.getsize", lambda path, size=size: size)
        assert builder.default_num_shards == shards


# --- bad input: repaired or skipped, and counted ---------------------------------------------------------------------

UNUSABLE = [
    ("null_text", {"text": [None, "zwei"]}, 1),
    ("null_text", {"text": [float("nan"), "zwei"]}, 1),
    ("null_text", {"text": [7, "zwei"]}, 1),
    ("empty_text", {"text": ["", "zwei"]}, 1),
    ("empty_text", {"text": [" \n\u00a0", "zwei"]}, 1),
    ("missing_time", {"start": [None, 3.25]}, 1),
    ("missing_time", {"end": [float("nan"), 6.75]}, 1),
    ("missing_time", {"end": [float("inf"), 6.75]}, 1),
    ("missing_time", {"start": ["0.5", 3.25]}, 1),
    ("end_before_start", {"end": [0.25, 6.75]}, 1),
]


@pytest.mark.parametrize("reason, change, subtitles", UNUSABLE)
def test_unusable_subtitle_is_left_out_and_counted(tmp_path, reason, change, subtitles):
    rows, report = rows_of(write(tmp_path / "how2_de.json", {"before": GOOD, "bad": GOOD | change, "after": GOOD}))
    assert [row["video_id"] for row in rows] == ["before", "bad", "after"]
    assert rows[1] == {"video_id": "bad", "text": ["zwei"], "start": [3.25], "end": [6.75]}
    assert report.to_dict()["reasons"] == {reason: {"videos": 1, "subtitles": subtitles, "video_ids": ["bad"]}}
    assert (report.videos_read, report.videos_written, report.subtitles_written) == (3, 3, 5)


@pytest.mark.parametrize(
    "reason, value",
    [
        ("length_mismatch", GOOD | {"end": [3.0]}),
        ("length_mismatch", GOOD | {"text": ["eins", "zwei", "drei"]}),
        ("malformed_video", {"text": ["eins"], "start": [0.5]}),
        ("malformed_video", GOOD | {"end": 3.0}),
        ("malformed_video", []),
        ("malformed_video", None),
        ("no_subtitles", {"text": [], "start": [], "end": []}),
        ("no_subtitles", {"text": [""], "start": [0.5], "end": [1.0]}),
    ],
)
def test_unusable_video_is_skipped_and_counted(tmp_path, reason, value):
    rows, report = rows_of(write(tmp_path / "how2_de.json", {"before": GOOD, "bad": value, "after": GOOD}))
    assert [row["video_id"] for row in rows] == ["before", "after"]
    assert report.reasons[reason]["video_ids"] == ["bad"]
    assert (report.videos_read, report.videos_written) == (3, 2)


def test_negative_and_unsorted_times_are_put_right(tmp_path):
    value = {"text": ["c", "a", "b"], "start": [5.0, -1.0, 2.0], "end": [6.0, 1.0, 9.0]}
    (row,), report = rows_of(write(tmp_path / "how2_de.json", {"v": value}))
    assert row == {"video_id": "v", "text": ["a", "b", "c"], "start": [0.0, 2.0, 5.0], "end": [1.0, 9.0, 6.0]}
    assert set(report.reasons) == {"negative_time", "unsorted"}


def test_of_equal_ids_the_first_counts(tmp_path, monkeypatch):
    videos = [f'"v{i % 40}": {json.dumps(GOOD | {"text": [f"text {i}", "x"]})}' for i in range(60)]
    path = write(tmp_path / "how2_de.json", "{" + ", ".join(videos) + "}")
    for block_bytes in (1000, 1 << 20):  # the second one in a later block, in the same block
        monkeypatch.setattr(subtitle_json, "BLOCK_BYTES", block_bytes)
        rows, report = rows_of(path)
        assert [row["text"][0] for row in rows] == [f"text {i}" for i in range(40)]
        assert report.reasons["duplicate_video_id"]["video_ids"] == [f"v{i}" for i in range(20)]


def test_lone_surrogates_and_broken_utf8_become_replacement_characters(tmp_path):
    texts = b'"half \\ud83d of one", "whole \\ud83d\\ude00", "bad \xff byte"'
    video = b'{"text": [' + texts + b'], "start": [0, 1, 2], "end": [1, 2, 3]}'
    (good, row), report = rows_of(
        write(tmp_path / "how2_de.json", b'{"g": ' + json.dumps(GOOD).encode() + b', "v": ' + video + b"}")
    )
    assert row["text"] == ["half \ufffd of one", "whole \U0001f600", "bad \ufffd byte"]
    assert good == {"video_id": "g"} | GOOD
    assert report.reasons["lone_surrogate"] == {"subtitles": 2, "video_ids": ["v"]}


CAPTIONS_THAT_LOOK_LIKE_JSON = [
    ']}, "x": {"text": ["',
    "]}, ",
    ": {",
    "text",
    '"]}',
    '\\"]}, \\"y\\": {\\"text\\": [',
    "{}[],:\\",
    "\u2028 NaN, null \x00",
]


@pytest.mark.parametrize("block_bytes", [40, 97, 501, 4096, 1 << 20])
def test_rows_are_those_of_json_load_wherever_blocks_end(tmp_path, monkeypatch, block_bytes):
    """The seams are found among captions made to imitate them, at every kind of place."""
    monkeypatch.setattr(subtitle_json, "BLOCK_BYTES", block_bytes)
    rng = random.Random(block_bytes)
    truth = {}
    for number in range(80):
        count = rng.randint(1, 6)
        texts = [rng.choice(CAPTIONS_THAT_LOOK_LIKE_JSON + ["žluťoučký 水", "plain"]) for _ in range(count)]
        starts = sorted(rng.choice((rng.randint(0, 99), round(rng.random() * 99, 3))) for _ in range(count))
        value = {"text": texts, "start": starts, "end": [start + 1 for start in starts]}
        keys = rng.sample(sorted(value), 3)  # in any order
        truth[rng.choice(("", 'é"\\', "]},")) + f"{number}"] = {key: value[key] for key in keys}
    content = json.dumps(truth, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)))
    rows, report = rows_of(write(tmp_path / "how2_de.json", b"\xef\xbb\xbf \n" + content.encode() + b"\n"))  # with BOM
    assert {row.pop("video_id"): row for row in rows} == truth
    assert report.reasons == {}


def test_empty_object_is_an_empty_dataset(tmp_path):
    assert rows_of(write(tmp_path / "how2_de.json", " {} "))[0] == []


# --- bad input: nothing can be read any more -------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused_with_offset_and_leaves_nothing(release, tmp_path, share):
    content = (release / "how2_de.json").read_bytes()
    path = write(tmp_path / "how2_de.json", content[: int(len(content) * share)])
    builder = load_builder("multi_howto100m")(config_name="de", data_dir=str(tmp_path))
    with pytest.raises(SubtitleFileError, match=rf"{path}, byte \d+: .*truncated"):
        write_dataset(builder, tmp_path / "built")
    assert list((tmp_path / "built").iterdir()) == []


def test_truncation_just_behind_a_video_is_seen(tmp_path):
    with pytest.raises(SubtitleFileError, match="truncated"):
        rows_of(write(tmp_path / "how2_de.json", json.dumps({"a": GOOD, "b": GOOD})[:-1]))


@pytest.mark.parametrize("content", ["", "<!DOCTYPE html><html>", "[1, 2]", '"text"', "\ufeff", "video_id,text\n"])
def test_file_that_is_no_json_object_is_refused(tmp_path, content):
    with pytest.raises(SubtitleFileError, match="how2_de.json, byte 0: expected a JSON object"):
        rows_of(write(tmp_path / "how2_de.json", content))


def test_damage_in_the_middle_is_located(tmp_path, monkeypatch):
    monkeypatch.setattr(subtitle_json, "BLOCK_BYTES", 1000)
    content = json.dumps({f"ü{number}": GOOD for number in range(200)}, ensure_ascii=False).encode()
    at = content.index(b"[0.5", len(content) // 2) + 1
    path = write(tmp_path / "how2_de.json", content[:at] + b"\x00\x00" + content[at:])
    with pytest.raises(SubtitleFileError, match=f"byte {at}: not JSON"):
        rows_of(path)


def test_text_behind_the_object_is_refused(tmp_path):
    with pytest.raises(SubtitleFileError, match="not JSON"):
        rows_of(write(tmp_path / "how2_de.json", json.dumps({"a": GOOD}) + json.dumps({"b": GOOD})))


def test_endless_video_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(subtitle_json, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(subtitle_json, "MAX_VIDEO_BYTES", 10_000)
    with pytest.raises(SubtitleFileError, match="byte 1: no end of a video"):
        rows_of(write(tmp_path / "how2_de.json", {"v": GOOD | {"text": ["x" * 50_000, "y"]}}))


def test_missing_languages_are_named(release, tmp_path):
    for language in ("en", "de", "ru"):
        (tmp_path / f"how2_{language}.json").symlink_to(release / f"how2_{language}.json")
    builder = load_builder("multi_howto100m")(config_name="all", data_dir=str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"how2_cs.json or how2_cz.json, .*how2_es.json.*languages=\['en', 'de', 'ru'\]"
    ):
        write_dataset(builder, tmp_path / "built")
    with pytest.raises(FileNotFoundError, match="Give data_dir"):
        load_builder("multi_howto100m")(config_name="de").source_files()


def test_unknown_config_and_dataset_are_refused(release, tmp_path):
    with pytest.raises(ValueError, match="BuilderConfig 'jp' not found"):
        build("multi_howto100m", ["de", "jp"], data_dir=release, output_dir=tmp_path)
    with pytest.raises(ValueError, match="Unknown dataset 'howto'.*multi_howto100m"):
        build("howto", ["de"], data_dir=release, output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_category_file_with_a_word_for_a_rank_is_refused(release, tmp_path):
    (tmp_path / "raw_caption.json").symlink_to(release / "raw_caption.json")
    (tmp_path / "HowTo100M_v1.csv").write_text("video_id,category_1,category_2,rank,task_id\nx,a,b,first,1\n")
    builder = load_builder("multi_howto100m")(config_name="howto100m", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="HowTo100M_v1.csv.*first"):
        write_dataset(builder, tmp_path / "built")


def test_full_disk_leaves_no_half_written_shard(release, tmp_path):
    """The operating system refuses to write on behind 20 kB, as on a full disk."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    run = f"build('multi_howto100m', ['de'], data_dir=Path({str(release)!r}), output_dir=Path({str(tmp_path)!r}))"
    code = f"{limit}\nfrom pathlib import Path\nfrom polyvid.dataset_scripts.build import build\n{run}"
    assert (release / "how2_de.json").stat().st_size > 60_000
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert failed.returncode != 0
    assert f"OSError: Could not write {tmp_path / 'de'}" in failed.stderr and "run again" in failed.stderr
    assert list(tmp_path.iterdir()) == []
    build("multi_howto100m", ["de"], data_dir=release, output_dir=tmp_path)
    assert (tmp_path / "de").is_dir()


@pytest.mark.slow
def test_killed_build_starts_again_and_memory_stays_bounded(tmp_path):
    """kill -9 in mid-file, then a whole run: nothing half-written survives, and 150 MB of JSON need far less memory."""
    videos = [json.dumps(synthetic.subtitles("de", number, mean_seconds=400)) for number in range(300)]
    path = tmp_path / "how2_de.json"
    with open(path, "w") as file:
        for number in range(20_000):
            file.write(f'{"{" if number == 0 else ", "}"{synthetic.video_id(number)}": {videos[number % 300]}')
        file.write("}")
    size = path.stat().st_size
    output = tmp_path / "built"
    run = f"build('multi_howto100m', ['de'], data_dir=Path({str(tmp_path)!r}), output_dir=Path({str(output)!r}))"
    code = f"from pathlib import Path\nfrom polyvid.dataset_scripts.build import build\n{run}\nprint({PEAK_MEMORY})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    while not list(output.glob(".de.incomplete/*.parquet")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (output / "de").exists()
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [path.name for path in output.iterdir() if path.name.startswith(".")] == []
    assert sum(pq.read_metadata(shard).num_rows for shard in (output / "de").iterdir()) == 20_000
    assert size > 120e6
    assert int(finished.stdout.split()[-1]) < 500e6
