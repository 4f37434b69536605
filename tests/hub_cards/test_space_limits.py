"""What the pages fetch for a program that names a video by its address, and what they pass on of other servers."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

gr = pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")
safehttpx = pytest.importorskip("safehttpx")

from polyvid.hub_cards.space import limits  # noqa: E402


class Videos(BaseHTTPRequestHandler):
    """Serves `/small` and what a page must not take."""

    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/small")
            return self.end_headers()
        if self.path == "/circle":
            self.send_response(302)
            self.send_header("Location", "/circle")
            return self.end_headers()
        if self.path == "/absent":
            return self.send_error(404)
        self.send_response(200)
        if self.path == "/gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if self.path == "/endless":
            while True:
                self.wfile.write(bytes(1 << 16))
        if self.path == "/silent":
            self.server.stopped.wait(20)
        self.wfile.write(b"a video")

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass  # the page has hung up

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of the server, which the pages take for a public one."""

    async def public(host):
        return "127.0.0.1"

    monkeypatch.setattr(safehttpx, "async_validate_url", public)
    with ThreadingHTTPServer(("127.0.0.1", 0), Videos) as own:
        own.daemon_threads, own.stopped = True, threading.Event()
        threading.Thread(target=own.serve_forever, daemon=True).start()
        yield f"http://videos.example:{own.server_port}"
        own.stopped.set()
        own.shutdown()


@pytest.mark.parametrize("path", ["/small", "/moved"])
def test_a_video_with_an_address_is_fetched(server, tmp_path, path):
    assert asyncio.run(limits.fetch(server + path, tmp_path)).read_bytes() == b"a video"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/endless", "it is larger than 20 MB"),
        ("/silent", "it takes longer than 1 seconds"),
        ("/gzip", "the server compresses it"),
        ("/circle", "it is redirected more than 5 times"),
        ("/absent", "the server answers 404"),
    ],
)
def test_what_an_upload_could_not_be_is_not_fetched_either(server, tmp_path, monkeypatch, path, reason):
    if path == "/silent":
        monkeypatch.setattr(limits, "UPLOAD_SECONDS", 1)
    with pytest.raises(gr.Error, match=f"The video cannot be fetched: {reason}. Upload it instead."):
        asyncio.run(limits.fetch(server + path, tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a.mp4", "http://[::1]/a.mp4", "http://", "http://169.254.169.254/"]
)
def test_only_public_servers_are_asked(tmp_path, monkeypatch, url):
    async def nothing(host):
        return []

    monkeypatch.setattr(safehttpx, "async_resolve_hostname_google", nothing)
    with pytest.raises(gr.Error, match="The video cannot be fetched"):
        asyncio.run(limits.fetch(url, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_video_input_fetches_within_the_limits(server, tmp_path, monkeypatch):
    """What Gradio calls for an address in a request; a file of the server goes its own way."""
    video = gr.Video()
    video.GRADIO_CACHE = str(tmp_path)
    limits.limit_downloads(video)
    fetched = asyncio.run(video.async_move_resource_to_block_cache(f"{server}/small"))
    assert tmp_path in Path(fetched).parents and Path(fetched).read_bytes() == b"a video"
    with pytest.raises(gr.Error, match="larger than 20 MB"):
        asyncio.run(video.async_move_resource_to_block_cache(f"{server}/endless"))
    assert asyncio.run(video.async_move_resource_to_block_cache(None)) is None


@pytest.mark.parametrize("prefix", ["", "/gradio_api"])
@pytest.mark.parametrize("url", ["http://example.org/a.mp4", "https://example.org", "HTTPS://example.org", "ftp://x/y"])
def test_the_server_is_no_proxy_for_others(prefix, url):
    async def page(scope, receive, send):
        raise AssertionError("Gradio would fetch it")

    client = httpx.AsyncClient(transport=httpx.ASGITransport(limits.RequestLimits(page)), base_url="http://localhost")
    answer = asyncio.run(client.get(f"{prefix}/file={url}"))
    assert answer.status_code == 403 and "other servers" in answer.text
