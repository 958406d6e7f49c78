"""A stub of a server with OpenAI's chat API on localhost, that is slow, busy or broken as it is told.

It sees the images: its numbers are computed from their pixels, so that an answer that reaches the wrong image shows.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

Level = int
"""The mean grey of an image, 0 to 255: its name in the stub."""
Trouble = Callable[[Level, int], str | None]
"""(level of the first image, how often it was asked about before) -> what goes wrong; None: nothing."""


def nothing(level: Level, before: int) -> str | None:
    return None


class Service:
    """What the server saw. most: requests at the same time. waves: how often `together` of them were let go at once.

    say: the content of an answer, from the text of the question and the levels of its images. together: requests that
    are held back until so many are there; 0: none are.
    """

    def __init__(self, trouble: Trouble, say: Callable[[str, list[Level]], Any], together: int) -> None:
        self.trouble, self.say, self.together = trouble, say, together
        self.models = ["stub"]
        self.asked: Counter[Level] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered: list[Level] = []
        self.now = self.most = self.waves = 0
        self.lock = threading.Lock()
        self.barrier = threading.Barrier(max(together, 1), action=self._wave)
        self.url = ""

    def _wave(self) -> None:
        self.waves += 1

    @property
    def requests(self) -> int:
        return len(self.bodies)


def score_of(level: Level) -> dict[str, float]:
    """What the stub thinks of an image."""
    return {
        "alignment": level * 10 / 255,
        "quality": 10 - level * 10 / 255,
        "aesthetics": float(level % 11) * 10 / 11,
    }


def plain(text: str, levels: list[Level]) -> Any:
    """A judge's JSON, or its comparison by brightness where it sees two images."""
    if len(levels) == 2:
        return json.dumps(
            {"reason": "brighter", "better": 0 if levels[0] == levels[1] else 1 + (levels[1] > levels[0])}
        )
    return json.dumps({"reason": f"grey {levels[0]}", **score_of(levels[0])})


class Handler(BaseHTTPRequestHandler):
    service: Service

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": m} for m in self.service.models]}).encode())

    def do_POST(self) -> None:
        service = self.service
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text, levels = _seen(body)
        name = levels[0] if levels else -1
        with service.lock:
            before = service.asked[name]
            service.asked[name] += 1
            service.bodies.append(body)
            service.headers.append(dict(self.headers))
            service.now += 1
            service.most = max(service.most, service.now)
        try:
            if service.together:
                service.barrier.wait(30)
            trouble = service.trouble(name, before)
            if trouble is not None and trouble.startswith("wait "):
                time.sleep(float(trouble.split()[1]))
            with service.lock:  # before the answer: then the client may ask again
                service.now -= 1
            self._answer(text, levels, trouble)
        except threading.BrokenBarrierError:
            self._send(400, b"{}")

    def _answer(self, text: str, levels: list[Level], trouble: str | None) -> None:
        kind, _, value = (trouble or "").partition(" ")
        if kind == "status":
            code, _, after = value.partition(" ")
            error = json.dumps({"error": {"message": "the stub says no"}}).encode()
            self._send(int(code), error, {"Retry-After": after} if after else {})
        elif kind == "close":
            self.connection.close()
        elif kind == "cut":
            self._send(200, b"{", {"Content-Length": "1000"})
        elif kind == "garbage":
            self._send(200, b"<html>not JSON</html>")
        elif kind == "empty":
            self._send(200, b"{}")
        elif kind == "say":
            self._say(value, levels)
        else:
            self._say(self.service.say(text, levels), levels)

    def _say(self, content: Any, levels: list[Level]) -> None:
        choice = (
            content if isinstance(content, dict) else {"message": {"role": "assistant", "content": content}}
        )
        self.service.answered.append(levels[0] if levels else -1)
        self._send(200, json.dumps({"choices": [choice]}).encode())

    def _send(self, code: int, data: bytes, more: dict[str, str] | None = None) -> None:
        try:
            self.send_response(code)
            for name, value in ({"Content-Length": str(len(data))} | (more or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            if (more or {}).get("Content-Length"):
                self.close_connection = True
        except OSError:  # the client has gone
            pass

    def log_message(self, *args: Any) -> None:
        pass


def _seen(body: dict[str, Any]) -> tuple[str, list[Level]]:
    content = body["messages"][0]["content"]
    if isinstance(content, str):
        return content, []
    texts = [part["text"] for part in content if part["type"] == "text"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    images = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    return "\n".join(texts), [round(float(np.asarray(image).mean())) for image in images]


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # further connections at once would be tried again after a second
    daemon_threads = True


@contextmanager
def serving(
    trouble: Trouble = nothing, say: Callable[[str, list[Level]], Any] = plain, together: int = 0
) -> Iterator[Service]:
    service = Service(trouble, say, together)
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"service": service}))
    service.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
