"""A sampler's own options on the command line: its fields, typed by their annotations."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from genscale.errors import UsageError, did_you_mean
from genscale.plugins import candidates, registry
from genscale.plugins.automatic import BY_PROBABILITY, OTHERWISE
from genscale.plugins.limits import shown
from genscale.safe_json import JsonError, parse_json

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "none",
}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def split(
    words: Sequence[str], fields: Mapping[str, Any], flags: Iterable[str]
) -> tuple[list[str], dict[str, str]]:
    """Prompts and raw field values from the words that are not static options: `"a star" --candidates 16`.

    fields: annotation of every sampler field; flags: the static options, for "did you mean".
    """
    prompts: list[str] = []
    values: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or " " in word or len(word) < 2:
            prompts.append(word)
            continue
        flag, equals, value = word.partition("=")
        name = flag.lstrip("-").replace("-", "_")
        negated = name.removeprefix("no_")
        if name in fields and _is_flag(fields[name]) and not equals:
            value = "true"
        elif negated != name and negated in fields and _is_flag(fields[negated]) and not equals:
            name, value = negated, "false"
        elif name not in fields:
            raise _unknown(flag, fields, flags)
        elif not equals:
            if not rest:
                raise UsageError(f"option '{word}' needs a value.")
            value = rest.pop(0)
        values[name] = value
    return prompts, values


def pairs(settings: Sequence[str]) -> dict[str, str]:
    """`--set name=value` as a dictionary."""
    values = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--set '{setting}' cannot be read: write --set name=value.")
        values[name.strip().replace("-", "_")] = value.strip()
    return values


def field_types(cls: type[Any]) -> dict[str, Any]:
    """The type of every option of a plug-in: its fields, and `candidates` if a sampler says what that sets.

    UsageError: the annotations cannot be resolved, because the plug-in's module lacks a name.
    """
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the options of {getattr(cls, '__name__', cls)!r} cannot be read ({error}): its annotations must name "
            "what its module imports."
        ) from error
    found = {name: hints.get(name, str) for name in registry.options(cls)}
    return found if candidates.size_option(cls) is None else {**found, candidates.OPTION: int | None}


def typed(kind: str, name: str, cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values (texts or JSON) converted to the types of the fields; `candidates` becomes the field that it sets.

    Unknown names are kept, and `registry.make` rejects them.
    """
    hints = field_types(cls)
    out = {}
    for option, value in registry.present_options(cls, values).items():
        try:
            out[option] = convert(value, hints[option]) if option in hints else value
        except (ValueError, TypeError, OverflowError):
            raise UsageError(
                f"option '{option}' of {kind} '{name}' cannot be {shown(value)}: "
                f"it must be {describe(hints[option])}."
            ) from None
    return candidates.resolved(name, cls, out) if kind == "sampler" else out


def check_automatic(name: str, given: Iterable[str]) -> None:
    """UsageError: an option is one of the sampler that "auto" does not stand for here. name: the one it stands for."""
    other = OTHERWISE if name == BY_PROBABILITY else BY_PROBABILITY
    own, others = (field_types(registry.load("sampler", n)) for n in (name, other))
    for option in given:
        if option in others and option not in own:
            why = "one" if name == BY_PROBABILITY else "no"
            raise UsageError(
                f"option '{option}' is one of {other}, and the sampler 'auto' is {name} here, since {why} verifier "
                f"answers a probability alone: name the sampler {other}, or leave {option} out."
            )


def convert(value: Any, hint: Any) -> Any:
    """`value`, a text or a JSON value, converted to `hint`; ValueError if that is impossible."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(value, args)
    if hint is type(None):
        if value is None or str(value).lower() in ("none", "null"):
            return None
        raise ValueError
    if origin is Literal:
        return next(a for a in args if str(a) == str(value)) if str(value) in map(str, args) else _fail()
    if origin in (tuple, list, Sequence) or hint in (tuple, list):
        return _sequence(value, origin or hint, args)
    if hint is bool:
        return _boolean(value)
    if hint in (int, float):
        if isinstance(value, bool) or (hint is int and isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return hint(value.replace("_", "") if isinstance(value, str) else value)
    if hint is str or not isinstance(value, str):
        return value
    try:
        return parse_json(value, "the value")
    except JsonError:
        return value


def describe(hint: Any) -> str:
    """A type in words, for messages and listings."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        plain = [a for a in args if get_origin(a) or a in _WORDS]  # what can be written on a command line
        return " or ".join(describe(a) for a in plain or args)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (tuple, list, Sequence):
        inner = describe(args[0]).split(" ")[-1] if args else "value"
        return f"{inner}s joined by commas"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _is_flag(hint: Any) -> bool:
    return hint is bool


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in _TRUE + _FALSE:
        raise ValueError
    return text in _TRUE


def _sequence(value: Any, kind: Any, args: tuple[Any, ...]) -> Any:
    if isinstance(value, str):
        value = [part.strip() for part in value.strip("()[] ").split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError
    inner = args[0] if args else str
    items = [convert(v, inner) for v in value]
    return tuple(items) if kind in (tuple, Sequence) else items


def _first_that_fits(value: Any, hints: tuple[Any, ...]) -> Any:
    for hint in sorted(
        hints, key=lambda h: h is str
    ):  # every value can be read as text, so str is tried last
        try:
            return convert(value, hint)
        except (ValueError, TypeError, OverflowError):
            continue
    raise ValueError


def _fail() -> Any:
    raise ValueError


def _unknown(word: str, fields: Iterable[str], flags: Iterable[str]) -> UsageError:
    own = ["--" + name.replace("_", "-") for name in fields]
    suggestion = did_you_mean(word.replace("_", "-"), [*own, *flags])
    return UsageError(
        f"option '{word}' is unknown{suggestion}; this sampler's own are {', '.join(own) or 'none'}."
    )
