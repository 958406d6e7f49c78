"""Which clients are still there: those with an open connection, and those that had one a moment ago."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

GONE = 20.0  # seconds without a connection after which a client has left; a page that reconnects is faster


class Presence:
    """Counts the open streams of each client that has asked for a search."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = Counter[str]()
        self._seen: dict[str, float] = {}

    def heard(self, client: str) -> None:
        """The client has asked for a search; from now on it is looked for."""
        with self._lock:
            self._seen[client] = time.monotonic()

    def forget(self, client: str) -> None:
        with self._lock:
            self._seen.pop(client, None)

    def gone(self, client: str) -> bool:
        """Whether a client that was heard has had no connection for GONE seconds."""
        with self._lock:
            seen = self._seen.get(client)
            return seen is not None and not self._open[client] and time.monotonic() - seen > GONE

    @contextmanager
    def connected(self, client: str) -> Iterator[Connection]:
        connection = Connection(self, client)
        try:
            yield connection
        finally:
            connection.close()

    def _count(self, client: str, change: int) -> None:
        with self._lock:
            self._open[client] += change
            if not self._open[client]:
                del self._open[client]
            if client in self._seen:
                self._seen[client] = time.monotonic()


class Connection:
    """One open stream of a client."""

    def __init__(self, presence: Presence, client: str) -> None:
        self.presence, self.client, self.is_open = presence, client, True
        presence._count(client, 1)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.presence._count(self.client, -1)

    async def serve(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Let an ASGI application answer; the connection closes when the client does, even if nobody looks."""
        waiting: asyncio.Queue[Any] = asyncio.Queue()

        async def listen() -> None:
            while self.is_open:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.close()
                await waiting.put(message)

        async def next_message() -> Any:
            if not self.is_open and waiting.empty():
                return {"type": "http.disconnect"}
            return await waiting.get()

        listening = asyncio.create_task(listen())
        try:
            await app(scope, next_message, send)
        finally:
            listening.cancel()
