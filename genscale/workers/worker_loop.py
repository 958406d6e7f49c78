"""The life of a worker: searches, one after the other, and the work of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from genscale.workers import wire
from genscale.workers.messages import Begin, Done, End, Failed, Work, sendable


class WorkOfACall(Protocol):
    """What a worker does in one search: takes its tasks, and answers each before it takes the next."""

    def __call__(self, tasks: Iterator[Any], answer: Callable[[Any], None]) -> None: ...


def work(
    receive: Callable[[], bytes], send: Callable[[bytes], None], open_call: Callable[[Any], WorkOfACall]
) -> None:
    """Serve searches until the driver is gone (`receive` raises EOFError or OSError).

    open_call: prepares a search from what `Begin` holds.
    """
    message: Any = None
    try:
        while True:
            message = wire.loads(receive()) if message is None else message
            if not isinstance(message, Begin):
                message = None  # what is left of a search that failed here
                continue
            message = _serve(message, receive, send, open_call)
    except (EOFError, OSError):
        return


def _serve(
    begin: Begin,
    receive: Callable[[], bytes],
    send: Callable[[bytes], None],
    open_call: Callable[[Any], WorkOfACall],
) -> Begin | None:
    """Serve one search; the beginning of the next, if that has come already."""
    number: int | None = None
    following: Begin | None = None

    def tasks() -> Iterator[Any]:
        nonlocal number, following
        while True:
            message = wire.loads(receive())
            if isinstance(message, Begin):
                following = message
                return
            if message.call != begin.call:
                continue
            if isinstance(message, End):
                return
            assert isinstance(message, Work)
            number = message.number
            yield message.task

    def answer(value: Any) -> None:
        assert number is not None
        send(wire.dumps(Done(begin.call, number, value)))

    try:
        open_call(begin.opening)(tasks(), answer)
    except (EOFError, OSError):
        raise
    except BaseException as error:
        send(wire.dumps(Failed(begin.call, number, sendable(error))))
    return following
