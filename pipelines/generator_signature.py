"""What a generator that is called as a whole takes, and by what its candidates differ: a generator or a seed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from genscale.errors import UsageError, did_you_mean
from genscale.pipelines.call_signature import call_signature

GENERATOR, SEED = "generator", "seed"
Parameter = inspect.Parameter


@dataclass(frozen=True)
class Signature:
    """name: of the generator, for messages. parameters: known ones by name. others: whether it takes any further name.

    positions: names that may be given by position, in order.
    """

    name: str
    parameters: Mapping[str, Parameter]
    positions: tuple[str, ...]
    others: bool

    @staticmethod
    def of(function: Any) -> Signature:
        """UsageError: it takes neither a generator nor a seed."""
        found = Signature.read(function)
        if not found.randomness:
            raise UsageError(
                f"{found.name} takes neither a generator nor a seed, so its candidates could not be told apart or made "
                "again: give it a parameter `generator` (a torch.Generator) or `seed` (a whole number), and draw all "
                "its randomness from that."
            )
        return found

    @staticmethod
    def read(function: Any) -> Signature:
        """The same for a function that need not take either."""
        return _read(function, generator_name(function))

    def takes(self, name: str) -> bool:
        return name in self.parameters or self.others

    @property
    def randomness(self) -> tuple[str, ...]:
        """Of "generator" and "seed" those that it takes; one that takes any name is given a generator."""
        named = tuple(name for name in (GENERATOR, SEED) if name in self.parameters)
        return named or ((GENERATOR,) if self.others else ())

    def bound(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], more: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Arguments by name. more: further names that a call may have. UsageError: one is unknown or given twice."""
        if len(args) > len(self.positions):
            raise UsageError(
                f"{self.name} takes {len(self.positions)} arguments by position, {len(args)} were given."
            )
        given = dict(zip(self.positions, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise UsageError(f"'{name}' is given twice, by position and by name.")
            if not self.takes(name) and name not in more:
                raise UsageError(
                    f"{self.name} takes no argument '{name}'{did_you_mean(name, self.parameters)}."
                )
            given[name] = value
        return given


def generator_name(function: Any) -> str:
    """How a generator is called in messages."""
    if isinstance(function, partial):
        return generator_name(function.func)
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def place_of(function: Any) -> str | None:
    """`package.module:name`, where the function can be imported by that; None where it cannot."""
    import sys

    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    if module in (None, "__main__") or "<" in name or not name:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is function else None


def _read(function: Any, name: str) -> Signature:
    if _is_pipeline(function):  # wrappers that pass their arguments on are followed there
        taken = call_signature(type(function))
        known = {n: Parameter(n, Parameter.KEYWORD_ONLY, default=None) for n in taken.names}
        return Signature(name, known, taken.positions, taken.others)
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of compiled code; it says itself what it does not take
        return Signature(name, {}, (), True)
    by_position = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    if any(p.kind is Parameter.POSITIONAL_ONLY for p in parameters.values()):
        raise UsageError(
            f"{name} takes arguments by position only: give them names, such as prompt and seed."
        )
    named = {n: p for n, p in parameters.items() if p.kind in (*by_position, Parameter.KEYWORD_ONLY)}
    positions = tuple(n for n, p in named.items() if p.kind in by_position)
    return Signature(
        name, named, positions, any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    )


def _is_pipeline(function: Any) -> bool:
    return isinstance(getattr(function, "components", None), Mapping) and hasattr(function, "config")
