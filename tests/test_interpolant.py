"""Interpolants: every prediction against a mixture whose score is known exactly, and RBF's numbers."""

from __future__ import annotations

import math

import pytest
import torch

from genscale.diffusion.interpolants import LINEAR, VP, Interpolant, named, rbf_times
from genscale.diffusion.noise_schedule import NoiseLevel
from genscale.diffusion.prediction import clean_and_noise, convert
from tests.mixture import Line

NAMES = ("linear", "vp", "cosine", "ve", "polynomial:2")
TIMES = (0.06, 0.2, 0.5, 0.8, 0.97)
BED = Line()


def points() -> torch.Tensor:
    return torch.linspace(-3, 3, 41, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("name", NAMES)
def test_all_predictions_agree(name: str, t: float) -> None:
    """x0, eps, u, v and score of the exact mixture, each turned into the pair and back, to 1e-10."""
    path = named(name)
    alpha, sigma = path.level(t)
    level = NoiseLevel(alpha, sigma)
    x = points() * math.hypot(alpha, sigma)
    x0, eps = BED.pair(x, level)

    x.requires_grad_()
    (score,) = torch.autograd.grad(BED.log_density(x, level).sum(), x)
    x = x.detach()
    close = {"rtol": 1e-10, "atol": 1e-10}
    assert torch.allclose(path.score(t, eps), score, **close)
    u = path.velocity(t, x0, eps)
    d_alpha, d_sigma = path.rates(t)
    d = alpha * d_sigma - d_alpha * sigma
    assert torch.allclose(u, d_alpha / alpha * x - sigma * d / alpha * score, rtol=1e-10, atol=1e-9)
    for pair in (path.from_velocity(t, x, u), path.from_score(t, x, score)):
        assert torch.allclose(pair[0], x0, **close)
        assert torch.allclose(pair[1], eps, **close)
    for kind in ("epsilon", "sample", "v_prediction", "flow"):
        pair = clean_and_noise(kind, convert(kind, x0, eps, alpha, sigma), x, alpha, sigma)
        assert torch.allclose(pair[0], x0, **close)
        assert torch.allclose(pair[1], eps, **close)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("name", NAMES)
def test_another_interpolant_sees_the_same_clean_estimate(name: str, t: float) -> None:
    """x0 is a function of x / alpha and kappa only: a linear model runs along any path."""
    path = named(name)
    alpha, sigma = path.level(t)
    r = LINEAR.time(sigma / alpha)
    assert LINEAR.kappa(r) == pytest.approx(path.kappa(t), rel=1e-12)
    x = points() * math.hypot(alpha, sigma)
    there = BED.clean(x * (1 - r) / alpha, NoiseLevel(1 - r, r))
    assert torch.allclose(there, BED.clean(x, NoiseLevel(alpha, sigma)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_times_levels_and_rates_fit(name: str) -> None:
    path, h = named(name), 1e-5
    for t in TIMES:
        assert path.time(path.kappa(t)) == pytest.approx(t, rel=1e-9)
        for rate, low, high in zip(path.rates(t), path.level(t - h), path.level(t + h), strict=True):
            assert rate == pytest.approx((high - low) / (2 * h), rel=1e-6, abs=1e-8)
        assert path.wronskian(t) > 0


def test_ends() -> None:
    assert LINEAR.time(math.inf) == 1
    assert named("cosine").time(math.inf) == pytest.approx(1)
    assert VP.level(1e-9)[1] == pytest.approx(math.sqrt(0.1e-9), rel=1e-6)  # 1 - exp would be 0


def test_rbf_grid_in_linear_time() -> None:
    """The numbers of research note 3.1."""
    wanted = [0.9935, 0.9931, 0.9920, 0.9898, 0.9856, 0.9776, 0.9617, 0.9289, 0.8591, 0.7087]
    assert rbf_times(10).tolist() == pytest.approx(wanted, abs=6e-5)
    shrunk = rbf_times(10, start=14.6)  # Stable Diffusion 1.5 begins at time .936
    assert float(shrunk[0]) == pytest.approx(14.6 / 15.6)
    assert (shrunk.diff() < 0).all()


@pytest.mark.parametrize("wrong", ["quadratic", "polynomial:0", "vp:x"])
def test_unknown_interpolants(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"interpolant|could not convert"):
        named(wrong)
    with pytest.raises(ValueError, match="beta"):
        Interpolant("vp", beta_min=0)
