"""`polyvid search FOLDER QUERY`: from video files to moments, with little work the second time."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from lock_holder import held_elsewhere
from video_files import write_video
from video_models import save_models

from polyvid.modeling import MMPModel, MMPProcessor, TextToVideoRetrievalPipeline, VideoIndex
from polyvid.train import cli
from polyvid.train.search import collection, player
from polyvid.train.search.frames import LoadedEncoders, load_encoders
from polyvid.train.search.sources import find_source
from tiny import tiny_model

QUERY = "der hund läuft"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small image network, a model that was made for its features and one of which that is not known."""
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder


@pytest.fixture
def videos(models, tmp_path, monkeypatch):
    """Four videos of 2 to 5 seconds, one of them in a sub-folder, and two files that are none."""
    for name in ("network", "model", "silent"):
        shutil.copytree(models / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "videos"
    (folder / "trip" / ".hidden").mkdir(parents=True)
    for number, name in enumerate(["a.mp4", "b.mkv", "trip/a.mp4", "été 视频.mp4"]):
        write_video(folder / name, num_frames=10 * (number + 2), fps=10)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("no video either")
    (folder / "trip" / ".hidden" / "._a.mp4").write_bytes(b"what some systems leave")
    return folder


@pytest.fixture
def search(videos, monkeypatch, capfd):
    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            cli.main(["search", *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        shown = capfd.readouterr()
        return code, shown.out, shown.err

    return run


FIRST = ("--model", "model", "--encoder", "network", "--workers", "0")


@pytest.fixture
def extracted(monkeypatch):
    """The videos that are given to the network, in the order in which they are."""
    seen: list[str] = []
    extract = LoadedEncoders.extract

    def noted(self, videos, workers):
        seen.extend(name for name, _ in videos)
        return extract(self, videos, workers)

    monkeypatch.setattr(LoadedEncoders, "extract", noted)
    return seen


def test_one_video_is_not_called_videos(search, videos):
    code, _, said = search("videos/a.mp4", QUERY, *FIRST)
    assert code == 0 and "videos/a.mp4: 1 video: 1 searched, 1 of them new or changed." in said


def test_the_first_search_loads_the_model_once(search, videos, monkeypatch):
    """Embedding the videos and reading the query are done by the same copy; the second search needs one at most."""
    loaded: list[str] = []
    load = MMPModel.from_pretrained.__func__

    def noted(cls, name, *args, **kwargs):
        loaded.append(str(name))
        return load(cls, name, *args, **kwargs)

    monkeypatch.setattr(MMPModel, "from_pretrained", classmethod(noted))
    assert search("videos", QUERY, *FIRST)[0] == 0
    assert len(loaded) == 1
    loaded.clear()
    assert search("videos", QUERY)[0] == 0
    assert len(loaded) <= 1


def test_a_folder_is_searched_with_one_command(search, videos, models):
    code, shown, said = search("videos", QUERY, *FIRST)
    assert code == 0
    assert "not read: videos/broken.mp4: " in said
    assert "videos: 5 videos: 4 searched, 4 of them new or changed, 1 could not be read." in said
    lines = shown.splitlines()
    assert lines[0] == QUERY
    paths = ["videos/a.mp4", "videos/b.mkv", "videos/trip/a.mp4", "videos/été 视频.mp4"]
    assert sorted(line.split("  ")[-1] for line in lines[1:] if line) >= paths
    assert all(re.fullmatch(r" +\d+  -?\d\.\d{3}  00:0\d–00:0\d  videos/.*", line) for line in lines[1:] if line)
    # The same as extracting the features and building an index of them.
    encoders = load_encoders(MMPModel.from_pretrained("silent"), ["network"])
    found = find_source("videos")
    features = {name: of for name, of in encoders.extract(list(found.files.items()), 0) if isinstance(of, np.ndarray)}
    expected = VideoIndex.build("silent", features, moment_seconds=(4, 8, 16)).search(QUERY, k=10)
    _, shown, _ = search("videos", QUERY, "--json")
    hits = json.loads(shown)["hits"]
    assert [(hit["video_id"], hit["start"], hit["end"]) for hit in hits] == [
        (hit["video_id"], hit["start"], hit["end"]) for hit in expected
    ]
    assert all(os.path.samefile(hit["path"], videos / hit["video_id"]) for hit in hits)


def test_a_model_that_knows_its_networks_needs_no_other_word(search, videos):
    """On the command line, and in Python from the paths of the videos."""
    code, shown, _ = search("videos", QUERY, "--model", "model", "--workers", "0", "--json")
    assert code == 0
    hits = json.loads(shown)["hits"]
    files = {hit["video_id"]: hit["path"] for hit in hits}
    index = VideoIndex.build("model", files, moment_seconds=(4, 8, 16))
    again = index.search(QUERY)
    assert [(hit["video_id"], hit["start"], hit["end"]) for hit in again] == [
        (hit["video_id"], hit["start"], hit["end"]) for hit in hits
    ]
    assert [hit["score"] for hit in again] == pytest.approx([hit["score"] for hit in hits], abs=1e-3)
    pipe = TextToVideoRetrievalPipeline(
        model=MMPModel.from_pretrained("model"), processor=MMPProcessor.from_pretrained("model")
    )
    first = pipe(QUERY, videos=files, top_k=2)
    built = pipe._built
    assert {hit["video_id"] for hit in first} <= files.keys() and pipe("a dog", videos=files) and pipe._built is built
    os.utime(videos / "a.mp4")
    assert pipe(QUERY, videos=files, top_k=2) == first and pipe._built is not built


def test_the_second_time_only_what_is_new_changed_or_gone_is_done(search, videos, extracted):
    search("videos", QUERY, *FIRST)
    assert sorted(extracted) == ["a.mp4", "b.mkv", "broken.mp4", "trip/a.mp4", "été 视频.mp4"]
    extracted.clear()
    assert search("videos", "a dog")[0] == 0 and extracted == []
    os.utime(videos / "b.mkv")  # touched, but the same
    assert search("videos", "a dog")[0] == 0 and extracted == []
    assert search("videos", "a dog")[0] == 0 and extracted == []
    (videos / "a.mp4").unlink()
    write_video(videos / "trip" / "a.mp4", num_frames=17, fps=10)
    write_video(videos / "new.mov", num_frames=20, fps=10)
    code, shown, said = search("videos", QUERY, "--encoder", "network", "--json", "-k", "50")
    assert code == 0 and sorted(extracted) == ["new.mov", "trip/a.mp4"]
    assert "videos: 5 videos: 4 searched, 2 of them new or changed, 1 could not be read, 1 no longer there." in said
    ends = {hit["video_id"]: hit["end"] for hit in json.loads(shown)["hits"]}
    assert ends.keys() == {"b.mkv", "new.mov", "trip/a.mp4", "été 视频.mp4"} and ends["trip/a.mp4"] == 1


def test_a_run_that_was_stopped_keeps_what_it_did(search, videos, extracted, monkeypatch):
    monkeypatch.setattr(collection, "KEPT_AT_ONCE", 1)
    build, built = VideoIndex.build, []

    def stopped(*arguments, **options):
        if len(built) == 2:
            raise OSError("stopped")
        built.append(1)
        return build(*arguments, **options)

    monkeypatch.setattr(VideoIndex, "build", stopped)
    assert search("videos", QUERY, *FIRST)[0] == 1
    monkeypatch.setattr(VideoIndex, "build", build)
    extracted.clear()
    code, _, said = search("videos", QUERY, *FIRST)
    assert code == 0 and len(extracted) == 3 and "4 of them new or changed" in said  # two of them, and the broken one
    left = [path.name for path in (videos.parent / "cache/polyvid/indexes").iterdir()]
    assert not [name for name in left if name.endswith(".parts")]


def test_what_a_run_left_that_was_killed_after_its_index_was_written_is_removed(search, videos):
    assert search("videos", QUERY, *FIRST)[0] == 0
    (index,) = (videos.parent / "cache/polyvid/indexes").glob("*.safetensors")
    before = index.stat().st_mtime_ns
    left = index.with_name(f".{index.name}.parts")
    (left / "of one run").mkdir(parents=True)
    with held_elsewhere(index):
        assert search("videos", QUERY)[0] == 0 and left.exists()  # it is the other run that removes its own
    assert search("videos", QUERY)[0] == 0
    assert not left.exists() and index.stat().st_mtime_ns == before


def test_what_could_not_be_read_is_tried_again_when_it_changed_or_when_asked(search, videos, extracted):
    search("videos", QUERY, *FIRST)
    extracted.clear()
    search("videos", QUERY, "--retry-failed", "--encoder", "network")
    assert extracted == ["broken.mp4"]
    write_video(videos / "broken.mp4", num_frames=20, fps=10)
    _, _, said = search("videos", QUERY, "--encoder", "network")
    assert "5 videos: 5 searched, 1 of them new or changed." in said
    assert not list((videos.parent / "cache").rglob("*.failures.json"))


def test_a_video_of_a_list_that_is_not_there_is_named(search, videos):
    (videos.parent / "list.txt").write_text("videos/a.mp4\nvideos/vidoe.mp4\n")
    code, shown, said = search("list.txt", QUERY, *FIRST, "--json")
    assert code == 0 and {hit["video_id"] for hit in json.loads(shown)["hits"]} == {"a"}
    assert "not read: videos/vidoe.mp4: no such file" in said
    assert "list.txt: 2 videos: 1 searched, 1 of them new or changed, 1 could not be read." in said
    (videos.parent / "list.txt").write_text("videos/vidoe.mp4\n")
    assert "The only video in list.txt cannot be read (vidoe: no such file)." in search("list.txt", QUERY, *FIRST)[2]


def test_lists_patterns_single_videos_and_indexes(search, videos):
    (videos.parent / "list.txt").write_text("videos/a.mp4\nthe trip\tvideos/trip/a.mp4\n")
    for target, ids in (
        ("list.txt", {"a", "the trip"}),
        ("videos/*.mp4", {"a.mp4", "été 视频.mp4"}),
        ("videos/b.mkv", {"b.mkv"}),
    ):
        code, shown, said = search(target, QUERY, *FIRST, "--json", "--index", f"{len(ids)}.idx", "--one-per-video")
        assert code == 0, said
        assert {hit["video_id"] for hit in json.loads(shown)["hits"]} == ids
        for path in (videos.parent).glob("*.idx*"):
            path.unlink()
    search("videos/b.mkv", QUERY, *FIRST, "--index", "own.safetensors")
    code, shown, _ = search("own.safetensors", QUERY, "--json")  # also an index like any other
    assert code == 0 and json.loads(shown)["hits"][0]["video_id"] == "b.mkv"


def test_a_page_shows_the_moments(search, videos):
    (videos / "<b>&'.mp4").write_bytes((videos / "a.mp4").read_bytes())
    code, _, said = search("videos", "der <hund>", *FIRST, "--html", "page.html", "-k", "3")
    assert code == 0 and said.endswith("page.html\n")
    page = (videos.parent / "page.html").read_text("utf-8")
    assert page.count('poster="data:image/jpeg;base64,') == page.count("<video ") == 3
    assert re.search(r'src="file://[^"]*/videos/[^"]*#t=0,\d"', page) and '<h1 dir="auto">der &lt;hund&gt;</h1>' in page
    assert "<b>&'" not in page and not re.search(r'(src|href)="http', page)


def test_a_hit_is_played_at_its_moment(search, videos, monkeypatch):
    started = []
    monkeypatch.setattr(player.shutil, "which", lambda name: name if name == "mpv" else None)
    monkeypatch.setattr(player.subprocess, "Popen", lambda command, **_: started.append(command))
    code, shown, said = search("videos", QUERY, *FIRST, "--play", "2", "--json")
    hit = json.loads(shown)["hits"][1]
    assert code == 0 and started == [["mpv", f"--start={hit['start']}", str((videos / hit["video_id"]).resolve())]]
    assert "in mpv." in said
    monkeypatch.setattr(player.shutil, "which", lambda name: None)
    code, _, said = search("videos", QUERY, "--play", "1")
    assert code == 1 and "There is no player for videos/" in said


def test_a_query_in_an_unknown_script_is_one_line(search, videos):
    code, shown, said = search("videos", "ꙮꙮ", *FIRST)
    line = "error: The model cannot read 'ꙮꙮ': it does not know this script or these words."
    assert (code, shown, said.strip().splitlines()[-1]) == (1, "", line)


def test_long_queries_are_cut_where_they_are_shown(search, videos):
    _, shown, _ = search("videos", "hund " + "x" * 80_000, *FIRST)
    assert len(shown.splitlines()[0]) == 80 and shown.splitlines()[0].endswith("…")


def test_bad_input_is_one_line_and_leaves_nothing(search, videos):
    (videos.parent / "empty").mkdir()
    (videos.parent / "bad").mkdir()
    (videos.parent / "bad" / "x.mp4").write_bytes(b"no video")
    (videos.parent / "features").mkdir()
    (videos.parent / "features" / "train-00000-of-00001.parquet").touch()
    for arguments, message in [
        (("empty", QUERY, *FIRST), "error: There is no video in empty (looked for .3gp"),
        (("*.avi", QUERY, *FIRST), "error: There is no video in *.avi"),
        (("features", QUERY, *FIRST), "error: features holds features, not videos: polyvid index makes the index"),
        (
            ("vidoes/", QUERY, *FIRST),
            "error: There is no folder, list of videos or index at 'vidoes/': check the path.",
        ),
        (("videos", " ", *FIRST), "error: The query is empty: say what to look for."),
        (("videos", QUERY), "error: To search videos for the first time, pass --model"),
        (
            ("videos", QUERY, "--model", "silent"),
            "error: silent does not say which networks made its features: pass --enc",
        ),
        (("videos", QUERY, "--model", "./nowhere"), "error: There is no model at './nowhere'"),
        (("bad", QUERY, *FIRST), "error: The only video in bad cannot be read (x.mp4: "),
        (("videos", QUERY, *FIRST, "--moment-seconds", "0"), "error: moment_seconds must be at least 1"),
    ]:
        code, shown, said = search(*arguments)
        assert code == 1 and shown == "" and said.strip().splitlines()[-1].startswith(message), said
    assert not list((videos.parent / "cache").rglob("*.safetensors"))


def test_an_index_that_was_made_otherwise_is_not_mixed(search, videos, models):
    search("videos", QUERY, *FIRST)
    shutil.copytree("model", "other")
    tiny_model(seed=1, video_feature_dim=16).save_pretrained("other")
    for arguments, message in [
        (
            ("--model", "other"),
            r"error: The index of these videos was made by .*/model, not by other: leave the option out",
        ),
        (("--moment-seconds", "5"), r"error: The index of these videos was made with --moment-seconds 4,8,16: leave"),
    ]:
        code, _, said = search("videos", QUERY, *arguments)
        assert code == 1 and re.match(message, said.strip().splitlines()[-1]), said
    assert search("videos", QUERY, "--model", str(videos.parent / "model"))[0] == 0  # the same, by another name
    index = next((videos.parent / "cache").rglob("*.safetensors"))
    for option in ("--html", "--index"):
        code, _, said = search(str(index), QUERY, option, "x")
        assert code == 1 and "is an index, which does not say where its videos are" in said
