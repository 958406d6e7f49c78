"""A search changes a pipeline for its own thread only.

During an intercepted call the pipeline has another scheduler, another class and other attributes, and the loop writes
its own (guidance scale, step counts). Other threads may call the same pipeline at that time. They are led to a second
object of the pipeline's class that holds the attributes as they were: what they read is unchanged, and what they write
stays on the pipeline after the search. So their calls and the search do not meet.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any


class Hold:
    """A pipeline whose attributes belong to one thread for a while. outside: the object that other threads see."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.thread = pipe, threading.get_ident()
        self.outside = object.__new__(type(pipe))
        # The very dictionary of the pipeline: nothing that another thread writes meanwhile is lost.
        object.__setattr__(self.outside, "__dict__", pipe.__dict__)
        self._interrupt_seen = bool(pipe.__dict__.get("_interrupt"))

    def interrupted(self) -> bool:
        """Whether another thread has set `pipe._interrupt` since this was last asked."""
        now, before = bool(self.outside.__dict__.get("_interrupt")), self._interrupt_seen
        self._interrupt_seen = now
        return now and not before


_holds: dict[int, Hold] = {}  # by id of the pipeline


@contextmanager
def held(pipe: Any) -> Iterator[tuple[Any, Hold | None]]:
    """Inside, this thread may change the pipeline without other threads seeing it; afterwards it is as they left it.

    Yields the pipeline to change, which is another object where another thread holds this one, and the hold. The hold
    is None inside another one of the same thread.
    """
    around = _holds.get(id(pipe))
    if around is not None and around.thread == threading.get_ident():
        yield pipe, None
        return
    pipe = pipe if around is None else around.outside
    if id(pipe) in _holds:
        with held(pipe) as inner:
            yield inner
        return
    cls, hold = type(pipe), Hold(pipe)
    try:
        _holds[id(pipe)] = hold
        object.__setattr__(pipe, "__class__", _per_thread(cls))  # type: ignore[arg-type]
        object.__setattr__(pipe, "__dict__", dict(hold.outside.__dict__))
        yield pipe, hold
    finally:
        object.__setattr__(pipe, "__dict__", hold.outside.__dict__)
        object.__setattr__(pipe, "__class__", cls)
        _holds.pop(id(pipe), None)


def _outside(pipe: Any) -> Any:
    """The object to use instead of a held pipeline; None in the thread that holds it."""
    hold = _holds.get(id(pipe))
    return None if hold is None or hold.thread == threading.get_ident() else hold.outside


@functools.cache
def _per_thread(cls: Any) -> type:
    """A subclass that leads other threads to the object outside."""

    def read(self: Any, name: str) -> Any:
        other = _outside(self)
        if other is None:
            return cls.__getattribute__(self, name)
        value = getattr(other, name)
        # Methods keep this object, which they may return.
        bound = type(value) is MethodType and value.__self__ is other
        return MethodType(value.__func__, self) if bound else value

    def write(self: Any, name: str, value: Any) -> None:
        other = _outside(self)
        if other is None:
            cls.__setattr__(self, name, value)
        else:
            setattr(other, name, value)

    def delete(self: Any, name: str) -> None:
        other = _outside(self)
        if other is None:
            cls.__delattr__(self, name)
        else:
            delattr(other, name)

    members = {"__getattribute__": read, "__setattr__": write, "__delattr__": delete}
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {**names, **members, "__slots__": ()})
