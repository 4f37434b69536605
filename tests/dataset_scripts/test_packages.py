"""Packages of npm: what is sent to their registry, and what is said of it."""

import hashlib
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from polyvid.dataset_scripts.packages import NpmPackage
from polyvid.modeling.errors_mmp import PolyvidError

CONTENT = b"a package"
PACKAGE = NpmPackage("@iconify-json/noto", "1.2.9", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def registry():
    """A registry of packages that knows one user; its address, and the paths that were asked for."""
    asked = []

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            known = b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")) == b"ada:s3cret/word"
            self.send_response(200 if known else 401)
            self.end_headers()
            if known:
                self.wfile.write(CONTENT)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}/npm", asked
    server.shutdown()
    server.server_close()


def test_name_and_password_of_a_registry_are_sent(registry, monkeypatch):
    address, asked = registry
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://ada:s3cret%2Fword@{address}/")
    assert PACKAGE.read() == CONTENT
    assert asked == ["/npm/@iconify-json/noto/-/noto-1.2.9.tgz"]


@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_they_are_never_shown(registry, monkeypatch, scheme):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"{scheme}://eve:guess42@{registry[0]}")
    with pytest.raises(PolyvidError) as refused:
        PACKAGE.read()
    assert "guess42" not in str(refused.value) and "eve" not in str(refused.value)
    assert ("cannot be fetched (Unauthorized)" if scheme == "http" else "NPM_CONFIG_REGISTRY") in str(refused.value)
