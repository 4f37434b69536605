"""`polyvid index` and `polyvid search` on real files; and an index on the Hub."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hub_server import HubServer

from polyvid.dataset_scripts import page_checksums
from polyvid.dataset_scripts.building import ShardedWriter, read_shard, shard_name, write_shard
from polyvid.dataset_scripts.features import FEATURES, features_to_row, rows_to_table
from polyvid.modeling import MMPModel, VideoIndex
from polyvid.train import cli
from polyvid.train.search.indexing import index_features
from tiny import VIDEO_FEATURE_DIM, tiny_model, tiny_processor

QUERY = "der hund läuft"


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return {f"vidéo {i}": rng.standard_normal((3 + i, VIDEO_FEATURE_DIM)).astype(np.float16) for i in range(9)}


@pytest.fixture
def folder(features, tmp_path):
    """A model, four shards of features, metadata."""
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    (tmp_path / "features").mkdir()
    with ShardedWriter(tmp_path / "features", FEATURES, num_shards=4) as writer:
        writer.write(rows_to_table([features_to_row(*item) for item in features.items()]))
    lines = [f"{name},{'sport' if i % 2 else 'music'},{10 * i},2019-01-0{i + 1}" for i, name in enumerate(features)]
    (tmp_path / "metadata.csv").write_text("video_id,category,duration,upload_date\n" + "\n".join(lines[:-1]), "utf-8")
    return tmp_path


@pytest.fixture
def mmp(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["polyvid", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        shown = capsys.readouterr()
        return code, shown.err.strip().splitlines()[-1] if code else shown.out

    return run


INDEX = ("index", "features", "videos.safetensors", "--model", "model")


def hits(shown: str) -> list[dict]:
    return json.loads(shown)["hits"]


def test_a_folder_of_features_becomes_an_index_that_the_terminal_searches(mmp, folder, features):
    code, shown = mmp(*INDEX, "--metadata", "metadata.csv")
    assert code == 0
    assert "1 video without metadata in metadata.csv." in shown
    assert "videos.safetensors: 9 videos, engine exact." in shown
    assert not list(folder.glob(".videos*.parts"))  # what a stopped run would resume from
    expected = VideoIndex.build(str(folder / "model"), features).search(QUERY, k=9)
    _, shown = mmp("search", "videos.safetensors", QUERY, "-k", "9", "--json")
    assert [hit["video_id"] for hit in hits(shown)] == [hit["video_id"] for hit in expected]
    where = ("--where", "category=sport", "--where", "duration=20..60", "--where", "upload_date=..2019-01-05")
    _, shown = mmp("search", "videos.safetensors", QUERY, "--json", *where)
    assert [hit["video_id"] for hit in hits(shown)] == [
        hit["video_id"] for hit in expected if hit["video_id"] == "vidéo 3"
    ]
    _, shown = mmp("search", "videos.safetensors", QUERY, "a dog", "-k", "2", "--where", "category=sport,music")
    assert shown.startswith(f"{QUERY}\n   1  ") and "\na dog\n   1  " in shown
    assert "category=" in shown and "upload_date=2019-01-0" in shown


def test_moments_are_searched_within_seconds(mmp):
    mmp(*INDEX, "--moment-seconds", "2", "--storage", "int8")
    _, shown = mmp("search", "videos.safetensors", QUERY, "--seconds", "3..6", "-k", "100", "--json")
    found = hits(shown)
    assert {(hit["start"], hit["end"]) for hit in found} == {(3, 5), (4, 6)}
    _, shown = mmp("search", "videos.safetensors", QUERY, "--one-per-video", "-k", "100", "--json")
    names = [hit["video_id"] for hit in hits(shown)]
    assert len(names) == len(set(names)) == 9
    assert "  00:03–00:05" in mmp("search", "videos.safetensors", QUERY, "--seconds", "3..5")[1]


def test_an_index_corrects_scores_by_a_bank_of_texts(mmp, folder, features):
    bank = {"en": ["a dog", "the cat runs", "a man"], "de": ["ein hund", "katze läuft", "der hund"]}
    lines = [f"{a}\t{b}" for a, b in zip(bank["en"], bank["de"], strict=True)]
    (folder / "bank.tsv").write_text("\n".join(["en\tde", *lines]), encoding="utf-8")
    code, shown = mmp(*INDEX, "--hubness", "always", "--language-offsets", "--query-bank", "bank.tsv")
    assert code == 0 and "videos.safetensors: 9 videos, engine exact." in shown
    expected = VideoIndex.build(str(folder / "model"), features)
    plain = expected.search(QUERY, k=9)
    expected.correct_languages(bank)
    expected.correct_hubness(bank, gated=False)
    search = ("search", "videos.safetensors", QUERY, "-k", "9", "--json")
    for options, query_language in (((), None), (("--query-language", "de"), "de")):
        found = hits(mmp(*search, *options)[1])
        wanted = expected.search(QUERY, k=9, query_language=query_language)
        assert [hit["video_id"] for hit in found] == [hit["video_id"] for hit in wanted]
        assert [hit["score"] for hit in found] == pytest.approx([hit["score"] for hit in wanted], abs=1e-3)
    assert [hit["video_id"] for hit in hits(mmp(*search, "--uncorrected")[1])] == [hit["video_id"] for hit in plain]
    code, shown = mmp("index", "features", "videos.safetensors", "--refresh")
    assert code == 1 and "new ones would have no such number" in shown
    for options, message in (
        (("--query-bank", "bank.tsv"), "--query-bank is for these two"),
        (("--hubness", "gated"), "pass a table of texts instead of 'training'"),
        (("--hubness", "gated", "--engine", "lance"), "choose another --engine than lance"),
    ):
        code, shown = mmp(*INDEX, *options)
        assert code == 1 and message in shown


def write_features(folder, features):
    folder.mkdir(exist_ok=True)
    with ShardedWriter(folder, FEATURES, num_shards=2) as writer:
        writer.write(rows_to_table([features_to_row(*item) for item in features.items()]))


def test_an_index_is_added_to_and_removed_from(mmp, folder, features):
    some = dict(list(features.items())[:5])
    write_features(folder / "some", some)
    mmp("index", "some", "changed.safetensors", "--model", "model", "--moment-seconds", "2,4", "--storage", "float32")
    rest = {name: features[name] for name in list(features)[4:]}
    write_features(folder / "rest", rest)
    code, shown = mmp("index", "rest", "changed.safetensors", "--add")
    assert code == 0 and "engine exact. Added or replaced 5 videos, removed 0." in shown
    code, shown = mmp("index", "changed.safetensors", "--remove", "vidéo 0", "--remove", "vidéo 7")
    assert code == 0 and "Added or replaced 0 videos, removed 2." in shown
    left = {name: video for name, video in features.items() if name not in ("vidéo 0", "vidéo 7")}
    expected = VideoIndex.build(str(folder / "model"), left, moment_seconds=(2, 4), storage="float32")
    ours = VideoIndex.load(folder / "changed.safetensors").search(QUERY, k=99)
    assert [(hit["video_id"], hit["start"], hit["end"]) for hit in ours] == [
        (hit["video_id"], hit["start"], hit["end"]) for hit in expected.search(QUERY, k=99)
    ]
    assert mmp("index", "changed.safetensors", "--remove", "vidéo 0") == (
        1,
        "error: Video 'vidéo 0' is not in the index.",
    )


def test_an_index_is_brought_up_to_date_with_little_work(mmp, folder, features, monkeypatch):
    mmp(*INDEX)
    before = (folder / "videos.safetensors").stat()
    changed = {name: video for name, video in features.items() if name != "vidéo 3"} | {"new": features["vidéo 1"]}
    shutil.rmtree(folder / "features")
    write_features(folder / "features", changed)
    newer = sorted((folder / "features").glob("*.parquet"))[0]
    for shard in (folder / "features").glob("*.parquet"):  # only one was written after the index
        seconds = 10**9 * (1 if shard == newer else -1)
        os.utime(shard, ns=(before.st_mtime_ns + seconds, before.st_mtime_ns + seconds))
    in_newer = read_shard(newer, ["video_id"])["video_id"].to_pylist()
    embedded: list[str] = []
    build = VideoIndex.build
    monkeypatch.setattr(VideoIndex, "build", lambda model, of, **more: embedded.extend(of) or build(model, of, **more))
    code, shown = mmp("index", "features", "videos.safetensors", "--refresh")
    assert code == 0 and shown.endswith(f"Added or replaced {len(embedded)} videos, removed 1.\n")
    assert set(embedded) == {*in_newer, "new"} < set(changed)
    found = VideoIndex.load(folder / "videos.safetensors").search(QUERY, k=99)
    assert [hit["video_id"] for hit in found] == [
        hit["video_id"] for hit in build(str(folder / "model"), changed).search(QUERY, k=99)
    ]
    assert not list(folder.glob(".videos*.parts"))


def test_a_stopped_run_embeds_only_what_is_missing(mmp, folder, monkeypatch):
    mmp(*INDEX)
    whole = VideoIndex.load(folder / "videos.safetensors")
    embedded = []
    build = VideoIndex.build

    def stopped(model, videos, **arguments):
        if len(embedded) == 2:
            raise OSError("stopped")
        embedded.append(set(videos))
        return build(model, videos, **arguments)

    monkeypatch.setattr(VideoIndex, "build", stopped)
    assert mmp("index", "features", "again.safetensors", "--model", "model")[0] == 1
    assert not (folder / "again.safetensors").exists() and len(embedded) == 2
    monkeypatch.setattr(
        VideoIndex, "build", lambda model, videos, **more: embedded.append(set(videos)) or build(model, videos, **more)
    )
    assert mmp("index", "features", "again.safetensors", "--model", "model")[0] == 0
    assert sum(map(len, embedded)) == 9 == len(set.union(*embedded))
    assert VideoIndex.load(folder / "again.safetensors").search(QUERY) == whole.search(QUERY)


def test_a_damaged_part_of_a_stopped_run_is_built_again(mmp, folder, monkeypatch):
    mmp(*INDEX)
    whole = (folder / "videos.safetensors").read_bytes()
    monkeypatch.setattr(VideoIndex, "cat", lambda *_: (_ for _ in ()).throw(OSError("stopped")))
    assert mmp("index", "features", "again.safetensors", "--model", "model")[0] == 1
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    parts = sorted(folder.glob(".again.safetensors.parts/*/*.safetensors"))
    parts[1].write_bytes(parts[1].read_bytes()[:-1])
    index_features(
        folder / "features", folder / "again.safetensors", MMPModel.from_pretrained("model"), tiny_processor()
    )
    assert (folder / "again.safetensors").read_bytes() == whole


def test_the_pages_of_a_shard_are_looked_at_once_however_many_row_groups_it_has(mmp, folder, features, monkeypatch):
    tables = [rows_to_table([features_to_row(*item)]) for item in features.items()]
    (folder / "groups").mkdir()
    write_shard(tables, folder / "groups" / shard_name("train", 0, 1), FEATURES.arrow_schema.remove_metadata())
    looked, look = [], page_checksums._checksums
    monkeypatch.setattr(page_checksums, "_checksums", lambda data: looked.append(data) or look(data))
    assert mmp("index", "groups", "videos.safetensors", "--model", "model")[0] == 0
    assert len(looked) == 1 < len(tables)
    assert mmp("verify", "groups")[0] == 0
    assert len(looked) == 2


def test_a_lance_table_is_filled_and_searched_by_the_same_commands(mmp, folder):
    pytest.importorskip("lancedb")
    code, shown = mmp(*INDEX, "--metadata", "metadata.csv", "--engine", "lance", "--uri", "table")
    assert code == 0 and "9 videos, engine lance." in shown
    _, shown = mmp("search", "videos.safetensors", QUERY, "--json", "--where", "duration=..30")
    assert {hit["video_id"] for hit in hits(shown)} == {"vidéo 0", "vidéo 1", "vidéo 2", "vidéo 3"}
    assert (folder / "videos.safetensors").stat().st_size < 3000  # an address


def test_bad_commands_are_one_line(mmp, folder):
    (folder / "other.jsonl").write_text('{"id": "x"}\n')
    (folder / "twice.jsonl").write_text('{"video_id": "x"}\n{"video_id": "x"}\n')
    (folder / "broken.jsonl").write_text("{")
    mmp(*INDEX)
    for arguments, message in [
        ((*INDEX[:3], "--model", "features"), "error: Unrecognized model in features"),
        (
            ("index", "model", *INDEX[2:]),
            "error: No train-*-of-*.parquet in model: choose a folder of finished shards.",
        ),
        ((*INDEX, "--metadata", "m.xml"), "error: Metadata in m.xml: it must be one of .csv .jsonl .parquet."),
        ((*INDEX, "--metadata", "m.csv"), "error: No metadata at m.csv."),
        ((*INDEX, "--metadata", "other.jsonl"), "error: Metadata in other.jsonl has no column video_id; it has id."),
        (
            (*INDEX, "--metadata", "twice.jsonl"),
            "error: Metadata in twice.jsonl: video 'x' appears twice, the second time in row 2.",
        ),
        ((*INDEX, "--metadata", "broken.jsonl"), "error: Metadata in broken.jsonl cannot be read: JSON parse error"),
        (INDEX[:3], "error: A new index needs --model."),
        (("index", "videos.safetensors"), "error: Pass FEATURES and INDEX, or INDEX --remove ID"),
        ((*INDEX[:3], "--remove", "x"), "error: With FEATURES, --remove also needs --add or --refresh."),
        ((*INDEX, "--moment-seconds", "4,x"), "error: --moment-seconds: 'x' is not a whole number."),
        ((*INDEX, "--device", "gpu"), "error: This machine has no device 'gpu' ("),
        ((*INDEX, "--engine", "lance"), "error: Engine 'lance': missing a required argument: 'uri'."),
        (("search", "no.safetensors", "a dog"), "error: There is no video index at 'no.safetensors' in "),
        (("search", INDEX[2], " "), "error: The query is empty: say what to look for."),
        (("search", INDEX[2], "a dog", "--where", "duration"), "error: --where duration: write column=value"),
        (("search", INDEX[2], "a dog", "--seconds", "3"), "error: --seconds 3: write low..high"),
        (("search", INDEX[2], "a dog", "--seconds", "a.."), "error: --seconds: 'a' is not a number."),
        (("search", INDEX[2], "a dog", "--lang", "de"), "error: The index has no metadata 'language' to filter by"),
    ]:
        code, shown = mmp(*arguments)
        assert code == 1 and shown.startswith(message), shown


ON_THE_HUB = """
import sys
from polyvid.modeling import VideoIndex

path, wrong = sys.argv[1:]
index = VideoIndex.load(path)
print(index.push_to_hub("alice/videos", private=True))
index.push_to_hub("alice/videos", revision="int8")
again = VideoIndex.load("alice/videos")  # downloaded: the cache was empty
assert again.search("a dog", where={"category": "sport"}) == index.search("a dog", where={"category": "sport"})
assert len(VideoIndex.load("alice/videos", revision="int8")) == 9
for refused in (lambda: index.push_to_hub("alice/videos", token=wrong), lambda: VideoIndex.load("alice/nothing")):
    try:
        refused()
    except OSError as error:
        print("refused", str(error).splitlines()[0])
"""


@pytest.mark.slow
def test_an_index_goes_to_the_hub_and_comes_back(folder, features):
    """Over real HTTP, in a process of its own: the Hub's address is read when it starts."""
    index = VideoIndex.build(str(folder / "model"), features, metadata={"vidéo 1": {"category": "sport"}})
    index.save(folder / "videos.safetensors")
    with HubServer() as hub:
        hub.add_user("alice", "hf_alice")
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_alice"}
        environment |= {"HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-c", ON_THE_HUB, "videos.safetensors", "hf_wrong"]
        result = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        files = hub.files("datasets", "alice/videos")
    assert files["videos.safetensors"] == (folder / "videos.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert "| rows (videos, or moments of videos) | 9 |" in card and 'VideoIndex.load("alice/videos")' in card
    assert result.stdout.count("refused") == 2 and "401" in result.stdout
    assert "hf_" not in result.stdout + result.stderr
