"""A request as the command that does the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from genscale.plugins import registry
from genscale.runs.option_metadata import Option, options_of
from genscale.runs.request import Request


def command(request: Request, out: str | None = None) -> str:
    """`genscale generate ...` (of videos `genscale video ...`) for a POSIX shell, without options at their defaults.

    out: a folder to write to.
    """
    words = ["genscale", "video" if request.clips else "generate", *request.prompts, *_words(request)]
    return shlex.join(words if out is None else [*words, "--out", out])


def _words(request: Request) -> Iterator[str]:
    """Options by the metadata of the request's fields."""
    plain, written = type(request)(), set[str]()
    for name, how in options_of(type(request)).items():
        values = [getattr(request, field) for field in how.sets or (name,)]
        if how.sets and None not in values and not written & set(how.sets):
            yield from _option(how, values if len(values) > 1 else values[0])
            written |= set(how.sets)
        elif not how.sets and (name in ("model", "sampler") or values[0] not in (None, getattr(plain, name))):
            yield from _option(how, values[0])
        if name == "sampler":
            for option, setting in request.sampler_fields.items():
                yield from ("--set", f"{option}={_text(setting)}")


def _option(how: Option, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield how.flag if value else how.flags[0].partition("/")[2]
    elif how.write is not None:
        yield from _pair(how.flag, how.write(value))
    else:
        for one in value if how.kind is list else [value]:
            yield from _pair(how.flag, _text(one))


def _pair(flag: str, value: str) -> tuple[str, ...]:
    """Joined by = where the value would be taken for a flag."""
    return (f"{flag}={value}",) if value.startswith("-") else (flag, value)


def _text(value: Any) -> str:
    """As `genscale.plugins.options.convert` reads it."""
    value = registry.plain(value)
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else repr(value)
    return "none" if value is None else str(value)
