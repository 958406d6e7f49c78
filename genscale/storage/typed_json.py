"""JSON that was written by us and may have been damaged or forged since: read and checked against a type.

Types are annotations: `int`, `str | None`, `list[int]`, `dict[str, float]`, `Literal["a"]`, a TypedDict, and
`Annotated[T, check]` with a function that says whether a value of T is allowed.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from genscale.errors import UsageError
from genscale.safe_json import JsonError, parse_json
from genscale.storage.durable_files import stored


def not_negative(value: float) -> bool:
    return 0 <= value < 2**63


def is_file_name(name: str) -> bool:
    """Whether it names something in its own folder, on every system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


Count = Annotated[int, not_negative]
FileName = Annotated[str, is_file_name]


def parse(text: str | bytes) -> Any:
    """The value in a JSON text. ValueError: it is none that can be read, for whatever reason."""
    try:
        return parse_json(text, "it")
    except JsonError as error:
        raise ValueError(f"it {error.reason}") from None


def read(path: Path, hint: Any = dict[str, Any], repair: Callable[[Any], Any] = lambda value: value) -> Any:
    """The value of type `hint` in a JSON file, once `repair` has brought it to its present form.

    UsageError: there is no file, or it holds something else.
    """
    try:
        value = repair(parse(stored(path)))
        check(value, hint)
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise UsageError(f"'{path}' cannot be read, it was damaged or changed by hand: {error}.") from None
    return value


def check(value: Any, hint: Any, where: str = "it") -> None:
    """ValueError, which says where: the value is not of this type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return
    if origin is Annotated:
        check(value, args[0], where)
        if not all(allowed(value) for allowed in args[1:]):
            raise ValueError(f"{where} cannot be {_short(value)}")
    elif origin in (typing.Union, types.UnionType):
        if not any(_fits(value, part, where) for part in args):
            inner = [part for part in args if get_origin(part) or typing.is_typeddict(part)]
            if value is not None and inner:  # says what is wrong inside
                check(value, inner[0], where)
            raise _wrong(value, hint, where)
    elif origin is Literal:
        if value not in args:
            raise _wrong(value, hint, where)
    elif typing.is_typeddict(hint):
        _check_fields(value, hint, where)
    elif origin is dict or hint is dict:
        _of_class(value, dict, where)
        for name, item in value.items():
            check(name, args[0] if args else str, f"{where}, a name in it,")
            check(item, args[1] if args else Any, f"{where}[{name!r}]")
    elif origin is list or hint is list:
        _of_class(value, list, where)
        for n, item in enumerate(value):
            check(item, args[0] if args else Any, f"{where}[{n}]")
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_float(value):
            raise _wrong(value, hint, where)
    elif hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(value, hint, where)
    elif not isinstance(value, type(None) if hint is None else hint):
        raise _wrong(value, hint, where)


def _check_fields(value: Any, hint: Any, where: str) -> None:
    """A TypedDict; names that it does not have are of later versions, and are let through."""
    _of_class(value, dict, where)
    for name, kind in _types_of(hint).items():
        if name in value:
            check(value[name], kind, f"{where}[{name!r}]")
        elif name in hint.__required_keys__:
            raise ValueError(f"{where} has no {name!r}")


@functools.cache
def _types_of(hint: Any) -> dict[str, Any]:
    return typing.get_type_hints(hint, include_extras=True)


def _fits(value: Any, hint: Any, where: str) -> bool:
    try:
        check(value, hint, where)
    except ValueError:
        return False
    return True


def _is_float(value: float) -> bool:
    try:
        return not math.isnan(float(value))
    except OverflowError:
        return False


def _of_class(value: Any, kind: type[Any], where: str) -> None:
    if not isinstance(value, kind):
        raise _wrong(value, kind, where)


def _wrong(value: Any, hint: Any, where: str) -> ValueError:
    return ValueError(f"{where} is {_short(value)}, not {_in_words(hint)}")


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 2**64 else "a number that is too long"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _in_words(hint: Any) -> str:
    words: dict[Any, str] = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        dict: "an object",
    }
    words |= {list: "a list", type(None): "null", None: "null"}
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_in_words, args))
    if origin is Annotated:
        return _in_words(args[0])
    if origin is Literal:
        return " or ".join(map(repr, args))
    return words.get(origin or hint, "an object")


def json_type(hint: Any) -> Any:
    """The type that JSON has in the place of a field's."""
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(json_type(part) for part in get_args(hint))]  # noqa: UP007 - of types found at run time
    if origin is tuple:
        return list[str]
    return dict[str, Any] if origin is Mapping else hint
