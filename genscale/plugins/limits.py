"""What the value of an option may be: its type, and the range of a number.

The ranges that several options share are named here once. The command line, a request.json, the metadata of an image
and calls from Python are all checked against them, before anything is allocated.
"""

from __future__ import annotations

import collections.abc
import functools
import math
import types
import typing
from dataclasses import dataclass, fields, is_dataclass
from numbers import Integral, Real
from typing import Any, get_args, get_origin

from genscale.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """The range of a number, ends included.

    above: whether `least` itself is left out.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False

    def admits(self, number: Any) -> bool:
        return self.least <= number <= self.most and not (self.above and number == self.least)

    def __str__(self) -> str:
        """As in "must be at least 1, and 100,000 at most"; "" where every number is in range."""
        lower = {-math.inf: "", 0: "above 0" if self.above else "0 or more"}.get(self.least)
        if lower is None:
            lower = f"{'above' if self.above else 'at least'} {_number(self.least)}"
        upper = "" if self.most == math.inf else f"{_number(self.most)} at most"
        return ", and ".join(part for part in (lower, upper) if part)


def _number(number: float) -> str:
    return f"{number:,}" if abs(number) < 1e12 else f"{number:g}"


COUNT = Limits(1, 100_000)
STEPS = Limits(1, 10_000)
FRAMES = Limits(1, 10_000)
SIDE = Limits(1, 16_384)
PIXELS = Limits(1, 2**25)  # of an image: 8K has 2**24.98
VIDEO_PIXELS = Limits(1, 2**31)  # of all frames
GUIDANCE = Limits(-10_000, 10_000)
SEED = Limits(0, 2**64 - 1)
RATE = Limits(0.1, 240)  # frames per second
SECONDS = Limits(0.01, 3600)  # of a sound
WHOLE = Limits(-(2**64), 2**64)  # of any whole number: an option may say more
NUMBER = Limits(-1e12, 1e12)  # of any other number; infinity is for the option to refuse

_PLAIN = {bool: "true or false", str: "a text", type(None): "none"}


def fault(value: Any, hint: Any) -> str | None:
    """How a value must be, if it is not what the annotation `hint` says; None where it is.

    No number may be NaN, or outside `WHOLE` or `NUMBER`, but for infinity. Annotations that are not made of numbers,
    texts, tuples and unions of them are not checked.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        faults = [fault(value, a) for a in args]
        return None if None in faults else " or ".join(dict.fromkeys(f for f in faults if f is not None))
    if origin is typing.Literal:
        return None if value in args else "one of " + ", ".join(map(str, args))
    if origin is tuple or (origin in (list, collections.abc.Sequence) and isinstance(value, list | tuple)):
        return _fault_of_sequence(value, origin, args)
    if hint is int:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return _out_of(WHOLE, value, "a whole number") if whole else "a whole number"
    if hint is float:
        if not isinstance(value, Real) or isinstance(value, bool) or value != value:
            return "a number"
        return None if math.isinf(value) else _out_of(NUMBER, value, "a number")
    if hint is str and isinstance(value, str):
        return None if is_text(value) else "a text that can be written as UTF-8"
    if origin in (dict, collections.abc.Mapping) or hint is dict:
        return None if isinstance(value, collections.abc.Mapping) else "an object"
    if origin is collections.abc.Callable:
        return None if callable(value) else "a function"
    return _PLAIN[hint] if hint in _PLAIN and not isinstance(value, hint) else None


def check_pixels(width: int | None, height: int | None, frames: int | None) -> None:
    """UsageError where an image or video has more pixels than any machine could hold. None: not known yet."""
    pixels = (width or 1) * (height or 1)
    if not PIXELS.admits(pixels):
        raise UsageError(
            f"{width}x{height} are {pixels:,} pixels: an image may have {PIXELS.most:,} at most."
        )
    if not VIDEO_PIXELS.admits(pixels * (frames or 1)):
        raise UsageError(
            f"{frames} frames of {width}x{height} are {pixels * (frames or 1):,} pixels: a video may have "
            f"{VIDEO_PIXELS.most:,} at most."
        )


def _fault_of_sequence(value: Any, origin: Any, args: tuple[Any, ...]) -> str | None:
    if not isinstance(value, tuple | list):
        inner = fault(object(), args[0]) if args else "values"
        return f"a list, each of it {inner}" if inner else "a list"
    if not args:
        return None
    fixed = origin is tuple and Ellipsis not in args
    if fixed and len(value) != len(args):
        return f"a list of {len(args)}"
    hints = args if fixed else [args[0]] * len(value)
    faults = (fault(item, hint) for item, hint in zip(value, hints, strict=True))
    return next((f"a list, each of it {words}" for words in faults if words is not None), None)


def _out_of(limits: Limits, value: Any, words: str) -> str | None:
    return None if limits.admits(value) else f"{words}, {limits}"


def is_text(value: str) -> bool:
    """Whether it can be written to a file: half a character (a lone surrogate) cannot, and NUL ends a name."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def shown(value: Any) -> str:
    """A value for a message, in quotes where it is a text, and shortened."""
    text = repr(value) if isinstance(value, str) else str(value)
    if not is_text(text) or "\n" in text:
        text = repr(text)
    return text if len(text) <= 60 else text[:57] + "..."


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError, AttributeError):  # a module that lacks a name: its options are not checked
        return {}


def check_options(what: str, cls: type[Any], values: typing.Mapping[str, Any]) -> None:
    """UsageError for the first value of a plug-in's options that is not what the field's annotation says.

    what: names the plug-in, such as "sampler 'smc'". A field's default is always allowed.
    """
    defaults = {f.name: f.default for f in fields(cls)} if is_dataclass(cls) else {}
    hints = _hints(cls)  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in hints or value is defaults.get(name, hints):
            continue
        wanted = fault(value, hints[name])
        if wanted is not None:
            raise UsageError(f"{what} refuses its options: {name}={shown(value)} must be {wanted}.")


def check_plugin(what: str, plugin: Any) -> None:
    """The same for an object, whose options are its dataclass fields."""
    if is_dataclass(plugin) and not isinstance(plugin, type):
        options = {
            f.name: getattr(plugin, f.name) for f in fields(plugin) if f.init and hasattr(plugin, f.name)
        }
        check_options(what, type(plugin), options)
