"""What the probe of a pipeline call found, for the next calls of the same scaled pipeline.

A probe walks through the whole loop, and steps the scheduler three times at each step. What it finds beyond the initial
latents depends on the pipeline's code and configuration, on the scheduler and on the arguments, not on weights, seeds
or the words of a prompt. So where pipeline and arguments are as before, the next probe goes to the first step only,
as it must for the initial latents, and compares what it sees there: the scheduler with all its attributes, the
timesteps, the arguments of `scheduler.step`, the denoiser's rows, shape and layout of the latents. If anything differs
it goes on through the loop as the first probe did.

Weights may change between calls, as with a LoRA: outputs of encoders are not kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genscale.pipelines.argument_values import copied, same
from genscale.pipelines.bound_call import CALLBACKS, PER_PROMPT, Arguments
from genscale.pipelines.known_loop import KnownLoop
from genscale.pipelines.modular_inputs import blocks_of
from genscale.storage.identity import NoIdentity, identity

MOST = 4  # kinds of calls that are kept, the latest

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


class ProbeMemory:
    """The loops that are known, by pipeline and arguments."""

    def __init__(self) -> None:
        self._known: list[tuple[_Surroundings, str, KnownLoop]] = []

    def find(self, pipe: Any, arguments: Arguments) -> KnownLoop | None:
        """What is known of such a call, if its first step is the same."""
        asked = None if not self._known else _asked(arguments)
        if asked is None:
            return None
        now = _Surroundings(pipe)
        return next((loop for then, other, loop in self._known if other == asked and now.equals(then)), None)

    def keep(self, pipe: Any, arguments: Arguments, loop: KnownLoop | None) -> None:
        """Remember a loop for the next call. That of a modular pipeline, whose blocks may change, is not kept."""
        if loop is None or any(known.walk is loop.walk for _, _, known in self._known):
            return
        asked = _asked(arguments)
        if asked is not None and blocks_of(pipe) is None:
            self._known = [(_Surroundings(pipe), asked, loop), *self._known][:MOST]


class _Surroundings:
    """Code, components and attributes of a pipeline. Objects by reference, without keeping them; the rest by content.

    The scheduler is compared at the first step, where the pipeline has set its timesteps.
    """

    def __init__(self, pipe: Any) -> None:
        held = {k: v for k, v in vars(pipe).items() if k != "scheduler"}
        scheduler = type(getattr(pipe, "scheduler", None))
        self.code = [type(pipe), type(pipe).__call__, scheduler, getattr(scheduler, "step", None)]
        self.plain = {k: copied(v) for k, v in held.items() if _is_plain(v)}
        self.objects = {k: _reference(v) for k, v in held.items() if k not in self.plain}
        self.configs = {
            k: dict(c) for k, v in held.items() if isinstance(c := getattr(v, "config", None), Mapping)
        }
        self.modes = {k: v.training for k, v in held.items() if isinstance(v, nn.Module)}

    def equals(self, other: _Surroundings) -> bool:
        try:
            return (
                all(a is b for a, b in zip(self.code, other.code, strict=True))
                and self.objects.keys() == other.objects.keys()
                and all(v() is not None and v() is other.objects[k]() for k, v in self.objects.items())
                and same((self.plain, self.configs, self.modes), (other.plain, other.configs, other.modes))
            )
        except Exception:  # of whatever a configuration holds
            return False


def _reference(value: Any) -> Any:
    try:
        return weakref.ref(value)
    except TypeError:
        return lambda: value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return isinstance(value, (*_PLAIN, Tensor))


def _asked(arguments: Arguments) -> str | None:
    """The arguments of a call as far as its loop depends on them; None where they cannot be compared."""
    given: dict[str, Any] = {}
    for name, value in arguments.given.items():
        if name not in CALLBACKS:
            given[name] = _kind(name, value)
    try:
        return identity([given, arguments.results])
    except NoIdentity:
        return None


def _kind(name: str, value: Any) -> Any:
    """An argument without what changes noise and conditioning alone: seeds, initial latents, the words of prompts."""
    if isinstance(value, torch.Generator):
        return f"generator on {value.device}"
    if name == "generator" and isinstance(value, list | tuple):
        return [_kind(name, one) for one in value]
    if name == "latents" and isinstance(value, Tensor):
        return [list(value.shape), str(value.dtype), str(value.device)]
    if name.rstrip("_234") == PER_PROMPT[0] and isinstance(value, str):
        return "text" if value else ""
    if name.rstrip("_234") == PER_PROMPT[0] and isinstance(value, list):
        return [_kind(name, one) for one in value]
    return value
