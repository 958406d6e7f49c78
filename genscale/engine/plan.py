"""What a run will cost, before it starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from genscale.engine.budget import Budget
from genscale.engine.held_latents import HeldLatents
from genscale.engine.search import Search
from genscale.engine.stopping import Stop
from genscale.engine.verifier_roles import Roles
from genscale.errors import BudgetExhausted
from genscale.key import Key
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.interfaces import Sampler, SamplerHooks
from genscale.protocol.particles import OWN, Particles
from genscale.protocol.queries import Gradient, Score


@dataclass(frozen=True)
class Plan:
    """The cost of a run, for each prompt.

    steps: denoising steps of one candidate. nfe_per_candidate: its NFE (denoiser evaluations; 2 a step with guidance).
    cost: NFE that the sampler spends without a budget; None if it runs until the budget is spent.
    nfe, verifier_calls, candidates: what will be spent, and how many candidates finished, under the budget. Where
        seconds, a target or a stop rule may end the run earlier these are upper limits; None if only those end it.
    prompts: how many. budget: with `images` resolved to NFE.
    keeps_own: whether the pipeline's own candidate is finished however low it scores; False also where only seconds, a
        target or a stop rule end the run, since it is not known then.
    held: the latents that the search of a prompt holds at its peak; None where nothing was counted.
    pool: whether the prompts share their budgets; nfe, verifier_calls and candidates are then means over the prompts.
    drafts, nfe_per_draft: how many candidates are drafted, and the NFE of a draft; None without drafts. nfe and
        verifier_calls hold both.
    """

    steps: int
    nfe_per_candidate: int
    cost: int | None
    nfe: int | None
    verifier_calls: int | None
    candidates: int | None
    prompts: int
    budget: Budget = field(default_factory=Budget)
    keeps_own: bool = False
    pool: bool = False
    drafts: int | None = None
    nfe_per_draft: int | None = None
    held: HeldLatents | None = field(default=None, compare=False)


def plan(
    sampler: Sampler, process: dict[str, Any], budget: Budget, roles: Roles, prompts: int, stop: Stop | None = None,
    results: int = 1, keep: int = 1, batch_size: int = 16,
) -> Plan:  # fmt: skip
    """Run the sampler without a model and count its queries, as if all scores were equal.

    That is exact for samplers whose cost does not depend on scores; for others (`rollover`) it is their cost when no
    score improves. results: how many candidates the call returns. keep, batch_size: as in `genscale.scale`.
    """

    def opened() -> Search:
        return Search.open(0, "", sampler, Key((0,)), budget, roles, results=results, stop=stop, **process)

    search = opened()
    seen = search.process
    cost = SamplerHooks.of(sampler).cost(seen)
    endless = cost is None and seen.open_ended and seen.nfe_left is None and seen.calls_left is None
    held = HeldLatents(4 * seen.prior.own.numel(), batch_size, getattr(seen.solver, "remembers", 0))
    held.keeps_states = SamplerHooks.of(sampler).keeps_states
    if not endless:
        for _ in simulate(search, held=held):
            pass
        held.kept = min(max(keep, results) + 1, search.finished)
    return Plan(
        seen.steps,
        seen.nfe(),
        cost,
        None if endless else search.spent,
        None if endless else search.calls,
        None if endless else search.finished,
        prompts,
        search.budget,
        not endless and _finishes_own(opened()),
        held=None if endless else held,
    )


def _finishes_own(search: Search) -> bool:
    """Whether candidate 0 is finished although it scores far below all others."""
    for is_preview in simulate(search, lag=1000.0):
        some = search.particles[: search.affordable()]
        if not is_preview and any(c.id == OWN for c in some.candidates):
            return True
    return False


def simulate(search: Search, lag: float = 0.0, held: HeldLatents | None = None) -> Iterator[bool]:
    """Run the search with made-up answers, counting. Yields at every Score whether it is one of previews.

    lag: how much worse candidate 0 scores than the others, which score alike. held: counts the latents.
    """
    verifiers, steps = search.roles.search, search.process.steps
    worse = torch.tensor([math.copysign(lag, -member.weight) for member in verifiers.members]).double()
    while search.query is not None:
        rows, until, particles = search.affordable(), search.until, search.particles
        some = particles[:rows]
        if held is not None:
            held.asked(search.query, len(some))
        if until == particles.step:
            search.send(particles)
        elif rows == 0:
            search.throw(BudgetExhausted())
        elif isinstance(search.query, Score):
            search.calls += search.calls_a_score * rows
            search.finished += rows if particles.step == steps else 0
            yield particles.step < steps
            raw = torch.zeros(rows, len(verifiers.members), dtype=torch.float64)
            raw[torch.tensor([c.id == OWN for c in some.candidates])] = worse
            search.send(Scores(raw, verifiers.join))
        elif isinstance(search.query, Gradient):
            search.spent += search.price * rows
            search.calls += search.calls_a_score * rows
            search.send(_flat(search.query, some, search))
        else:
            search.spent += search.price * rows
            x = some.x.float()
            moved = replace(some, x=x, step=until or 0, x0=x, memory=None, inner=0)
            rate = torch.zeros(len(x), dtype=torch.float64)
            search.send(Prediction(x, x, rate) if until is None else moved)


def _flat(query: Gradient, particles: Particles, search: Search) -> Graded:
    """A made-up answer: all gradients and scores are 0."""
    x, verifiers = particles.x.float(), search.roles.search
    raw = torch.zeros(len(x), len(verifiers.members), dtype=torch.float64)
    noises = None if query.noises is None else torch.zeros_like(query.noises[:, : len(x)])
    return Graded(
        torch.zeros_like(x),
        x,
        Prediction(x, x),
        None if query.pull is not None else Scores(raw, verifiers.join),
        noises,
        torch.zeros(len(verifiers.members), *x.shape) if query.each else None,
        None if noises is None or not query.each else torch.zeros(len(verifiers.members), *noises.shape),
    )
