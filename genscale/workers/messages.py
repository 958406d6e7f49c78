"""What the driver of a search and its workers say to each other."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import Any

from genscale.workers import wire


@dataclass(frozen=True)
class Begin:
    """A search begins: what a worker must know of it. call: its number; messages of earlier ones are ignored."""

    call: int
    opening: Any


@dataclass(frozen=True)
class Work:
    """A piece of work: its number in the search, and what is to be done."""

    call: int
    number: int
    task: Any


@dataclass(frozen=True)
class End:
    """The search has ended: nothing more is asked of it."""

    call: int


@dataclass(frozen=True)
class Done:
    """The answer to a piece of work."""

    call: int
    number: int
    answer: Any


@dataclass(frozen=True)
class Failed:
    """What a piece of work raised; number None: the beginning of the search."""

    call: int
    number: int | None
    error: BaseException


def sendable(error: BaseException) -> BaseException:
    """The exception, or one that says the same where it cannot be sent; with the worker's traceback as a note."""
    told = "".join(traceback.format_exception(error)).rstrip()
    try:
        again = wire.loads(wire.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError, ValueError):
        again = None
    if type(again) is not type(error) or str(again) != str(error):
        again = RuntimeError(f"{type(error).__name__}: {error}")
    if hasattr(again, "add_note"):  # from Python 3.11 on
        again.add_note(f"In a worker process:\n{told}")
    kept: BaseException = again
    return kept
