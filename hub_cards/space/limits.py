"""What one visitor may ask of the server. The browser's limits are no limits: programs call the server without it."""

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import HTTPException

MAX_QUERY_CHARACTERS = 200
MAX_UPLOAD_BYTES = 20 << 20
MAX_BODY_BYTES = 64 << 10  # of every request that is no upload; a search is some hundred bytes
UPLOADS_AT_ONCE = 4
UPLOAD_SECONDS = 120
WAITING_REQUESTS = 64
SESSIONS_KEPT = 100  # Gradio keeps a copy of the page for each, here of nothing that a visitor would miss
DECODING_SECONDS = 20  # of processor time, for the seconds of a video that are read
DECODING_BYTES = 2 << 30  # address space of the process that decodes
REDIRECTS = 5
_FORM_BYTES = 4096  # what multipart/form-data adds to a file


# Two letters at least: C:/ is a drive.
_OF_ANOTHER_SERVER = re.compile(r"/file=\s*\w{2,}:/", re.IGNORECASE)
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RequestLimits:
    """ASGI middleware that answers 413 to a request that is too large, before its body is read.

    A body without a declared length is cut off at the limit. Uploads are also limited in number (503) and in time. What
    another server has is not passed on (403), which Gradio would do for everybody.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]):
        self.app = app
        self.uploads = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _OF_ANOTHER_SERVER.search(scope["path"]):
            return await _refuse(send, 403, "Files of other servers are not passed on.")
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        is_upload = scope["path"].rstrip("/").endswith("/upload")
        limit = MAX_UPLOAD_BYTES + _FORM_BYTES if is_upload else MAX_BODY_BYTES
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or len(declared) > 20 or int(declared) > limit:
            return await _refuse(send, 413, f"The request is too large: at most {limit:,} bytes are read.")
        if is_upload and self.uploads >= UPLOADS_AT_ONCE:
            return await _refuse(send, 503, "Too many uploads at once: try again in a minute.")
        self.uploads += is_upload
        answered = False

        async def answer(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            async with asyncio.timeout(UPLOAD_SECONDS if is_upload else None):
                await self.app(scope, _counted(receive, limit), answer)
        except TimeoutError:
            if not answered:
                await _refuse(send, 408, f"The upload takes too long: at most {UPLOAD_SECONDS} seconds.")
        finally:
            self.uploads -= is_upload


def limit_downloads(video: Any) -> None:
    """Let a `gr.Video` that is given an address, as agents do, fetch it within the limits of an upload.

    Gradio reads the whole answer into memory, however large it is and however long it takes.
    """
    inner, turn = video.async_move_resource_to_block_cache, asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def limited(source: str | Path | None) -> str | None:
        if not str(source).startswith(("http://", "https://")):
            return await inner(source)
        async with turn:
            return await inner(await fetch(str(source), Path(video.GRADIO_CACHE)))

    video.async_move_resource_to_block_cache = limited


async def fetch(url: str, folder: Path) -> Path:
    """Download a file from a public server.

    Returns:
        The file, in `folder`.

    Raises:
        gr.Error: if it is larger than an upload may be, takes longer, is compressed, is not on a public server, or is
            not there. Nothing is left of it.
    """
    import gradio as gr
    import httpx

    path = folder / secrets.token_hex(16) / "video"
    path.parent.mkdir(parents=True)
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            await _download(url, path)
        return path
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        late = isinstance(error, TimeoutError)
        path.unlink(missing_ok=True)
        path.parent.rmdir()
        reason = f"it takes longer than {UPLOAD_SECONDS} seconds" if late else str(error) or type(error).__name__
        raise gr.Error(f"The video cannot be fetched: {reason}. Upload it instead.") from None


async def _download(url: str, path: Path) -> None:
    import httpx
    import safehttpx

    for _ in range(REDIRECTS + 1):
        # The address that was looked at is the one that is asked, so that a name cannot change in between.
        transport = safehttpx.AsyncSecureTransport(await safehttpx.async_validate_url(httpx.URL(url).host))
        asked = {"Accept-Encoding": "identity"}  # a small body could become a large file
        async with httpx.AsyncClient(transport=transport) as client, client.stream("GET", url, headers=asked) as answer:
            if answer.has_redirect_location:
                url = str(answer.url.copy_with(host=httpx.URL(url).host).join(answer.headers["location"]))
                continue
            if answer.status_code != 200:
                raise ValueError(f"the server answers {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise ValueError("the server compresses it")
            received = 0
            with open(path, "wb") as file:
                async for chunk in answer.aiter_raw():
                    received += len(chunk)
                    if received > MAX_UPLOAD_BYTES:
                        raise ValueError(f"it is larger than {MAX_UPLOAD_BYTES >> 20} MB")
                    file.write(chunk)
            return
    raise ValueError(f"it is redirected more than {REDIRECTS} times")


class _TooLarge(HTTPException):
    """More has arrived than is allowed. FastAPI makes its answer from it while it reads a body."""

    def __init__(self, limit: int):
        super().__init__(413, f"The request is too large: at most {limit:,} bytes are read.")


def _counted(receive: Receive, limit: int) -> Receive:
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _TooLarge(limit)
        return message

    return counting


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))  # else the server would read the rest to keep the connection
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
