"""Proposals along the gradient: the law stays what it is, and the weights get more even."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from genscale.algorithms.guided_proposal import twisted
from genscale.algorithms.particle_filter import ParticleFilter
from genscale.algorithms.particle_pass import Pass
from genscale.algorithms.particle_pool import Pool
from genscale.diffusion.kernels import Ddim, Transition
from genscale.engine.budget import Budget
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.population import Population
from genscale.samplers.das import Das
from genscale.samplers.particle_gibbs import ParticleGibbs
from genscale.samplers.smc import Smc
from genscale.samplers.svdd import Svdd
from genscale.samplers.tds import Tds
from tests.analytic import first_coordinate, run
from tests.mixture import Line
from tests.quick import quick
from tests.test_particle_law import BED, LEVELS, STEPS, STRENGTH, populations, z_scores

KERNEL = Ddim(1.0)
SEARCHES = 120
PAPER: dict[str, Any] = {"gradient": "model", "window": (0.0, 1.0)}
"""Of TDS and DAS, as published: gradients through the denoiser, at every step."""


@cache
def tilted_chain(line: Line = BED, strength: float = STRENGTH) -> tuple[float, float]:
    """(log Z, E[x0]) of the discretised chain tilted by exp(strength x0), by quadrature on the line."""
    grid = torch.linspace(-9, 9, 3001, dtype=torch.float64)
    h = float(grid[1] - grid[0])
    law = torch.exp(-0.5 * (grid / LEVELS.level(0).sigma) ** 2)
    law = law / (law.sum() * h)
    for i in range(STEPS):
        start, stop = LEVELS.level(i), LEVELS.level(i + 1)
        x0, eps = line.pair(grid[:, None], start)
        step = KERNEL.transition(grid[:, None], x0, eps, start, stop)
        if step.std == 0:  # into the clean end
            weight, ends = law * torch.exp(strength * step.mean[:, 0]) * h, step.mean[:, 0]
            return math.log(float(weight.sum())), float((weight * ends).sum() / weight.sum())
        gap = (grid[:, None] - step.mean[:, 0]) / step.std
        law = (torch.exp(-0.5 * gap**2) / (step.std * math.sqrt(2 * math.pi))) @ law * h
    raise AssertionError("the last step makes no noise")


def on_the_chain(sampler: Any, **changes: Any) -> Any:
    fixed = {"strength": STRENGTH, "scale": 1.0, "particles": 8, "kernel": KERNEL, "rest": KERNEL}
    return replace(sampler, **fixed | changes)


def z_of(found: list[Population]) -> float:
    return max(map(abs, z_scores(found, *tilted_chain())))


def found(sampler: Any) -> list[Population]:
    made = []
    for search in populations(sampler, SEARCHES):
        assert search.population is not None
        made.append(search.population)
    return made


TWISTED = {
    "tds": on_the_chain(Tds()),
    "tds as published": on_the_chain(Tds(**PAPER)),
    "tds, clipped": on_the_chain(Tds(**PAPER, reach=0.3)),
    "tds through the decoder": on_the_chain(Tds(window=(0.0, 1.0))),
    "tds, always resampled": on_the_chain(Tds(**PAPER, ess=1.0)),
    "das": on_the_chain(Das()),
    "das as published": on_the_chain(Das(**PAPER)),
    "smc that scores now and then": on_the_chain(Smc(gradient="model", window=(0.2, 0.9), interval=0.3)),
    "svdd, soft": on_the_chain(Svdd(), gradient="model", children=2),
    "svdd, pushed otherwise": on_the_chain(Svdd(), gradient="decoder", push=0.7, children=2),
}


@pytest.mark.parametrize("name", quick(TWISTED, ("tds as published", "das")))
def test_evidence_and_mean_are_unbiased(name: str) -> None:
    assert z_of(found(TWISTED[name])) < 4


def test_a_proposal_that_is_not_paid_for_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: weights without log p - log q."""
    whole = Pass._propose

    def twin(self: Pass, pool: Pool, *rest: Any) -> None:
        before = pool.log_w
        whole(self, pool, *rest)
        pool.log_w = before

    monkeypatch.setattr(Pass, "_propose", twin)
    assert z_of(found(on_the_chain(Tds(**PAPER)))) > 4


@cache
def unresampled(gradient: str) -> tuple[Tensor, Tensor]:
    """(ESS, log evidence) of every search, where nothing is ever resampled: they say how good the proposals are."""
    made = found(on_the_chain(Tds(**PAPER | {"gradient": gradient}, ess=1e-9)))
    return torch.tensor([p.ess for p in made]), torch.tensor([p.log_evidence for p in made])


def _z(values: Tensor) -> float:
    return float(values.mean() / (values.std() / math.sqrt(len(values))))


def test_tds_has_more_even_weights_than_plain_smc_at_the_same_n() -> None:
    smc, tds = (unresampled(g)[0] for g in ("none", "model"))
    assert _z(tds - smc) > 4
    assert tds.mean() > 1.2 * smc.mean()


def test_the_evidence_varies_less() -> None:
    none, model = (unresampled(g)[1] for g in ("none", "model"))
    assert model.var() < 0.7 * none.var()


def test_a_push_downhill_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law stays even then, but not the evenness: the broken twin of the two tests above."""
    whole = Pass._propose

    def twin(self: Pass, pool: Pool, *rest: Any) -> None:
        assert pool.slope is not None
        pool.slope = -pool.slope
        whole(self, pool, *rest)

    monkeypatch.setattr(Pass, "_propose", twin)
    turned = torch.tensor([p.ess for p in found(on_the_chain(Tds(**PAPER, ess=1e-9)))])
    assert _z(turned - unresampled("none")[0]) < -4


# ---------------------------------------------------------------- the transition itself


def test_a_gaussian_tilted_by_a_plane_is_the_twisted_one() -> None:
    base, slope = Transition(torch.tensor([[0.4, -1.0]]), 0.3), torch.tensor([[2.0, 0.5]])
    made, x = twisted(base, slope), torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    tilt = base.log_prob(x) + (x * slope).sum(1)
    gap = tilt - made.log_prob(x)
    assert torch.allclose(gap, gap.mean().expand(50), atol=1e-5)
    assert made.std == base.std


def test_reach_is_the_norm_in_standard_deviations() -> None:
    base = Transition(torch.zeros(3, 2, 2), 0.5)
    slope = torch.tensor([100.0, 0.01, 0.0])[:, None, None].expand(3, 2, 2)
    moved = twisted(base, slope, reach=1.5).mean.flatten(1).norm(dim=1) / base.std
    assert moved.tolist() == pytest.approx([1.5, 0.01 * 2 * 0.5, 0.0])


# ---------------------------------------------------------------- what is asked and what is paid


@pytest.mark.parametrize(
    "sampler",
    [
        Tds(3), Das(4, **PAPER), Tds(2, **PAPER), Tds(3, gradient="model", interval=0.3),
        Svdd(2, children=3, gradient="model", push=1.0),
        Svdd(1, children=4, gradient="decoder", push=1.0, interval=0.25), Smc(3, children=2, gradient="model"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("guided", [1, 2, (1, 2, 2, 2, 1, 2, 2, 1)])
def test_the_plan_is_what_is_spent(sampler: ParticleFilter, guided: Any) -> None:
    made = run(sampler, steps=8, guided=guided)
    search = made.searches[0]
    assert search.spent == sampler.cost(search.process) == made.ledger.nfe
    assert sampler.particles is not None
    assert search.calls == sampler.calls(search.process, sampler.particles, sampler.children)
    for short in (0, 1):  # a budget that just pays for it, and one that does not
        again = run(sampler, steps=8, guided=guided, budget=Budget(nfe=search.spent - short)).searches[0]
        assert (again.spent == search.spent) == (short == 0)


def asked(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """(kind, step, rows) of all questions."""
    seen: list[tuple[str, int, int]] = []
    whole = Search._settle

    def note(self: Search, ask: Any) -> None:
        if ask is not None:
            seen.append((type(ask).__name__, ask.particles.step, len(ask.particles)))
        whole(self, ask)

    monkeypatch.setattr(Search, "_settle", note)
    run(sampler, steps=8)
    return seen


def test_no_call_is_paid_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores, predictions and gradients come with one question a step."""
    seen = asked(Tds(3, **PAPER), monkeypatch)
    assert [s for s in seen if s[0] == "Gradient"] == [("Gradient", step, 3) for step in range(1, 7)]
    assert {s[0] for s in seen if s[0] != "Gradient"} == {"Solve", "Score"}
    assert [s[1] for s in seen if s[0] == "Score"] == [8]


def test_of_children_only_the_chosen_are_gone_back_through(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = asked(Svdd(2, children=3, gradient="model", push=1.0), monkeypatch)
    assert {(kind, rows) for kind, step, rows in seen if 0 < step < 7} == {
        ("Denoise", 6), ("Score", 6), ("Gradient", 2)
    }  # fmt: skip


def test_without_a_push_the_strength_is_that_of_the_next_step() -> None:
    """DAS moves by lambda of t - 1, in units of the score."""
    process, key = run(Das()).searches[0].process, Key((0,))
    one = Pass(Das(4, strength=2.0), process, key, 0, 4, unit=0.5)
    assert one._push(2) == pytest.approx(2.0 * (2 ** (3 / 6) - 1) / 0.5)
    assert Pass(Tds(4, push=3.0), process, key, 0, 4, unit=0.5)._push(1) == 6.0


# ---------------------------------------------------------------- refusals


def flat(media: Any, prompts: Any) -> Any:
    return [float(x) for x in media.pixels[:, 0, 0, 0].detach()]


def test_a_verifier_without_gradient_is_refused_and_the_way_out_is_named() -> None:
    with pytest.raises(UsageError, match="gradient=none"):
        run(Das(), verifier=flat)
    with pytest.raises(UsageError, match="gradient=none"):
        run(Das(), roles=Roles(VerifierSet((WeightedVerifier("a", first_coordinate),), "rank")))
    assert run(Das(gradient="none"), verifier=flat).winners[0] is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tds(gradient="yes"), "gradient='yes' is unknown"),
        (lambda: Svdd(gradient="model"), "push"),
        (lambda: Tds(reach=0), "reach"),
        (lambda: Tds(push=-1.0), "push"),
        (lambda: Tds(kernel="glass(2)"), "glass"),
        (lambda: Tds(rebirth="ddim(1)"), "one of them"),
        (lambda: Tds(proposal=lambda *a: a[0]), "one of them"),
        (lambda: ParticleGibbs(gradient="model"), "particle_gibbs"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
