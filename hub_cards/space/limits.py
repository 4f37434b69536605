"""What one visitor may ask of the server. The browser's limits are no limits: programs call the server without it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
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
_FORM_BYTES = 4096  # what multipart/form-data adds to a file


Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RequestLimits:
    """ASGI middleware that answers 413 to a request that is too large, before its body is read.

    A body without a declared length is cut off at the limit. Uploads are also limited in number (503) and in time.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]):
        self.app = app
        self.uploads = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
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
