"""Transforms of the proposal that need no reward: noise-level guidance and zigzag sampling, against closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import genscale
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.answers import Prediction
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.nlg import Nlg
from genscale.samplers.zigzag import Zigzag
from tests.analytic import Mixture, run
from tests.test_passthrough import equal
from tests.zoo import ZOO

HERE, THERE = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[-1.0, 1.0, 0.0]])


def x_of(found):
    return torch.stack([e.x for e in found.searches[0].finals])


def test_nlg_moves_against_the_pull_and_keeps_the_norm():
    """On a grid that begins below pure noise the branches differ: z' = z - rate (eps_c - eps_u), back on the sphere."""
    sampler = Nlg(1, repeats=1, clip=100.0, jitter=0.0, rate=0.3)
    found = run(BestOfN(1), keep=9)
    seen = found.searches[0].process
    key = Key.from_seed(3)
    asks = sampler.search(seen, key)
    next(asks)  # for a candidate
    ask = asks.send(1)
    z = ask.particles.x.clone()
    push = torch.tensor([[0.5, -0.2, 0.1]])
    assert ask.branch == "cond"
    ask = asks.send(Prediction(torch.zeros_like(z), z + push))
    assert ask.branch == "uncond"
    ask = asks.send(Prediction(torch.zeros_like(z), z))
    moved = z - 0.3 * push
    expected = moved * (z.numel() ** 0.5 / moved.norm())
    torch.testing.assert_close(ask.particles.x, expected, atol=1e-5, rtol=0)


def test_zigzag_is_the_plain_run_where_the_way_back_undoes_the_step():
    """The twin of the test below: with one prediction for both branches and a single Gaussian of no width, every step
    and its inversion lie on one line, and nothing changes."""
    point = Mixture(HERE, std=1e-4)
    found = run(Zigzag(1), mixture=point, models={"uncond": point}, keep=9, steps=5)
    torch.testing.assert_close(x_of(found), HERE, atol=2e-3, rtol=0)


def test_zigzag_lets_more_of_the_guidance_in():
    """The way back with another prediction moves the latents: x' = alpha x0_u + sigma eps_u, by hand over two steps."""
    cond, uncond = Mixture(HERE), Mixture(THERE)
    found = run(Zigzag(1, until=0.5), mixture=cond, models={"uncond": uncond}, keep=9, steps=3)
    process = found.searches[0].process
    x = process.prior.own[None].double()
    times = (1.0, 2 / 3, 1 / 3, 0.0)

    def step(model, x, t, s):
        clean = model.clean(x, t)
        eps = (x - (1 - t) * clean) / t
        return (1 - s) * clean + s * eps

    for i, (t, s) in enumerate(pairwise(times)):
        ahead = step(cond, x, t, s)
        if i < 2:
            clean = uncond.clean(ahead, s)
            eps = (ahead - (1 - s) * clean) / s
            ahead = step(cond, (1 - t) * clean + t * eps, t, s)
        x = ahead
    torch.testing.assert_close(x_of(found).double(), x, atol=1e-4, rtol=0)
    plain = run(BestOfN(1), mixture=cond, keep=9, steps=3)
    assert float((x_of(plain) - x_of(found)).abs().max()) > 0.01
    # step 0: forward, back, forward; step 1 the same; step 2 once
    assert found.ledger.evaluations == 3 + 3 + 1


@pytest.mark.parametrize("name", ["stable_diffusion", "sd3", "wan"])
@pytest.mark.parametrize("sampler", ["nlg", "zigzag"])
def test_on_pipelines(name, sampler):
    options = {"nlg": {"repeats": 2}, "zigzag": {}}[sampler]
    cost = {"nlg": 2 * 2 + 6, "zigzag": 6 + 2 * 3}[sampler]
    scaled = genscale.scale(ZOO[name].build(), sampler, equal, candidates=2, **options)
    output = scaled(**ZOO[name].arguments(2), output_type="np", generator=torch.Generator().manual_seed(0))
    assert [s.spent for s in output.search.searches] == [2 * cost] * 2
    assert output.search.ledger.evaluations == 4 * cost


@pytest.mark.parametrize("sampler", ["nlg", "zigzag"])
def test_without_guidance_they_are_refused(sampler):
    with pytest.raises(UsageError, match="no two branches"):
        genscale.scale(ZOO["flux"].build(), sampler, candidates=1)(**ZOO["flux"].arguments(1))
