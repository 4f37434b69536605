"""`polyvid app`: the page of the user's own videos, its tools for programs, and what it does not serve."""

import ast
import asyncio
import re
import shutil
import urllib.error
import urllib.request
from importlib.util import find_spec
from typing import Any

import pytest
from video_files import write_video
from video_models import save_models

from polyvid.hub_cards.space.own_videos import OwnVideos, open_page
from polyvid.hub_cards.space.screenshot import find_browser, open_browser, serve, wait_for
from polyvid.modeling.errors_mmp import PolyvidError
from polyvid.modeling.video_reading_mmp import VideoEnd
from polyvid.train import cli
from polyvid.train.extraction import pool
from polyvid.train.search.collection import Settings
from polyvid.train.search.sources import find_source


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model, three videos of 20 to 40 seconds whose moments differ, a file that is no video, and a private one."""
    home = tmp_path_factory.mktemp("home")
    save_models(home)
    (home / "videos" / "trip").mkdir(parents=True)
    for number, name in enumerate(["a.mp4", "b & c.mp4", "trip/été 视频.mp4"]):
        write_video(home / "videos" / name, num_frames=100 * (number + 2), fps=5)
    (home / "videos" / "broken.mp4").write_bytes(b"no video")
    (home / "private.mp4").write_bytes(b"nobody else's business")
    return home


@pytest.fixture(scope="module")
def page(home) -> OwnVideos:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        settings = Settings("model", None, None, "cpu", 0)
        return open_page(find_source("videos"), home / "index.safetensors", settings)[0]


def shown(html: str) -> list[str]:
    return re.findall(r'data-id="([^"]*)"', html)


def test_words_find_moments_that_play_where_they_start(page, home):
    html = page.show_with_words("the dog")
    assert set(shown(html)) == {"a.mp4", "b &amp; c.mp4", "trip/été 视频.mp4"}
    for hit in page.find_with_words("the dog"):
        assert set(hit) == {"video", "score", "start", "end"}
        assert f"#t={hit['start']},{hit['end']}" in html
    assert f"gradio_api/file={home}/videos/b%20%26%20c.mp4#t=" in html
    assert html.count('poster="data:image/jpeg;base64,') == len(shown(html))


def test_a_video_finds_itself(page, home):
    shutil.copy(home / "videos" / "b & c.mp4", home / "upload.mp4")
    best = page.find_with_video(str(home / "upload.mp4"))[0]
    assert best["video"] in ("a.mp4", "b & c.mp4", "trip/été 视频.mp4")
    assert best["score"] > 0.9


def test_a_moment_finds_moments_of_other_videos(page, home):
    """By the name that hits have or by the path of the file, from what the index knows: nothing is decoded."""
    hits = page.find_similar("b & c.mp4", 8)
    assert {hit["video"] for hit in hits} == {"a.mp4", "trip/été 视频.mp4"}
    assert hits == sorted(hits, key=lambda hit: -hit["score"])
    assert page.find_similar(str(home / "videos" / "trip" / ".." / "b & c.mp4"), 8) == hits
    # The longest window that begins there is what is searched with.
    rows, number = page.index.engine.rows, list(page.index.video_ids).index("b & c.mp4")
    spans = [span for video, span in zip(rows.videos.tolist(), rows.spans.tolist(), strict=True) if video == number]
    row = rows.videos.tolist().index(number) + spans.index([8, max(end for start, end in spans if start == 8)])
    moment = page.index.engine.vectors[row : row + 1][0]
    best = [hit for hit in page.index.search(moment, 100) if hit["video_id"] != "b & c.mp4"][0]
    assert (hits[0]["video"], hits[0]["start"], hits[0]["end"]) == (best["video_id"], best["start"], best["end"])


@pytest.mark.parametrize(
    ("video", "start", "reason"),
    [
        ("", 0, "There is no video '' in this collection: name it as the hits do."),
        ("private.mp4", 0, "There is no video 'private.mp4' in this collection"),
        ("../private.mp4", 0, "There is no video '../private.mp4' in this collection"),
        ("/etc/passwd", 0, "There is no video '/etc/passwd' in this collection"),
        ("a\0.mp4", 0, "There is no video 'a\\x00.mp4' in this collection"),
        ("a.mp4", 1000, "a.mp4 has no second 1000: it has 40, from 0 on."),
        ("a.mp4", -1, "a.mp4 has no second -1: it has 40, from 0 on."),
        ("a.mp4", float("nan"), "a.mp4 has no second nan"),
    ],
)
def test_only_videos_of_the_index_can_be_named(page, video, start, reason):
    with pytest.raises(PolyvidError, match=re.escape(reason)):
        page.find_similar(video, start)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("  ", "Type a few words."),
        ("x" * 201, "The query has 201 characters: at most 200 are read."),
        ("a \ud800", "The query is not valid Unicode: it holds half of a surrogate pair."),
        ("ᚠᚢᚦ", "The model cannot read &#x27;ᚠᚢᚦ&#x27;: it does not know this script or these words."),
    ],
)
def test_what_cannot_be_searched_is_said_on_the_page(page, query, reason):
    assert page.show_with_words(query) == f'<div class="notice">{reason}</div>'


def test_uploads_that_cannot_be_read_are_said_on_the_page(page, home, monkeypatch):
    assert page.show_with_video(None) == '<div class="notice">Upload a video.</div>'
    assert "This file cannot be read: " in page.show_with_video(str(home / "private.mp4"))
    end = VideoEnd("upload", "the decoding process died (exit code -24)", 0.0)
    monkeypatch.setattr(pool, "decode_videos", lambda videos, views, workers, limits: [end])
    said = page.show_with_video(str(home / "videos" / "a.mp4"))
    assert "This file cannot be read: it takes too much time or memory to decode." in said


@pytest.mark.slow
def test_the_served_page(home, monkeypatch):
    """In the browser, for programs, and for those who ask for other files."""
    gradio_client = pytest.importorskip("gradio_client")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.chdir(home)
    mcp = ["--mcp"] if find_spec("mcp") else []
    command = ["-m", "polyvid", "app", "videos", "--model", "model", "--index", "index.safetensors", *mcp]
    with serve(home, command) as address:
        client = gradio_client.Client(address, verbose=False)
        hits = client.predict("the dog", api_name="/find_with_words")
        assert {hit["video"] for hit in hits} == {"a.mp4", "b & c.mp4", "trip/été 视频.mp4"}
        upload = {"video": gradio_client.handle_file("videos/a.mp4")}
        assert client.predict(upload["video"], api_name="/find_with_video")[0]["score"] > 0.9
        assert set(client.view_api(return_format="dict")["named_endpoints"]) == {
            "/find_with_words",
            "/find_with_video",
            "/find_similar",
        }
        assert {hit["video"] for hit in client.predict("a.mp4", 4, api_name="/find_similar")} == {
            "b & c.mp4",
            "trip/été 视频.mp4",
        }
        assert _status(f"{address}gradio_api/file={home}/videos/a.mp4") == 200
        (home / "videos" / ".env").write_text("SECRET=1")
        others = [
            "private.mp4",
            "videos/../private.mp4",
            "videos/%2e%2e/private.mp4",
            "videos/.env",
            "videos/broken.mp4",
        ]
        for other in (*others, "index.safetensors", "model/config.json"):
            assert _status(f"{address}gradio_api/file={home}/{other}") in (403, 404), other
        assert _status(f"{address}gradio_api/file=https://example.org/a.mp4") == 403
        asked = urllib.request.Request(address, headers={"Host": "a-page.example"})
        assert _status(asked) == 400  # a web page that has its own name lead to this machine
        if mcp:
            asyncio.run(_talk_as_an_agent(address))
        if find_browser():
            with open_browser() as driver:
                driver.get(address)
                wait_for(driver, "return document.querySelector('#query textarea, #query input') !== null")
                box = driver.find_element("css selector", "#query textarea, #query input")
                box.send_keys("the dog\n")
                first = "document.querySelector('#by-words .clip')"
                wait_for(driver, f"return {first} !== null")
                driver.execute_script(f"{first}.querySelector('video').play()")
                start = int(driver.execute_script(f"return {first}.dataset.start"))
                time = wait_for(driver, f"return {first}.querySelector('video').currentTime")
                assert start <= time < start + 16


async def _talk_as_an_agent(address: str) -> None:
    """Lists the tools, calls those that need no upload, and reads the answers, which Gradio writes as Python would."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(f"{address}gradio_api/mcp/") as (read, write, *_),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        tools = {tool.name[tool.name.index("find_") :]: tool for tool in (await session.list_tools()).tools}
        assert set(tools) == {"find_with_words", "find_with_video", "find_similar"}
        assert all(tool.description.startswith("Find the moments") for tool in tools.values())

        async def call(name: str, **arguments: Any) -> tuple[bool, str]:
            answer = await session.call_tool(tools[name].name, arguments)
            return answer.isError, answer.content[0].text

        failed, text = await call("find_with_words", query="the dog")
        best = ast.literal_eval(text)[0]
        assert not failed and set(best) == {"video", "score", "start", "end"}
        failed, text = await call("find_similar", video=best["video"], start=best["start"])
        others = {hit["video"] for hit in ast.literal_eval(text)}
        assert not failed and others == {"a.mp4", "b & c.mp4", "trip/été 视频.mp4"} - {best["video"]}
        failed, text = await call("find_similar", video="a.mp4")  # from its beginning
        assert not failed and ast.literal_eval(text)
        failed, text = await call("find_similar", video="../private.mp4")
        assert failed and "There is no video '../private.mp4' in this collection" in text
        failed, text = await call("find_with_words", query="  ")
        assert failed and "Type a few words." in text


def _status(address: str | urllib.request.Request) -> int:
    try:
        return urllib.request.urlopen(address).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["index.safetensors"], "index.safetensors is an index, which does not say where its videos are"),
        (["empty"], "There is no video in empty"),
        (["nowhere/"], "There is no folder, list of videos or index at 'nowhere/'"),
        (["videos"], "To search videos for the first time, pass --model"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, reason, page, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "empty_cache"))
    (home / "empty").mkdir(exist_ok=True)
    with pytest.raises(SystemExit) as stop:
        cli.main(["app", *arguments])
    assert stop.value.code == 1
    assert f"error: {reason}" in capsys.readouterr().err
