"""Samplers and verifiers by name, through entry points. Built-in ones are registered like those of other packages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from genscale.errors import UsageError, did_you_mean
from genscale.plugins import candidates, limits
from genscale.plugins.automatic import ABOUT, AUTO

KINDS = ("sampler", "verifier")


def found(kind: str) -> dict[str, EntryPoint]:
    """Entry points of the group `genscale.<kind>s` by name, sorted. A package cannot override a built-in name."""
    built_in_last = sorted(entry_points(group=f"genscale.{kind}s"), key=_is_built_in)
    points = {p.name: p for p in built_in_last}
    if not points:
        raise UsageError(
            f"no {kind} is registered: install genscale with pip, also from a checkout (pip install -e .)."
        )
    return dict(sorted(points.items()))


def load(kind: str, name: str) -> type[Any]:
    """The class that is registered under a name. UsageError: it is unknown or cannot be loaded."""
    points = found(kind)
    if kind == "sampler" and name == AUTO:
        raise UsageError(f"'{AUTO}' is {ABOUT}: name one of the two.")
    if name not in points:
        known = [AUTO, *points] if kind == "sampler" else [*points]
        raise UsageError(
            f"{kind} '{name}' is unknown{did_you_mean(name, known)}: there are {', '.join(known)}."
        )
    try:
        loaded: type[Any] = points[name].load()
    except ImportError as error:
        raise UsageError(
            f"{kind} '{name}' needs a package that is missing ({error}): install it with pip."
        ) from error
    except AttributeError as error:
        raise UsageError(
            f"{kind} '{name}' is registered as {points[name].value}, which is not there."
        ) from error
    except Exception as error:  # a third-party module can raise anything; other plug-ins must still work
        raise UsageError(
            f"{kind} '{name}' cannot be imported ({type(error).__name__}: {error}): update {_package(points[name])}, "
            "or uninstall it."
        ) from error
    return loaded


def _is_built_in(point: EntryPoint) -> bool:
    return point.value.startswith("genscale.")


def _package(point: EntryPoint) -> str:
    """The distribution name of the package that a plug-in comes from."""
    return f"package '{point.dist.name}'" if point.dist is not None else f"module '{point.module}'"


def name_of(kind: str, cls: type[Any]) -> str:
    """The name under which a class is registered, else its own."""
    return registered_name(kind, cls) or cls.__name__


def registered_name(kind: str, cls: type[Any]) -> str | None:
    """The name under which a class is registered; None where it is not."""
    place = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, point in found(kind).items() if point.value == place), None)


def options(cls: type[Any]) -> dict[str, Field[Any]]:
    """The hyperparameters of a plug-in: its dataclass fields, in the order of the constructor."""
    found = [f for f in fields(cls) if f.init] if is_dataclass(cls) else []
    return {f.name: f for f in sorted(found, key=lambda f: f.kw_only is True)}


def described(plugin: Any) -> dict[str, Any]:
    """The settings of a plug-in object as values for strict JSON: functions by name, infinity as "inf"."""
    if not is_dataclass(plugin) or isinstance(plugin, type):
        return {}
    return {f.name: plain(getattr(plugin, f.name)) for f in fields(plugin)}


def plain(value: Any) -> Any:
    """A setting as a value for strict JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__.lower(): described(value)}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    text = repr(value)
    return text if len(text) <= 60 and " at 0x" not in text else type(value).__name__


def present_options(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by option, those under a former name (`former_options` of the plug-in) under the present one."""
    former: Mapping[str, str] = getattr(cls, "former_options", {})
    return {former.get(option, option): value for option, value in values.items()}


def make(kind: str, name: str, settings: dict[str, Any]) -> Any:
    """Build a plug-in from its name and settings. UsageError: a setting is unknown or a value is invalid."""
    cls = load(kind, name)
    known, settings = options(cls), present_options(cls, settings)
    if kind == "sampler":
        settings = candidates.resolved(name, cls, settings)
    for option in settings:
        if known and option not in known:
            raise UsageError(
                f"{kind} '{name}' has no option '{option}'{did_you_mean(option, known)}: "
                f"it has {', '.join(known) or 'none'}."
            )
    missing = [
        f.name
        for f in known.values()
        if f.name not in settings and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise UsageError(f"{kind} '{name}' needs the option '{missing[0]}': give {missing[0]}=...")
    limits.check_options(f"{kind} '{name}'", cls, settings)
    try:
        return cls(**settings)
    except UsageError:
        raise
    except Exception as error:  # a plug-in of another package may check nothing, and fail in any way
        raise UsageError(f"{kind} '{name}' refuses its options: {error}") from error
