"""A stub of an image service on localhost that is slow, busy or broken as it is told."""

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

from tests.generators import seeded

Trouble = Callable[[int, int], str | None]
"""(seed, how often this seed was asked before) -> what goes wrong, None: nothing."""


class Service:
    """What the service saw. most: requests at the same time. times: of the requests of each seed."""

    def __init__(self, trouble: Trouble, pause: float) -> None:
        self.trouble, self.pause = trouble, pause
        self.asked: Counter[int] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: dict[int, list[float]] = {}
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.url = ""


def png(seed: int) -> bytes:
    file = io.BytesIO()
    seeded("", seed).save(file, format="PNG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    service: Service

    def do_GET(self) -> None:
        self._send(200, png(int(self.path.rpartition("/")[2])), "image/png")

    def do_POST(self) -> None:
        service = self.service
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seed = int(body.get("seed", 0))
        with service.lock:
            before = service.asked[seed]
            service.asked[seed] += 1
            service.bodies.append(body)
            service.headers.append(dict(self.headers))
            service.times.setdefault(seed, []).append(time.monotonic())
            service.now += 1
            service.most = max(service.most, service.now)
        try:
            time.sleep(service.pause)
            self._answer(seed, service.trouble(seed, before))
        finally:
            with service.lock:
                service.now -= 1

    def _answer(self, seed: int, trouble: str | None) -> None:
        kind, _, value = (trouble or "").partition(" ")
        if kind == "status":
            code, _, after = value.partition(" ")
            error = {"error": {"message": "the stub says no"}}
            self._send(int(code), json.dumps(error).encode(), more={"Retry-After": after} if after else {})
        elif kind == "slow":
            time.sleep(float(value))
            self._send(200, b"{}")
        elif kind == "close":
            self.connection.close()
        elif kind == "cut":
            self._send(200, b"{", more={"Content-Length": "1000"})
        elif kind == "garbage":
            self._send(200, b"not JSON")
        elif kind == "other":
            self._send(200, json.dumps({"images": []}).encode())
        elif kind == "broken":
            data = base64.b64encode(b"no image").decode()
            self._send(200, json.dumps({"data": [{"b64_json": data}]}).encode())
        elif kind == "url":
            self._send(200, json.dumps({"data": [{"url": f"{self.service.url}/{seed}"}]}).encode())
        elif kind == "redirect":
            self._send(302, b"", more={"Location": self.service.url + "/elsewhere"})
        else:
            data = base64.b64encode(png(seed)).decode()
            self._send(200, json.dumps({"data": [{"b64_json": data}]}).encode())

    def _send(self, code: int, data: bytes, kind: str = "application/json", more: Any = None) -> None:
        try:
            self.send_response(code)
            for name, value in (
                {"Content-Type": kind, "Content-Length": str(len(data))} | (more or {})
            ).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            if (more or {}).get("Content-Length"):
                self.close_connection = True
        except OSError:  # the client has gone
            pass

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(trouble: Trouble = lambda seed, before: None, pause: float = 0.0) -> Iterator[Service]:
    service = Service(trouble, pause)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"service": service}))
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
