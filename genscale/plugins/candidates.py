"""The option `candidates=N`, which every sampler accepts under this name, whatever its own field is called.

A sampler without a field `candidates` names the corresponding field in the class variable `size_option`. Its class
method `sized` returns values of other fields that depend on N. This module replaces `candidates` by these fields, so a
run records the sampler's own options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from genscale.errors import UsageError

OPTION = "candidates"


def size_option(cls: type[Any]) -> str | None:
    """The field that `candidates=N` sets, if it has another name; None if there is no such field."""
    names = _fields(cls)
    declared = getattr(cls, "size_option", None)
    return declared if OPTION not in names and declared in names else None


def followers(cls: type[Any], n: int) -> dict[str, Any]:
    """Values of other fields that depend on `candidates=n`. Values that the user gives override them."""
    sized = getattr(cls, "sized", None)
    return {} if sized is None else dict(sized(n))


def described(cls: type[Any]) -> str:
    """What `candidates` sets, for listings: "sets particles". Empty if it is a field itself, or if it is unknown."""
    field = size_option(cls)
    if field is None:
        return ""
    others = ", ".join(followers(cls, 16))
    return f"sets {field}" + (f", and {others} in proportion" if others else "")


def resolved(name: str, cls: type[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a sampler with `candidates` replaced by the fields that it sets. None: the default size."""
    names, field = _fields(cls), size_option(cls)
    if OPTION not in settings or OPTION in names or not names:
        return dict(settings)
    if field is None:
        raise UsageError(
            f"sampler '{name}' has no option '{OPTION}': set its own ({', '.join(names)}), or name the one that is "
            "meant in its class, as in size_option = 'particles'."
        )
    rest = {option: value for option, value in settings.items() if option != OPTION}
    n = settings[OPTION]
    if n is None:
        return rest
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise UsageError(f"{OPTION}={n} must be a whole number of at least 1.")
    if field in rest:
        raise UsageError(
            f"{OPTION}={n} and {field}={rest[field]} set the same option of sampler '{name}': give one of them."
        )
    return {field: n, **followers(cls, n), **rest}


def _fields(cls: type[Any]) -> list[str]:
    return [f.name for f in fields(cls) if f.init] if is_dataclass(cls) else []
