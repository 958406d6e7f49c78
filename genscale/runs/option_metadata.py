"""How a field of a request is given on the command line, declared once, in the field's metadata.

The commands' options, the request that they make, and the command shown by the demo are all derived from it.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from genscale.errors import UsageError
from genscale.pipelines.batch_padding import WAYS
from genscale.plugins import limits
from genscale.plugins.limits import Limits, shown
from genscale.report.file_names import FIELDS, is_template
from genscale.safe_json import parse_json

IMAGE, SEARCH, MODEL, RUN = "The image", "The search", "The model", "The run"
PANELS = (IMAGE, SEARCH, MODEL, RUN)
"""Headings of the help, in their order."""


@dataclass(frozen=True)
class Option:
    """A command-line option.

    flags: its name, then its aliases; a short one such as -m; "--name/--no-name" for a switch that is on by default.
    text: the help. panel: the heading that it stands under. metavar: what its value is called in the help.
    completes: what the shell offers for its value: names of a "sampler", "verifier" or "model", or a "file".
    read: text of the command line -> value, where the type of the field does not say how; write: the inverse.
    check: (test of a value, how a value must be). sets: the fields that it sets, where it is not one of its own name.
    execution: it changes how a run is computed or stored, not its result. kind: type of the value; list: repeatable.
    """

    flags: tuple[str, ...]
    text: str
    panel: str
    metavar: str | None = None
    completes: str | None = None
    read: Callable[[str], Any] | None = None
    write: Callable[[Any], str] | None = None
    check: tuple[Callable[[Any], bool], str] | None = None
    sets: tuple[str, ...] = ()
    execution: bool = False
    kind: Any = str

    @property
    def flag(self) -> str:
        """The name that messages and commands use."""
        return self.flags[0].partition("/")[0]

    def value(self, given: Any) -> Any:
        """The field's value from what was typed. UsageError where it is out of range."""
        if self.read is not None:
            given = self.read(given)
        elif isinstance(given, list):
            given = tuple(given)
        elif self.completes == "file":
            given = str(given)
        self.refuse_out_of_range(given)
        return given

    def refuse_out_of_range(self, value: Any) -> None:
        """UsageError where the field may not have this value. None: it was not given."""
        if self.check is not None and value is not None and not self.check[0](value):
            raise UsageError(f"{self.flag} {shown(value)} {self.check[1]}.")


def option(
    flags: str, text: str, panel: str, metavar: str | None = None, default: Any = None, **more: Any
) -> Any:
    """A dataclass field that is an option of the command line; `more` as the fields of `Option`."""
    made = {"option": Option(tuple(flags.split()), text, panel, metavar, **more)}
    if callable(default):
        return field(default_factory=default, metadata=made)
    return field(default=default, metadata=made)


def options_of(cls: type[Any]) -> dict[str, Option]:
    """The options of a dataclass, by field, with the types of their values; those of `JOINT` before what they set."""
    hints = typing.get_type_hints(cls)
    found: dict[str, Option] = {}
    joint: dict[str, Option] = getattr(cls, "JOINT", {})
    for f in fields(cls):
        found |= {name: how for name, how in joint.items() if how.sets[0] == f.name}
        if "option" in f.metadata:
            found[f.name] = _typed(f.metadata["option"], hints[f.name])
    return found


def _typed(declared: Option, hint: Any) -> Option:
    if declared.read is not None:
        return declared
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    return replace(declared, kind=list if typing.get_origin(hint) is tuple else hint)


# ---------------------------------------------------------------- values


def within(limits: Limits) -> tuple[Callable[[Any], bool], str]:
    """The check that a number is in a range."""
    return limits.admits, f"must be {limits}"


COUNT, SIDE, STEPS, FRAMES = (within(r) for r in (limits.COUNT, limits.SIDE, limits.STEPS, limits.FRAMES))
GUIDANCE = within(limits.GUIDANCE)
RATE = (limits.RATE.admits, "must be above 0 (0.1 at least), and 240 at most")
SECONDS = within(limits.SECONDS)
PADDING = (WAYS.__contains__, f"must be one of {', '.join(WAYS)}")
PLACES = ("device", "host")  # those of genscale.engine.holding, which imports torch
PLACE = (PLACES.__contains__, f"must be {' or '.join(PLACES)}")
NAME = (is_template, f"must be a text with some of {', '.join(f'{{{name}}}' for name in FIELDS)}")
SEED = (limits.SEED.admits, "must be 0 or more, and below 2**64")


def read_size(text: str) -> tuple[int, int]:
    """`1024x768`, or one number for a square."""
    match = re.fullmatch(r"([1-9]\d{0,9})(?:[xX×]([1-9]\d{0,9}))?", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(f"--size {shown(text)} cannot be read: write WIDTHxHEIGHT, such as 1024x768.")
    size = int(match[1]), int(match[2] or match[1])
    if not all(map(limits.SIDE.admits, size)):
        raise UsageError(f"--size {shown(text)}: width and height must be {limits.SIDE}.")
    return size


def write_size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


def read_names(text: str) -> tuple[str, ...]:
    """Names joined by commas."""
    return tuple(name.strip().lower() for name in text.split(","))


def read_draft(text: str) -> str | None:
    """How candidates are drafted; `none`: they are not."""
    return None if text.strip().lower() == "none" else text


def read_object(text: str) -> dict[str, Any]:
    """A JSON object of arguments of the pipeline."""
    return _object(text, "--pipeline-args", '{"strength": 0.6}')


def read_category_weights(text: str) -> dict[str, Any]:
    """A JSON object of weights of verifiers, by category."""
    return _object(text, "--category-weights", '{"counting": {"clip": 0.5}}')


def _object(text: str, flag: str, example: str) -> dict[str, Any]:
    found = parse_json(text, flag, f"write '{example}'", finite=True)
    if not isinstance(found, dict):
        raise UsageError(f"{flag} must be a JSON object, such as '{example}'.")
    return found
