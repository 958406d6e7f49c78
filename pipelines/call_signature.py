"""The arguments that a pipeline's `__call__` takes, also where it only passes them on.

A subclass or a wrapper may take `**kwargs` and call the pipeline's own `__call__` with them. The names that it takes
are then those of the function behind it as well.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from genscale.pipelines.modular_inputs import OUTPUT, STATE, blocks_of, input_defaults, input_names

Parameter = inspect.Parameter

COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")
"""Names of the argument that says how many images or videos a call makes of each prompt."""


@dataclass(frozen=True)
class CallSignature:
    """names: of all arguments that are known. positions: of those that may be given by position, in order.

    others: whether further names are taken. passed_on: whether the arguments reach another `__call__`.
    """

    names: tuple[str, ...]
    positions: tuple[str, ...]
    others: bool
    passed_on: bool


def call_signature(cls: type) -> CallSignature:
    """What can be given to a call of an instance of this class."""
    names: dict[str, None] = {}
    positions: list[str] = []
    by_position = others = True
    count = 0
    for function in call_chain(cls):
        if not others:
            break
        count += 1
        parameters = list(inspect.signature(function).parameters.values())
        if parameters and parameters[0].kind is not Parameter.VAR_POSITIONAL:
            parameters = parameters[1:]  # self
        kinds = {p.kind for p in parameters}
        named = [p for p in parameters if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)]
        if by_position:
            positions += [
                p.name for p in named if p.kind is not Parameter.KEYWORD_ONLY and p.name not in names
            ]
        names |= {p.name: None for p in named}
        by_position = by_position and Parameter.VAR_POSITIONAL in kinds
        others = Parameter.VAR_KEYWORD in kinds
    return CallSignature(tuple(names), tuple(positions), others, count > 1)


def signature_of(pipe: Any) -> CallSignature:
    """What can be given to a call of this pipeline. Of a modular one: the inputs of its blocks, all by name."""
    blocks = blocks_of(pipe)
    if blocks is None:
        return call_signature(type(pipe))
    return CallSignature((*input_names(blocks), STATE, OUTPUT), (STATE, OUTPUT), False, False)


def defaults_of(pipe: Any) -> dict[str, Any]:
    """The defaults of the arguments that a call of this pipeline takes, by name."""
    blocks = blocks_of(pipe)
    if blocks is not None:
        return input_defaults(blocks)
    parameters = inspect.signature(type(pipe).__call__).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not Parameter.empty}


def python_signature(pipe: Any) -> inspect.Signature:
    """The signature of a pipeline's call. Of a modular one: `state` and `output`, and the inputs of its blocks."""
    blocks = blocks_of(pipe)
    if blocks is None:
        return inspect.signature(pipe.__call__)
    first = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in (STATE, OUTPUT)]
    defaults = input_defaults(blocks)
    return inspect.Signature(
        [*first, *(Parameter(n, Parameter.KEYWORD_ONLY, default=d) for n, d in defaults.items())]
    )


def call_chain(cls: type) -> Iterator[Callable[..., Any]]:
    """The `__call__` of a class, and those that it may pass its arguments to, each once."""
    owners = [c for c in cls.__mro__ if "__call__" in vars(c)]
    seen: list[Any] = []
    for owner in owners:
        todo = [vars(owner)["__call__"]]
        while todo:
            function = todo.pop(0)
            if function in seen or not callable(function):
                continue
            seen.append(function)
            yield function
            todo += _behind(inspect.unwrap(function))


def _behind(function: Any) -> list[Any]:
    """Other functions named `__call__` that a function holds in its closure, or finds by a name in its module."""
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _filled(cell)]
    code = getattr(function, "__code__", None)
    module = getattr(function, "__globals__", {})
    held = [*cells, *(module[n] for n in (code.co_names if code else ()) if n in module)]
    return [f for f in held if getattr(f, "__name__", "") == "__call__" and callable(f)]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
