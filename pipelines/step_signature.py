"""The parameters of a scheduler's `step`, also where a subclass renames them or passes `*args` and `**kwargs` on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genscale.errors import UsageError

OUTPUT, SAMPLE = "model_output", "sample"
_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class StepSignature:
    """How `step` is called.

    order: names of its positional parameters, as the nearest class names them that has `model_output` and `sample`.
    own: the names that the scheduler's own class has at these places. names: all that may be given by name.
    """

    signature: inspect.Signature
    order: tuple[str, ...]
    own: tuple[str, ...]
    names: frozenset[str]

    def by_name(self, scheduler: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by the names of `order`. TypeError: `step` takes no such arguments."""
        renamed = dict(zip(self.own, self.order, strict=False))
        call = dict(zip(self.order, args, strict=False))
        call |= {renamed.get(name, name): value for name, value in kwargs.items()}
        if len(call) != len(args) + len(kwargs) or not call.keys() <= self.names | set(self.order):
            call = dict(self.signature.bind(scheduler, *args, **kwargs).arguments)
            call.pop("self", None)
        return call

    def call(self, scheduler: Any, given: Mapping[str, Any]) -> Any:
        """Call `step` with arguments that are named as in `order`; by place up to the latents, as pipelines do."""
        lead = self.order[: max(self.order.index(OUTPUT), self.order.index(SAMPLE)) + 1]
        if not given.keys() >= set(lead):
            return scheduler.step(**given)
        own = dict(zip(self.order, self.own, strict=False))
        by_place = [given[name] for name in lead]
        return scheduler.step(*by_place, **{own.get(n, n): v for n, v in given.items() if n not in lead})


@functools.cache
def step_signature(cls: type) -> StepSignature:
    """That of a scheduler class. UsageError: no class that it is made of names `model_output` and `sample`."""
    for base in cls.__mro__:
        step: Any = vars(base).get("step")
        order = _positional(step) if callable(step) else ()
        if OUTPUT in order and SAMPLE in order:
            break
    else:
        raise UsageError(
            f"the step of {cls.__name__} has no parameters named '{OUTPUT}' and '{SAMPLE}', as those of diffusers "
            "have: name them so, or choose another scheduler."
        )
    signature = inspect.signature(cls.step)  # type: ignore[attr-defined]
    own = _positional(cls.step)  # type: ignore[attr-defined]
    kinds = {p.kind for p in signature.parameters.values()}
    names = set(signature.parameters)
    if inspect.Parameter.VAR_KEYWORD in kinds:
        names |= set(inspect.signature(step).parameters)
    return StepSignature(signature, order, own, frozenset(names))


def _positional(step: Any) -> tuple[str, ...]:
    return tuple(n for n, p in inspect.signature(step).parameters.items() if p.kind in _NAMED)[1:]
