"""A request as the command that does the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from genscale.plugins import registry
from genscale.runs.request import Request

_FLAGS = {
    "model": "--model",
    "sampler": "--sampler",
    "ensemble": "--ensemble",
    "budget": "--budget",
    "stop": "--stop",
    "boxes": "--boxes",
    "guide": "--guide",
    "negative": "--negative",
    "steps": "--steps",
    "guidance": "--guidance",
    "frames": "--frames",
    "fps": "--fps",
    "per_frame": "--per-frame",
    "batch_size": "--batch-size",
    "seed": "--seed",
    "dtype": "--dtype",
    "device": "--device",
    "offload": "--offload",
    "attention": "--attention",
}
_REPEATED = {
    "verifiers": "--verifier",
    "select": "--select",
    "held_out": "--held-out",
    "mix": "--mix",
    "lora": "--lora",
}


def command(request: Request, out: str | None = None) -> str:
    """`genscale generate ...`, of videos `genscale video ...`, for a POSIX shell; what is at its default is left out.

    out: a folder to write to.
    """
    words = ["genscale", "video" if request.clips else "generate", *request.prompts, *_words(request)]
    return shlex.join(words if out is None else [*words, "--out", out])


def _words(request: Request) -> Iterator[str]:
    plain = Request()
    for name, flag in _FLAGS.items():
        value = getattr(request, name)
        if value is not None and (value != getattr(plain, name) or name in ("model", "sampler")):
            yield from _pair(flag, _text(value))
        if name == "sampler":
            for option, setting in request.sampler_fields.items():
                yield from ("--set", f"{option}={_text(setting)}")
    for name, flag in _REPEATED.items():
        for value in getattr(request, name):
            yield from _pair(flag, value)
    if request.width is not None and request.height is not None:
        yield from ("--size", f"{request.width}x{request.height}")
    if request.pipeline_args:
        yield from ("--pipeline-args", json.dumps(dict(request.pipeline_args)))


def _pair(flag: str, value: str) -> tuple[str, ...]:
    """Joined by = where the value would be taken for a flag."""
    return (f"{flag}={value}",) if value.startswith("-") else (flag, value)


def _text(value: Any) -> str:
    """As `sampler_options.convert` reads it."""
    value = registry.plain(value)
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else repr(value)
    return "none" if value is None else str(value)
