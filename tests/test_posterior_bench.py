"""The posterior benchmark: its laws against closed forms and quadrature, its distances, its driver."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.bed import Bed, runs
from benchmarks.distances import (
    Sampled,
    between,
    frechet,
    interval,
    pairs_mean,
    rbf,
    resamples,
    runs_mean,
    squared_mmd,
    squared_mmd_of_one,
)
from benchmarks.gaussians import Mixture, Tilt, grid, ring
from benchmarks.posterior import RIVAL, SEARCHES, Table, as_table, on
from benchmarks.posterior_tasks import plane
from genscale.diffusion.kernels import Ddim
from genscale.samplers.importance import Importance

TILTS = {"ring": ring(), "grid": grid()}


def plain(n: int) -> Tensor:
    return torch.ones(1, n, dtype=torch.float64)


def z_of_mmd(draws: Tensor, law: Any) -> float:
    """Squared MMD of independent draws [n, d] to a law in closed form, in standard errors of what equal laws give: then
    the centred kernel h has mean 0, and the mean over pairs has variance 2 E h^2 / (n (n - 1))."""
    cross = law.mean_kernel(draws, 1.0)
    centred = rbf(draws, draws, 1.0) - cross[:, None] - cross + law.own_kernel(1.0)
    off = centred - torch.diag(centred.diagonal())
    return float(off.sum() / (2 * off.square().sum()).sqrt())


def p_of_equal(x: Tensor, y: Tensor, shuffles: int = 200) -> float:
    """How often a random split of both samples has the squared MMD that x and y have (a permutation test)."""
    both, g = torch.cat([x, y]), torch.Generator().manual_seed(0)

    def found(order: Tensor) -> float:
        one, other = both[order[: len(x)]], both[order[len(x) :]]
        return float(squared_mmd(one[:, None], Sampled(other), 1.0, plain(len(x))))

    seen = found(torch.arange(len(both)))
    return sum(found(torch.randperm(len(both), generator=g)) >= seen for _ in range(shuffles)) / shuffles


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("tilt", TILTS.values(), ids=TILTS)
def test_the_tilted_law_by_quadrature(tilt: Tilt) -> None:
    axis = torch.arange(-7.0, 7.0, 0.05, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    log_p, reward = tilt.mixture.log_density(x), tilt.reward(x)
    area = 0.05**2
    assert float(log_p.exp().sum() * area) == pytest.approx(1, abs=1e-6)
    assert math.log(float((log_p + reward).exp().sum() * area)) == pytest.approx(tilt.log_z, abs=1e-6)
    tilted = (log_p + reward - tilt.log_z).exp()
    assert torch.allclose(tilted, tilt.law.log_density(x).exp(), atol=1e-9)
    twin = Tilt(tilt.mixture, 0.9 * tilt.gains)  # another reward has another law
    assert not torch.allclose(tilted, twin.law.log_density(x).exp(), atol=1e-3)


@pytest.mark.parametrize("tilt", TILTS.values(), ids=TILTS)
def test_the_law_s_kernels_by_quadrature(tilt: Tilt) -> None:
    axis = torch.arange(-7.0, 7.0, 0.05, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    share = tilt.law.log_density(x).exp() * 0.05**2
    at = torch.tensor([[0.3, -2.0], [3.7, 1.1]], dtype=torch.float64)
    found = tilt.law.mean_kernel(at, 0.8)
    assert torch.allclose(found, rbf(at, x, 0.8) @ share, atol=1e-9)
    assert tilt.law.own_kernel(0.8) == pytest.approx(float(share @ tilt.law.mean_kernel(x, 0.8)), abs=1e-9)


@pytest.mark.parametrize("tilt", TILTS.values(), ids=TILTS)
def test_the_chain_ends_in_the_mixture(tilt: Tilt) -> None:
    """After any number of steps; DDIM with as few does not."""
    bed = tilt.bed(4)
    assert abs(z_of_mmd(bed.base(2000, 0).flatten(1), tilt.mixture)) < 4
    rough = replace(bed, kernel=Ddim(1.0))
    assert z_of_mmd(rough.base(2000, 0).flatten(1), tilt.mixture) > 4


def test_the_reverse_step_by_bayes() -> None:
    """p(x_s | x_t) of the mixture is p(x_s) p(x_t | x_s) up to a constant."""
    bed, mixture = ring().bed(5), ring().mixture
    start, stop = bed.schedule.level(2), bed.schedule.level(3)
    x_t = torch.tensor([[0.4, -0.7]], dtype=torch.float64)
    step = bed.kernel.transition(x_t, x_t, x_t, start, stop)
    weight, mean, spread = step.components()
    x_s = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mine = torch.logsumexp(weight - ((x_s[:, None] - mean).square().sum(-1) / (2 * spread**2)), 1)
    std = math.hypot(stop.alpha * mixture.std, stop.sigma)
    noisy = Mixture(mixture.log_weights, stop.alpha * mixture.means, std)
    scale = start.alpha / stop.alpha
    var = start.sigma**2 - scale**2 * stop.sigma**2
    bayes = noisy.log_density(x_s) - (x_t - scale * x_s).square().sum(1) / (2 * var)
    assert float((mine - bayes).std()) < 1e-9
    assert float((mine - noisy.log_density(x_s)).std()) > 0.1


# ---------------------------------------------------------------- distances


def test_mmd_of_equal_and_of_different_samples() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(120, 3, generator=g, dtype=torch.float64) for _ in range(2))
    assert p_of_equal(x, y) > 0.01
    assert p_of_equal(x + 0.5, y) == 0
    assert abs(z_of_mmd(ring().law.draw(1000, 0), ring().law)) < 4
    assert z_of_mmd(ring().mixture.draw(1000, 0), ring().law) > 4
    # Hand-made: two points against one law of two.
    law = Sampled(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    draws = torch.tensor([[[0.0]], [[2.0]]], dtype=torch.float64)
    k = [math.exp(-d * d / 2) for d in range(3)]
    cross = (1 + k[1] + k[2] + k[1]) / 4
    assert float(squared_mmd(draws, law, 1.0, plain(2))) == pytest.approx(k[2] - 2 * cross + k[1], abs=1e-12)
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    own = 0.0625 + 0.5625 + 2 * 0.1875 * k[2]
    cross = 0.25 * (1 + k[1]) / 2 + 0.75 * (k[2] + k[1]) / 2
    found = squared_mmd_of_one(draws[:, 0], weights, law, 1.0)
    assert found == pytest.approx(own - 2 * cross + k[1], abs=1e-12)


def test_several_draws_of_a_run_do_not_bias_the_distance() -> None:
    """Runs whose draws are all alike: pairs within a run must not count, and the twin that counts them is far off."""
    law = ring().law
    draws = law.draw(400, 0)[:, None].expand(-1, 4, -1)
    found = float(squared_mmd(draws, law, 1.0, plain(400)))
    assert abs(found) < 0.006
    twin = between(draws, 1.0).mean() - 2 * law.mean_kernel(draws[:, 0], 1.0).mean() + law.own_kernel(1.0)
    same = float(squared_mmd(draws[:, :1], law, 1.0, plain(400)))
    assert found == pytest.approx(same, abs=1e-9)
    assert float(twin) - found > 0.001


def test_frechet_of_known_gaussians() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 2, generator=g, dtype=torch.float64)
    y = torch.randn(20_000, 2, generator=g, dtype=torch.float64) * torch.tensor([2.0, 1.0]) + 1
    assert float(frechet(x, y, plain(20_000))) == pytest.approx(2 + 1, abs=0.1)  # |gap|^2 + (2 - 1)^2
    assert float(frechet(x, x, plain(20_000))) == pytest.approx(0, abs=1e-9)
    counts = resamples([0] * 50, 3)
    alike = x[:50].repeat_interleave(counts[1].long(), 0)  # a resample is its rows, written out
    written = float(frechet(alike, y, plain(50)))
    assert written == pytest.approx(float(frechet(x[:50], y, counts)[1]), abs=1e-9)


def test_resampling_gives_the_error_of_a_mean_and_keeps_groups() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    groups = [i % 2 for i in range(400)]
    counts = resamples(groups, 2000)
    assert torch.equal(counts[:, ::2].sum(1), torch.full((2001,), 200.0, dtype=torch.float64))
    value, half = interval(runs_mean(values, counts))
    assert value == pytest.approx(float(values.mean()), abs=1e-12)
    assert half == pytest.approx(float(1.96 * values.std() / 20), rel=0.1)
    # A run that was drawn twice is no pair of runs: a resample of a constant-free kernel is not drawn upwards.
    matrix = torch.eye(400, dtype=torch.float64)
    assert float(pairs_mean(matrix, counts).abs().max()) == 0
    assert float((counts @ matrix * counts).sum(1)[1] / 400**2) > 0.004  # the twin


# ---------------------------------------------------------------- the driver


@pytest.fixture(scope="module")
def bed() -> Bed:
    return grid().bed(5)


@pytest.mark.parametrize("label", SEARCHES)
def test_every_search_spends_the_same(label: str, bed: Bed) -> None:
    found = list(runs(bed, on(bed, SEARCHES[label]), [""] * 6, 60))
    assert all(60 - bed.steps < f.spent <= 60 for f in found)
    for f in found:
        assert float(f.weights.sum()) == pytest.approx(1, abs=1e-9)
        assert f.pictures.shape == (len(f.weights), 2, 1, 1)
        assert torch.allclose(f.totals, grid().reward(f.pictures.flatten(1)), atol=1e-9)
    if label == "best_of_n":
        assert all(len(f.weights) == 1 for f in found)


@pytest.mark.parametrize("label", ["smc", "dts (1, 0.5)"])
def test_a_run_does_not_depend_on_its_company(label: str, bed: Bed) -> None:
    sampler = on(bed, SEARCHES[label])
    one, two = (list(runs(bed, sampler, [""] * 5, 60, **c)) for c in ({}, {"together": 2, "batch_size": 3}))
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a.pictures, b.pictures, atol=1e-5)
        assert torch.allclose(a.weights, b.weights, atol=1e-5)
        assert torch.equal(a.drawn, b.drawn)
    other = next(runs(bed, sampler, [""], 60, seed=1))
    assert not torch.allclose(one[0].pictures[:1], other.pictures[:1])


def test_draws_follow_the_weights(bed: Bed) -> None:
    found = list(runs(bed, on(bed, Importance()), [""] * 60, 30))
    mine = torch.cat([f.totals[f.drawn].exp() for f in found]).mean()
    asked = torch.stack([f.weights @ f.totals.exp() for f in found])
    each = torch.stack([f.totals[f.drawn].exp().mean() for f in found]) - asked
    assert abs(float(each.mean() / (each.std() / math.sqrt(60)))) < 4
    assert float(mine - torch.stack([f.totals.exp().mean() for f in found]).mean()) > 0.1


@pytest.mark.slow
def test_strength_is_in_nats() -> None:
    """The evidence of the unbiased samplers is that of exp(R); another strength has another. Rewards of a third, since
    FK steering's evidence has so long a tail on the whole ones that 150 runs do not show its mean."""
    tilt = Tilt(ring().mixture, 0.3 * ring().gains)
    small = tilt.bed(4)

    def z(sampler: Any) -> float:
        found = [math.exp(f.evidence - tilt.log_z) for f in runs(small, sampler, [""] * 150, 40)]
        values = torch.tensor(found, dtype=torch.float64)
        return float((values.mean() - 1) / (values.std() / math.sqrt(len(values))))

    for label in ("importance", "smc", "fk_steering"):
        assert abs(z(on(small, SEARCHES[label]))) < 4, label
    assert abs(z(replace(on(small, Importance()), strength=1.3))) > 4


def test_a_table_of_a_small_task(bed: Bed) -> None:
    table = Table(plane("ring", ring(), 8, 4, 0))
    for label in (RIVAL, "dts (2, 0.8)"):
        table.add(label, 16, 0)
    rows = table.record["rows"]
    assert [r["search"] for r in rows] == ["exact draws", "model", RIVAL, "dts (2, 0.8)"]
    assert rows[2]["gains"] == {}
    a, b = (r["measures"]["reward"][0] for r in rows[2:])
    assert rows[3]["gains"]["reward"][0] == pytest.approx(b - a, abs=1e-9)
    assert as_table(table.record).count("\n") == 5


# ---------------------------------------------------------------- digits


@pytest.mark.slow
def test_the_digits_world(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from benchmarks import digits

    parts = digits.real()
    assert sum(len(p.x) for p in parts.values()) == 1797
    greys = torch.cat([digits.picture(p.x).flatten(1) * 16 for p in parts.values()])
    assert len({tuple(row) for row in greys.int().tolist()}) == 1797  # no digit is in two parts
    made = digits.world(steps=30, folder=tmp_path, say=lambda _: None)
    read = digits.world(steps=30, folder=tmp_path)
    x, t = torch.randn(4, 64), torch.full((4,), 0.5)
    assert torch.equal(made.denoiser(x, t), read.denoiser(x, t))
    for net in (made.steers, made.judge):
        quality = digits.quality(net, parts["unseen"])
        assert quality["accuracy"] > 0.9
        assert quality["calibration_error"] < 0.05
    small = read.bed(3)
    found = list(runs(small, on(small, Importance()), ["3", "8"], 12))
    for f, c in zip(found, (3, 8), strict=True):
        assert torch.allclose(f.totals, read.steers(f.pictures).double()[:, c])
        assert (f.pictures * 16 == (f.pictures * 16).round()).all()
