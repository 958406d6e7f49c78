"""The demo's own addresses: images and files of a search, for whoever has its token, and what the page may not do."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genscale.demo.html import FILES
from genscale.demo.jobs import Job, JobQueue
from genscale.demo.live_curve import LiveCurve

TYPES = {
    ".png": "image/png",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
}
ARCHIVE = "run.zip"
HEAVY = 256 * 2**20  # bytes; latents beyond that stay out of the archive

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
    """ASGI middleware: what the page does not need is not there, and the browser asks no other host for anything."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if not _NEEDED.fullmatch(path):
            await send({"type": "http.response.start", "status": 404, "headers": list(HEADERS.items())})
            await send({"type": "http.response.body", "body": b"not offered here"})
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS.items()]}
            await send(message)

        await self.app(scope, receive, guarded)


def add_routes(app: Any, queue: JobQueue, curves: Mapping[str, LiveCurve]) -> None:
    """Names are looked up among what a search left, never joined to a path. curves: by token."""
    from fastapi import Response
    from fastapi.responses import FileResponse

    def answer(token: str, name: str) -> Any:
        job = queue.job(token)
        if job is None:
            return Response("there is no such search", 404)
        kind = name.rpartition(".")[2]
        if kind == "tile":
            return _bytes(job.watch.pictures.get(name.removesuffix(".tile")))
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


def _bytes(data: bytes | None) -> Any:
    from fastapi import Response

    if data is None:
        return Response("there is no such image", 404)
    kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
    return Response(data, media_type=kind, headers={"cache-control": "private, max-age=3600, immutable"})


def pack(job: Job) -> Path:
    """The whole folder of a search as a zip in a temporary file."""
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
