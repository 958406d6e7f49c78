"""successive_halving: who goes on, what it costs, and that it is nothing but the pipeline's own runs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from genscale.engine.budget import Budget
from genscale.engine.process import PromptProcess
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.particles import draw
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.successive_halving import SuccessiveHalving
from tests.analytic import Mixture, Run, process_of, run

STEPS = 8
RUNGS = (0.125, 0.375, 0.625)  # of 8 steps: the previews of calls 1, 3, 5, which leave steps 2, 4, 6 behind


def seen(made: Run) -> list[tuple[int, int, float, int]]:
    return [(e.step, e.candidate.id, e.total, e.nfe) for e in made.archive.entries]


def test_the_better_half_goes_on_from_each_rung() -> None:
    made = run(SuccessiveHalving(16, RUNGS), steps=STEPS)
    pools = [[e for e in made.archive.entries if e.step == step] for step in (2, 4, 6, 8)]
    assert [len(p) for p in pools] == [16, 8, 4, 2]
    for before, after in pairwise(pools):
        best = sorted(before, key=lambda e: -e.total)[: len(after)]
        assert {e.candidate.id for e in after} == {e.candidate.id for e in best}
    assert made.searches[0].spent == 16 * 2 + 8 * 2 + 4 * 2 + 2 * 2
    assert made.searches[0].calls == 16 + 8 + 4 + 2


def test_who_goes_on_was_carried_by_the_scheduler_alone() -> None:
    """No noise, no copies: every finished candidate is a plain run from its own noise."""
    made = run(SuccessiveHalving(8, RUNGS), steps=STEPS, keep=8)
    key, times = Key.from_seed(0).fold("prompt", 0), process_of(STEPS)["solver"].times
    finals = made.searches[0].finals
    assert len({e.candidate.id for e in finals}) == len(finals) == 1
    for entry in finals:
        x = PromptProcess(**process_of(STEPS)).start([draw(key, entry.candidate.id)]).x
        for t, s in pairwise(times):
            x = x + (s - t) * Mixture().velocity(x, t)
        assert torch.allclose(entry.x, x[0], atol=1e-6)


@pytest.mark.parametrize(
    "budget", [None, Budget(nfe=150), Budget(verifier_calls=40), Budget(nfe=200, target=2.2)]
)
@pytest.mark.parametrize("n", [None, 9])
def test_it_is_what_best_of_n_with_pruning_does(n: int | None, budget: Budget | None) -> None:
    ours, theirs = SuccessiveHalving(n, RUNGS, 0.4), BestOfN(n, prune=RUNGS, survivors=0.4)
    a, b = (run(sampler, steps=STEPS, budget=budget, prompts=2) for sampler in (ours, theirs))
    assert seen(a) == seen(b)
    assert a.ledger.evaluations == b.ledger.evaluations
    process = a.searches[0].process
    assert ours.cost(process) == theirs.cost(process)


def test_survivors_of_1_drop_nobody_and_look_at_nothing() -> None:
    assert seen(run(SuccessiveHalving(9, RUNGS, survivors=1.0))) == seen(run(BestOfN(9)))


def test_16_candidates_without_a_budget() -> None:
    made = run(SuccessiveHalving(), steps=STEPS)
    assert sum(e.step == 4 for e in made.archive.entries) == 16
    assert made.searches[0].spent == SuccessiveHalving().cost(made.searches[0].process)
    assert made.searches[0].spent == 16 * STEPS * 5 // 8  # what the docstring says of the defaults


@pytest.mark.parametrize("nfe", [8, 9, 30, 75, 76, 100])
def test_the_first_pool_is_the_largest_that_is_paid_for(nfe: int) -> None:
    made = run(SuccessiveHalving(rungs=RUNGS), steps=STEPS, budget=Budget(nfe=nfe))
    n = len({e.candidate.id for e in made.archive.entries if e.nfe <= nfe and e.step == 2} or {0})
    assert made.searches[0].spent <= nfe
    assert made.searches[0].finished >= 1

    def price(n: int) -> int:
        return SuccessiveHalving(n, RUNGS).cost(PromptProcess(**process_of(STEPS))) or 0

    first = next(n for n in range(1, 100) if price(n + 1) > nfe)
    assert price(first) <= nfe
    assert n >= first


@pytest.mark.parametrize("calls", range(1, 20))
def test_it_plans_for_verifier_calls(calls: int) -> None:
    made = run(SuccessiveHalving(9), budget=Budget(verifier_calls=calls))
    assert made.searches[0].finished >= 1
    assert made.searches[0].calls <= calls


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_short_run_has_fewer_rungs(steps: int) -> None:
    sampler = SuccessiveHalving(8, RUNGS)
    made = run(sampler, steps=steps)
    previews = {e.step for e in made.archive.entries if not e.final}
    assert previews == {1: set(), 2: set(), 3: {2}, 4: {2, 3}}[steps]
    assert made.searches[0].spent == sampler.cost(made.searches[0].process)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"candidates": 0}, "successive_halving needs at least 1 candidate, not 0"),
        ({"rungs": ()}, "needs a rung"),
        ({"rungs": (0.6, 0.3)}, "rungs=.* must be increasing"),
        ({"rungs": (0.3, 0.3)}, "must be increasing"),
        ({"rungs": (0.0, 0.5)}, r"of the run in \(0, 1\)"),
        ({"rungs": (0.5, 1.0)}, r"of the run in \(0, 1\)"),
        ({"survivors": 0.0}, "must be a share"),
        ({"survivors": 1.5}, "must be a share"),
    ],
)
def test_it_refuses(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        SuccessiveHalving(**options)
