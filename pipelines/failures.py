"""Judges what a pipeline, a model or the user's code raised, before anything is concluded from it."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

MISMATCH = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)
"""What code raises when sizes do not fit; an exception of another kind never comes from the number of rows."""


def alike(a: Exception, b: Exception) -> bool:
    """Whether two exceptions say the same."""
    return type(a) is type(b) and str(a) == str(b)


def fails_again(error: Exception, attempt: Callable[[], Any]) -> bool:
    """Whether what raised `error` fails in the same way once more: then it is no passing fault."""
    try:
        attempt()
    except Exception as again:
        return alike(error, again)
    return False


def fails(attempt: Callable[[], Any]) -> bool:
    """Whether it raises anything."""
    try:
        attempt()
    except Exception:
        return True
    return False


def may_be_mismatch(error: Exception, given: Mapping[str, Any]) -> bool:
    """Whether `error` is of a kind that sizes cause and did not come out of a function among the arguments."""
    return isinstance(error, MISMATCH) and not raised_in(error, (v for v in given.values() if callable(v)))


def raised_in(error: BaseException, functions: Iterable[Any]) -> bool:
    """Whether an exception passed through one of these callables."""
    codes = {code for function in functions for code in _codes(function)}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def _codes(function: Any) -> Iterator[types.CodeType]:
    """Code of a function, of a method, of what a functools.partial calls, or of an object that can be called."""
    function = getattr(function, "func", function)
    of_class = (vars(cls).get("__call__") for cls in type(function).__mro__)
    for found in (function, *of_class):
        code = getattr(getattr(found, "__func__", found), "__code__", None)
        if isinstance(code, types.CodeType):
            yield code
