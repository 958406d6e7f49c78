"""`genscale.toy.analytic`: its model against sums and a plain loop, and the engine on it against both."""

from __future__ import annotations

import math

import pytest
import torch

from genscale.errors import UsageError
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.reno import Reno
from genscale.samplers.smc import Smc
from genscale.toy import analytic

MIXTURE = analytic.Mixture(torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), 0.4, torch.tensor([0.25, 0.75]))
FIRST = analytic.coordinate(0)


@pytest.mark.parametrize("t", [0.2, 0.7, 1.0])
def test_the_clean_estimate_is_the_posterior_mean(t: float) -> None:
    """By summing over a grid of clean latents."""
    line = torch.linspace(-5, 5, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    prior = sum(
        w * torch.exp(-(grid - m).square().sum(1) / (2 * 0.4**2))
        for w, m in zip(MIXTURE.weights, MIXTURE.means.double(), strict=True)
    )
    x = torch.tensor([[0.3, -0.2], [1.4, 0.9]])
    for row, found in zip(x, MIXTURE.clean(x, t), strict=True):
        weight = prior * torch.exp(-(row - (1 - t) * grid).square().sum(1) / (2 * t**2))
        assert torch.allclose(found, (weight[:, None] * grid).sum(0) / weight.sum(), atol=1e-6)


def test_the_engine_carries_noise_where_the_plain_loop_does() -> None:
    found = analytic.search(BestOfN(5), MIXTURE, FIRST, steps=7, keep=5)
    process = found.searches[0].process
    for entry in found.ranking():
        end = MIXTURE.carry(process.noise(entry.candidate)[None], 7)[0]
        assert torch.allclose(entry.x, end, atol=1e-6)
        assert found.total(entry) == pytest.approx(float(end[0]), abs=1e-6)
    assert torch.equal(
        analytic.latents(found.media(found.ranking())), torch.stack([e.x for e in found.ranking()])
    )


def test_a_fine_run_ends_in_the_mixture() -> None:
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    ends = MIXTURE.carry(noise, 100)
    right = float((ends[:, 0] > 0.5).double().mean())
    assert abs(right - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_the_expected_best_of_n_is_the_closed_form() -> None:
    """E max of 2 standard normals is 1 / sqrt(pi); of one it is 0."""
    model, runs = analytic.gaussian(3, mean=1.0, std=2.0), 400
    scale = float((model.carry(torch.eye(3)[:1]) - model.carry(torch.zeros(1, 3)))[0, 0])
    middle = float(model.carry(torch.zeros(1, 3))[0, 0])
    for n, expected in ((1, 0.0), (2, 1 / math.sqrt(math.pi))):
        found = analytic.search(BestOfN(n), model, FIRST, runs=runs)
        best = torch.tensor([(found.ranking(i)[0].total - middle) / scale for i in range(runs)])
        assert abs(float(best.mean()) - expected) < 4 * float(best.std()) / math.sqrt(runs)


def test_runs_are_independent_of_each_other_and_of_the_batches() -> None:
    many = analytic.search("best_of_n", MIXTURE, FIRST, budget="80nfe", runs=3, batch_size=4)
    few = analytic.search("best_of_n", MIXTURE, FIRST, budget="80nfe", runs=2)
    assert [s.spent for s in many.searches] == [80, 80, 80]
    for i in range(2):
        assert [e.candidate for e in many.ranking(i)] == [e.candidate for e in few.ranking(i)]
    assert len({many.ranking(i)[0].total for i in range(3)}) == 3
    other = analytic.search("best_of_n", MIXTURE, FIRST, budget="80nfe", seed=1)
    assert other.best.total != few.best.total


def test_kernels_gradients_and_held_out_scores_work_on_it() -> None:
    smc = analytic.search(Smc(8), MIXTURE, FIRST, held_out=analytic.coordinate(1))
    assert smc.population() is not None
    assert set(smc.best.held_out) == {"coordinate_1"}
    reno = analytic.search(Reno(iterations=3, trials=0), analytic.gaussian(4), FIRST)
    assert reno.best.total > reno.base().total
    assert reno.ledger.backwards > 0


def test_what_makes_no_model_is_refused() -> None:
    for means, weights in ((torch.zeros(3), None), (torch.zeros(2, 3), torch.ones(3))):
        with pytest.raises(UsageError):
            analytic.Mixture(means, 1.0, weights)
    for numbers in ({"steps": 0}, {"runs": 0}):
        with pytest.raises(UsageError):
            analytic.search("best_of_n", MIXTURE, FIRST, **numbers)
    with pytest.raises(UsageError, match="best_of_m"):
        analytic.search("best_of_m", MIXTURE, FIRST)
