"""Looks up a pipeline's execution device once a search.

diffusers walks through every module of the pipeline for it: some milliseconds in each of a search's pipeline calls.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PROPERTY, _SEEN = "_execution_device", "_genscale_device"


@contextmanager
def cached_device(pipe: Any, seen: list[Any]) -> Iterator[None]:
    """Inside, `pipe` is an instance of a subclass of its class that keeps the device of the first look-up in `seen`.

    The list is kept among the pipeline's attributes; where these are replaced, the device is looked up again.
    """
    cls: type = type(pipe)
    steady = isinstance(getattr(cls, _PROPERTY, None), property)
    if steady:
        pipe.__class__ = _subclass(cls)
        pipe.__dict__[_SEEN] = seen
    try:
        yield
    finally:
        pipe.__class__ = cls
        pipe.__dict__.pop(_SEEN, None)


@functools.cache
def _subclass(cls: type) -> type:
    if _SEEN in cls.__dict__:  # a call within an intercepted call
        return cls
    look = getattr(cls, _PROPERTY).fget

    def device(self: Any) -> Any:
        seen = self.__dict__.get(_SEEN)
        if seen is None:
            return look(self)
        if not seen:
            seen.append(look(self))
        return seen[0]

    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls,), {**names, _SEEN: None, _PROPERTY: property(device)})
