"""Plans, and what samplers may ask of a process. (That plans equal what is spent is in test_budget.py.)"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from genscale.engine.budget import Budget
from genscale.engine.plan import Plan, plan
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.protocol.particles import draw
from genscale.protocol.queries import Denoise, Score, Solve
from tests.analytic import SAMPLERS, first_coordinate, parts_for, process_of, run

ROLES = Roles(VerifierSet((WeightedVerifier("a", first_coordinate),)))


def test_what_a_plan_says() -> None:
    made = plan(SAMPLERS["best_of_n"], process_of(6, guided=2), Budget(nfe=50), ROLES, prompts=3)
    assert made == Plan(
        steps=6,
        nfe_per_candidate=12,
        cost=96,
        nfe=48,
        verifier_calls=4,
        candidates=4,
        prompts=3,
        budget=Budget(nfe=50),
        keeps_own=True,
    )


def test_a_plan_asks_no_verifier() -> None:
    def never(media: Any, prompts: Any) -> Any:
        raise AssertionError

    roles = Roles(VerifierSet((WeightedVerifier("a", never),)), VerifierSet((WeightedVerifier("b", never),)))
    for sampler in SAMPLERS.values():
        assert plan(sampler, parts_for(sampler), Budget(nfe=60), roles, 1).candidates


@dataclass(frozen=True)
class Script:
    """A sampler that asks what it is told to."""

    ask: Any
    needs: ClassVar[frozenset[str]] = frozenset()

    def search(self, process: Any, key: Any) -> Generator[Any, Any, None]:
        particles = process.start([draw(key, i) for i in range(4)])
        yield from self.ask(particles)

    def cost(self, process: Any) -> int | None:
        return 0


def looking(particles: Any) -> Generator[Any, Any, None]:
    """Denoise twice, then go on with what Solve answers, also when there is nothing left to solve."""
    first = yield Denoise(particles)
    second = yield Denoise(particles)
    assert first.x0.shape == second.x0.shape == particles.x.shape
    there = yield Solve(particles, 0)
    assert there is particles
    finished = yield Solve(there)
    assert (yield Solve(finished)) is finished
    yield Score(finished)


@pytest.mark.parametrize("nfe", [None, 200, 32, 31, 8, 7, 3])
def test_a_denoise_is_counted_and_goes_whole(nfe: int | None) -> None:
    budget = Budget(nfe=nfe)
    made, planned = run(Script(looking), budget=budget), plan(Script(looking), process_of(), budget, ROLES, 1)
    assert made.searches[0].spent == planned.nfe
    # 4 rows once, 4 rows twice, and 6 a row to the end:
    wanted = {None: 32, 200: 32, 32: 32, 31: 26, 8: 8, 7: 4, 3: 0}
    assert planned.nfe == wanted[nfe]


def mistakes(particles: Any) -> dict[str, Any]:
    clean = particles.__class__(particles.x, 6, particles.candidates)
    return {
        "no question": "hello",
        "backwards": Solve(clean, 3),
        "beyond the end": Solve(particles, 7),
        "no model call": Denoise(clean),
    }


@pytest.mark.parametrize("kind", ["no question", "backwards", "beyond the end", "no model call"])
def test_mistakes_of_a_sampler_are_told(kind: str) -> None:
    def ask(particles: Any) -> Generator[Any, Any, None]:
        yield mistakes(particles)[kind]

    for go in (lambda: run(Script(ask)), lambda: plan(Script(ask), process_of(), Budget(), ROLES, 1)):
        with pytest.raises(
            (TypeError, ValueError), match=r"sampler yields|cannot be solved|no model call left"
        ):
            go()
