"""The parameters of a scheduler's `step`, also where a subclass renames them or passes `*args` and `**kwargs` on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genscale.errors import NoLoop

OUTPUT, SAMPLE = "model_output", "sample"
_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class StepSignature:
    """How `step` is called.

    order: names of its positional parameters, as the nearest class names them that has `model_output` and `sample`.
    own: the names that the scheduler's own class has at these places. names: all that may be given by name.
    any_name: whether others may be, too.
    """

    signature: inspect.Signature
    order: tuple[str, ...]
    own: tuple[str, ...]
    names: frozenset[str]
    any_name: bool

    def by_name(self, scheduler: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by the names of `order`. TypeError: `step` takes no such arguments."""
        renamed = dict(zip(self.own, self._lead, strict=False))
        call = dict(zip(self.order, args, strict=False))
        call |= {renamed.get(name, name): value for name, value in kwargs.items()}
        if len(call) != len(args) + len(kwargs) or not (self.any_name or call.keys() <= self.names):
            self.signature.bind(scheduler, *args, **kwargs)
            raise TypeError(f"{type(scheduler).__name__}.step() takes {', '.join(self.order)}")
        return call

    def call(self, scheduler: Any, given: Mapping[str, Any]) -> Any:
        """Call `step` with arguments that are named as in `order`; by place up to the latents, as pipelines do."""
        lead = self._lead
        if not given.keys() >= set(lead):
            return scheduler.step(**given)
        by_place = [given[name] for name in lead]
        return scheduler.step(*by_place, **{n: v for n, v in given.items() if n not in lead})

    @property
    def _lead(self) -> tuple[str, ...]:
        """Names of the parameters up to the latents, which pipelines give by place."""
        return self.order[: max(self.order.index(OUTPUT), self.order.index(SAMPLE)) + 1]


@functools.cache
def step_signature(cls: type) -> StepSignature:
    """That of a scheduler class. UsageError: no class that it is made of names `model_output` and `sample`."""
    steps = [vars(base)["step"] for base in cls.__mro__ if callable(vars(base).get("step"))]
    named = [step for step in steps if {OUTPUT, SAMPLE} <= set(_positional(step))]
    if not named:
        raise NoLoop(
            f"the step of {cls.__name__} has no parameters named '{OUTPUT}' and '{SAMPLE}', as those of diffusers "
            "have: name them so, or choose another scheduler."
        )
    # The one that others pass their arguments to.
    known = next((step for step in named if not _takes_any(step)), named[0])
    own: Any = cls.step  # type: ignore[attr-defined]
    order, signature = _positional(known), inspect.signature(own)
    names = {*order, *signature.parameters}
    if _takes_any(own):
        names |= set(inspect.signature(known).parameters)
    return StepSignature(
        signature, order, _positional(own), frozenset(names), _takes_any(own) and _takes_any(known)
    )


def _takes_any(step: Any) -> bool:
    """Whether it has `**kwargs`."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(step).parameters.values())


def _positional(step: Any) -> tuple[str, ...]:
    return tuple(n for n, p in inspect.signature(step).parameters.items() if p.kind in _NAMED)[1:]
