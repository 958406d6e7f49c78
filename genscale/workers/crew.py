"""Workers that share the work of one search: who gets what, and what becomes of the work of one that dies.

Work is given to whoever has least of it. Answers are asked for by the number of the work, in any order, so what is
decided from them does not depend on how fast the workers are.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from genscale.errors import UsageError
from genscale.workers import wire
from genscale.workers.messages import Begin, Done, End, Failed, Work

AHEAD = 2  # pieces of work that a worker has at once, so that it need not wait for the driver between them
LIVES = 3  # workers that may die over one piece of work before it is given up
_TICK = 0.5  # seconds between looks at the clock, while no message arrives

Inbox = queue.SimpleQueue[tuple[int, int, bytes | None]]
"""(worker, which of its lives, message); None as the message: it has died."""


class Link(Protocol):
    """A running worker. Its messages come through the inbox that it was started with."""

    def send(self, message: bytes) -> None:
        """Raises OSError if the worker has died, which the inbox tells, too."""

    def stop(self) -> None:
        """End it at once."""


@dataclass
class _Worker:
    link: Link
    life: int = 0
    has: list[int] = field(default_factory=list)  # numbers of the work that it was given, in order
    since: float = 0.0  # when it began with the first of them


class Crew:
    """The workers of one executor, for one search at a time.

    start: starts worker i, which sends to the inbox as the given life of that worker. count: workers.
    timeout: seconds that a piece of work may take; the worker is then ended, and another one gets the work.
    """

    def __init__(
        self, start: Callable[[int, int, Inbox], Link], count: int, timeout: float | None = None
    ) -> None:
        self.count, self._start, self._timeout = count, start, timeout
        self._inbox: Inbox = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._call, self._opening = 0, b""
        self._reset()

    def _reset(self) -> None:
        self._next = 0
        self._work: dict[int, bytes] = {}  # that has no answer yet
        self._waiting: deque[int] = deque()  # that no worker has
        self._answers: dict[int, Any] = {}
        self._deaths: dict[int | None, int] = {}

    # ---------------------------------------------------------------- of a search

    def begin(self, opening: Any) -> None:
        """Start the workers, if they are not running, and tell them of a search."""
        self._reset()
        self._call += 1
        self._opening = wire.dumps(Begin(self._call, opening))
        if not self._workers:
            self._workers = [_Worker(self._start(i, 0, self._inbox)) for i in range(self.count)]
        for i in range(self.count):
            self._send(i, self._opening)

    def submit(self, task: Any) -> int:
        """Have something done; the number to ask for the answer with."""
        number, self._next = self._next, self._next + 1
        self._work[number] = wire.dumps(Work(self._call, number, task))
        self._waiting.append(number)
        self._give()
        return number

    def result(self, number: int) -> Any:
        """The answer to a piece of work; waits for it. Raises what the work raised in the worker."""
        while number not in self._answers:
            self._listen()
        return self._answers.pop(number)

    def forget(self, number: int) -> None:
        """Its answer will not be asked for. A worker that is at it finishes it."""
        self._answers.pop(number, None)
        self._work.pop(number, None)
        if number in self._waiting:
            self._waiting.remove(number)

    def end(self) -> None:
        """The search has ended. Work that was not asked for is forgotten; a worker that is at it finishes that."""
        for i in range(len(self._workers)):
            self._send(i, wire.dumps(End(self._call)))
            self._workers[i].has = []
        self._reset()

    def close(self) -> None:
        """End all workers."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.link.stop()

    # ---------------------------------------------------------------- workers

    def _give(self) -> None:
        while self._waiting:
            i = min(range(self.count), key=lambda i: len(self._workers[i].has))
            worker = self._workers[i]
            if len(worker.has) >= AHEAD:
                return
            number = self._waiting.popleft()
            if not worker.has:
                worker.since = time.monotonic()
            worker.has.append(number)
            self._send(i, self._work[number])

    def _send(self, i: int, message: bytes) -> None:
        try:
            self._workers[i].link.send(message)
        except OSError:  # it has died; the inbox tells so
            return

    def _listen(self) -> None:
        """Take in one message, if there is one soon."""
        try:
            i, life, data = self._inbox.get(timeout=_TICK)
        except queue.Empty:
            self._end_those_that_hang()
            return
        if life != self._workers[i].life:
            return
        if data is None:
            self._replace(i)
            return
        message = wire.loads(data)
        if message.call != self._call:
            return
        if isinstance(message, Failed):
            raise message.error
        if isinstance(message, Done):
            self._take(i, message)

    def _take(self, i: int, message: Done) -> None:
        worker = self._workers[i]
        worker.has.remove(message.number)
        worker.since = time.monotonic()
        if self._work.pop(message.number, None) is not None:
            self._answers[message.number] = message.answer
        self._give()

    def _end_those_that_hang(self) -> None:
        if self._timeout is None:
            return
        for i, worker in enumerate(self._workers):
            if worker.has and time.monotonic() - worker.since > self._timeout:
                self._replace(i)

    def _replace(self, i: int) -> None:
        """Start another worker in place of one that died or hangs; its work is given out again, first of all.

        UsageError: one piece of work, or the beginning, has cost LIVES workers.
        """
        worker = self._workers[i]
        worker.link.stop()
        lost = worker.has
        blamed = lost[0] if lost else None
        self._deaths[blamed] = self._deaths.get(blamed, 0) + 1
        if self._deaths[blamed] >= LIVES:
            what = "before they had work" if blamed is None else "over the same piece of work"
            raise UsageError(
                f"{LIVES} worker processes died {what}: look whether memory suffices, and use fewer workers or a "
                "smaller batch_size."
            )
        life = worker.life + 1
        self._workers[i] = _Worker(self._start(i, life, self._inbox), life)
        self._send(i, self._opening)
        self._waiting.extendleft(reversed(lost))
        self._give()
