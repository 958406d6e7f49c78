"""The addresses of images and files of a search, and the gate that closes whatever the page does not need."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from genscale.demo.html import FILES
from genscale.demo.jobs import Job, JobQueue
from genscale.demo.live_curve import LiveCurve
from genscale.demo.presence import Presence

TYPES = {
    ".png": "image/png",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
}
ARCHIVE = "run.zip"
HEAVY = 256 * 2**20  # bytes; a larger folder is packed without its subfolders (latents)
BODY = 2**18  # bytes that a page may send at once

# All that the page needs: no uploads, no files by path, no proxy, no list of functions.
_NEEDED = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json)|/(assets|static|svelte|search)/.+"
    r"|/gradio_api/(queue/(join|data)|run/predict|heartbeat/\w+|cancel|reset)/?"
)

_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "style-src 'self' 'unsafe-inline'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}


class Gate:
    """ASGI middleware: answers only the addresses that the page needs, and forbids the browser to ask other hosts.

    presence: is told of the streams that clients hold open.
    """

    def __init__(self, app: Any, presence: Presence) -> None:
        self.app, self.presence = app, presence

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not _NEEDED.fullmatch(scope["path"]):
            await _refuse(send, 404, b"not offered here")
            return
        if scope["method"] == "POST":
            body = await _body(receive)
            if body is None or not plain_fields(body):
                await _refuse(send, 400, b"a field is a text, a number or a list")
                return
            receive = _replayed(body, receive)

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS.items()]}
            await send(message)

        if (client := _streaming(scope)) is None:
            await self.app(scope, receive, guarded)
            return
        with self.presence.connected(client) as connection:
            await connection.serve(self.app, scope, receive, guarded)


def _streaming(scope: Any) -> str | None:
    """The session of a request that stays open as long as its client does: Gradio's heartbeat and messages."""
    path = scope["path"].rstrip("/")
    if path == "/gradio_api/queue/data":
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        return asked["session_hash"][0] if "session_hash" in asked else None
    found = re.fullmatch(r"/gradio_api/heartbeat/(\w+)", path)
    return None if found is None else found[1]


def plain_fields(body: bytes) -> bool:
    """Whether a request to Gradio's queue has no object among its fields.

    Gradio takes an object with a path and "meta" for a file, in any field, also in one for text: it would fetch it from
    a URL, or read it from the upload folder. No field of the page sends an object.
    """
    try:
        found = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and _is_plain(found.get("data"))


def _is_plain(value: Any, depth: int = 2) -> bool:
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(v, depth - 1) for v in value)
    return not isinstance(value, dict)


async def _refuse(send: Any, status: int, text: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(HEADERS.items())})
    await send({"type": "http.response.body", "body": text})


async def _body(receive: Any) -> bytes | None:
    """The whole body; None where it is too long or the client has gone."""
    parts, length, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        length, more = length + len(parts[-1]), message.get("more_body", False)
        if length > BODY:
            return None
    return b"".join(parts)


def _replayed(body: bytes, receive: Any) -> Any:
    """A `receive` that gives the body once more."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return messages.pop() if messages else await receive()

    return again


def add_routes(app: Any, queue: JobQueue, curves: Mapping[str, LiveCurve]) -> None:
    """Names are looked up in `Job.files` and `Watch`, never joined to a path. curves: by token."""
    from fastapi import Response
    from fastapi.responses import FileResponse

    def answer(token: str, name: str) -> Any:
        job = queue.job(token)
        if job is None:
            return Response("there is no such search", 404)
        kind = name.rpartition(".")[2]
        if kind in ("tile", "full"):
            return _image(job, name.rpartition(".")[0], kind == "full")
        if kind == "live":
            return _bytes(curves[token].png if token in curves else None)
        if name == ARCHIVE and job.over and job.files:
            packed = pack(job)
            return FileResponse(
                packed, media_type="application/zip", filename=ARCHIVE, background=_removing(packed)
            )
        path = job.files.get(name)
        if path is None or not path.is_file():
            return Response("there is no such file", 404)
        return FileResponse(path, media_type=TYPES.get(path.suffix, "application/octet-stream"))

    app.add_api_route(FILES + "/{token}/{name}", answer, methods=["GET"], include_in_schema=False)


def _image(job: Job, key: str, large: bool) -> Any:
    """A candidate's image; in full size where that was kept."""
    small = job.watch.images.get(key)
    return _bytes(job.watch.large.get(key, small) if large else small)


def _bytes(data: bytes | None) -> Any:
    from fastapi import Response

    if data is None:
        return Response("there is no such image", 404)
    kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    return Response(data, media_type=kind, headers={"cache-control": "private, max-age=3600, immutable"})


def pack(job: Job) -> Path:
    """The folder of a search as a zip in a temporary file."""
    files = sorted(path for path in job.folder.rglob("*") if path.is_file())
    if sum(path.stat().st_size for path in files) > HEAVY:
        files = [path for path in files if path.parent == job.folder]
    with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.relative_to(job.folder))
        return Path(file.name)


def _removing(path: Path) -> Any:
    from starlette.background import BackgroundTask

    remove: Callable[[], None] = path.unlink
    return BackgroundTask(remove)
