"""The process of a generator that is called as a whole: one step, which is the call.

In the place of latents a candidate has the digest of what the call made (`storage.media_store`), so the engine, the
archive and the ranking are those of a pipeline. All that needs a denoising loop is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import Tensor

from genscale.engine.budget import Budget
from genscale.engine.holding import Holding
from genscale.engine.plan import simulate
from genscale.engine.prior import Prior
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError
from genscale.key import Key
from genscale.plugins import registry
from genscale.protocol.interfaces import Sampler, SamplerHooks
from genscale.protocol.particles import Candidate, Particles
from genscale.storage.media_store import WORDS

_OF_THE_LOOP = ("schedule", "mix", "branches", "gradient")  # what a sampler may need that only a loop has
_TRIED = 4  # scores after which a sampler that has met no refusal is taken to need none


def no_loop(name: str) -> str:
    """Why a sampler that needs more than finished candidates is refused. name: of the generator."""
    return (
        f"{name} is called as a whole, so genscale has no part in how it makes an image: use a sampler of finished "
        "candidates, such as best_of_n"
    )


@dataclass(frozen=True)
class CallPrior(Prior):
    """No candidate has initial latents: each starts from the same place, and its key decides in the call."""

    why: str = ""

    def given(self, candidate: Candidate) -> Tensor | None:
        return self.own

    def noise_behind(self, latents: Tensor) -> NoReturn:
        raise UsageError(f"{self.why}.")

    def latents(self, noise: Tensor, holding: Holding | None = None) -> NoReturn:
        raise UsageError(f"{self.why}.")


@dataclass(frozen=True)
class CallSolver:
    """The step: what the call made is the state after it."""

    def step(
        self, particles: Particles, output: Tensor, draw: Callable[[int], Tensor]
    ) -> tuple[Tensor, None]:
        return output, None


def call_process(name: str, arms: tuple[int, ...], together: int = 1) -> dict[str, Any]:
    """The arguments of a `PromptProcess`. arms: NFE of a call of each configuration, at least one. together: calls at
    once, so that candidates are scored, and can end the search, as soon as they are made."""
    start, why = torch.zeros(WORDS, dtype=torch.float64), no_loop(name)
    return {
        "evaluations": (arms[0],),
        "prior": CallPrior(start, start, start, why=why),
        "solver": CallSolver(),
        "view": f"{why}.",
        "off_grid": why,
        "own_restarts": False,
        "arms": arms,
        "together": together,
    }


def check_finished_only(
    name: str, sampler: Sampler, process: Mapping[str, Any], budget: Budget, roles: Roles
) -> None:
    """UsageError if a sampler needs more than finished candidates. Nothing is called: it is run with made-up answers.

    name: of the generator.
    """
    hooks, called = SamplerHooks.of(sampler), registry.name_of("sampler", type(sampler))
    needs = [what for what in _OF_THE_LOOP if what in hooks.needs] + (["grid"] if hooks.grid else [])
    try:
        if needs:
            raise UsageError(f"{no_loop(name)}.")
        for _ in islice(simulate(Search.open(0, "", sampler, Key((0,)), budget, roles, **process)), _TRIED):
            pass
    except UsageError as error:
        if no_loop(name) not in str(error):
            raise
        raise UsageError(f"the sampler {called} needs a denoising loop, and {no_loop(name)}.") from None
