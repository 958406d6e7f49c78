"""Where each call of a generator gets its randomness: the user's own generator or seed, or one from a candidate's key.

Candidate 0 of each prompt is called with a copy of the user's generator, or with the user's seed, so that it is what a
plain call gives. The generator itself is left as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch

from genscale.errors import UsageError
from genscale.key import Key
from genscale.pipelines.generator_signature import GENERATOR, SEED, Signature
from genscale.plugins.limits import shown
from genscale.protocol.particles import OWN, Candidate

_SEEDS = 2**32  # what services and libraries take; of 1000 candidates two have the same with a chance of 1e-4


@dataclass(frozen=True)
class Randomness:
    """The generator or seed of each call.

    name: the argument that carries it. own: of candidate 0 of each prompt: a (device, state), a seed, or None, which
    leaves the argument out. seeds: the root of each prompt's keys. device: of the generators. state: of torch's global
    generator where the call began.
    """

    name: str
    own: tuple[Any, ...]
    seeds: list[int]
    device: torch.device
    state: torch.Tensor

    @staticmethod
    def of(signature: Signature, given: Mapping[str, Any], prompts: int) -> Randomness:
        """UsageError: both are given, or not one, or one for each prompt."""
        both = [name for name in (GENERATOR, SEED) if given.get(name) is not None]
        if len(both) > 1:
            raise UsageError("generator and seed are both given: give one.")
        name = both[0] if both else signature.randomness[0]
        value = given.get(name)
        if value is None and name == SEED:  # a default is what the plain call uses
            default = signature.parameters[SEED].default if SEED in signature.parameters else None
            value = default if isinstance(default, int) and not isinstance(default, bool) else None
        each, state = _each(name, value, prompts), torch.get_rng_state()
        if name == SEED:
            return Randomness(name, each, [_root(v) for v in each], torch.device("cpu"), state)
        device = each[0].device if each[0] is not None else torch.device("cpu")
        states = tuple(None if g is None else (g.device, g.get_state()) for g in each)
        return Randomness(name, states, [_root(g) for g in each], device, state)

    @property
    def is_new(self) -> bool:
        """Whether the seed alone determines what candidate 0 draws: a fresh generator on the CPU."""
        return all(
            own is not None and _is_fresh(own[1], seed)
            for own, seed in zip(self.own, self.seeds, strict=True)
        )

    def arguments(self, prompt: int, candidate: Candidate) -> dict[str, Any]:
        """The argument of one call, by name; a generator is a new one."""
        own = self.own[prompt]
        if candidate.id == OWN:
            if own is None:
                return {}
            if self.name == SEED:
                return {SEED: own}
            device, state = own
            generator = torch.Generator(device)
            generator.set_state(state)
            return {GENERATOR: generator}
        if self.name == SEED:
            return {SEED: _drawn(candidate, "generator", _SEEDS)}
        return {GENERATOR: torch.Generator(self.device).manual_seed(_drawn(candidate, "generator", 2**53))}

    @contextmanager
    def calling(self, prompt: int, candidate: Candidate) -> Iterator[None]:
        """Around a call, not in threads: torch's global generator is as at the beginning for candidate 0, and seeded by
        the key for others. So a call that draws from it does not depend on the calls before it."""
        before = torch.get_rng_state()
        if candidate.id == OWN:
            torch.set_rng_state(self.state)
        else:
            torch.default_generator.manual_seed(_drawn(candidate, "global", 2**53))
        try:
            yield
        finally:
            torch.set_rng_state(before)


def _drawn(candidate: Candidate, what: str, most: int) -> int:
    """A seed below `most` from a candidate's key."""
    return int(float(Key(candidate.key).fold(what).uniform(1)[0]) * most)


def _each(name: str, value: Any, prompts: int) -> tuple[Any, ...]:
    kind: Any = torch.Generator if name == GENERATOR else Integral
    each = list(value) if isinstance(value, list | tuple) else [value] * prompts
    if len(each) != prompts:
        raise UsageError(
            f"{len(each)} of {name}= were given for {prompts} prompts: give one, or one for each prompt."
        )
    wrong = [v for v in each if v is not None and (not isinstance(v, kind) or isinstance(v, bool))]
    if wrong or (any(v is None for v in each) and any(v is not None for v in each)):
        raise UsageError(
            f"{name}={shown(value)} must be a {'torch.Generator' if name == GENERATOR else 'whole number'}, or a list "
            "with one for each prompt."
        )
    return tuple(each)


def _is_fresh(state: torch.Tensor, seed: int) -> bool:
    fresh = torch.Generator("cpu").manual_seed(seed).get_state()
    return fresh.shape == state.shape and torch.equal(fresh, state)


def _root(value: Any) -> int:
    """Of a generator its seed; without one, a hash of torch's global generator, which is not changed."""
    if isinstance(value, torch.Generator):
        return int(value.initial_seed())
    if value is None:
        return zlib.crc32(torch.get_rng_state().numpy().tobytes())
    return int(value) % 2**64
