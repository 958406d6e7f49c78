"""Kernels: the law they leave, against exact samples; published numbers; their limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genscale.diffusion.interpolants import LINEAR, VP, named
from genscale.diffusion.kernels import Ddim, Glass, Own, Sde, Transition, parse
from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule
from genscale.diffusion.prediction import View
from genscale.errors import UsageError
from genscale.key import Key
from tests.mixture import Line

BED, N, STEPS = Line(), 8000, 60
# W1 of exact samples of this size to the mixture is below 0.04 (checked below); the rest is the integrators' own error.
FLOOR, BIAS = 0.04, 0.03


def schedule(kind: str) -> NoiseSchedule:
    """Linear times from .985 to 0 in the coordinates that models of this kind come in."""
    times = torch.linspace(0.985, 0.0, STEPS + 1, dtype=torch.float64)
    if kind == "flow":
        return NoiseSchedule(1 - times, times)
    norm = torch.hypot(1 - times, times)
    if kind == "sample":  # k-diffusion coordinates
        return NoiseSchedule(torch.ones_like(times), times / (1 - times))
    return NoiseSchedule((1 - times) / norm, times / norm)


def sampled(kernel: Any, kind: str, seed: int = 0, drift: float = 1.0) -> Tensor:
    """N particles from the exact law of the first level to the clean end, through a model of this kind.

    drift: 0 leaves the kernel's mean to the ODE's, a deliberately broken twin.
    """
    levels = schedule(kind)
    view = View(levels, kind)
    first, key = levels.level(0), Key((seed,))
    x = first.alpha * BED.draw(N, seed) + first.sigma * key.fold("start").normal((N, 1)).double()
    for i in range(STEPS):
        start, stop = levels.level(i), levels.level(i + 1)
        noise = key.fold("step", i).normal((N, 1)).double()

        def predicted(x: Tensor, level: NoiseLevel, row: int = i) -> Tensor:
            x0, eps = BED.pair(x, level)
            from genscale.diffusion.prediction import convert

            output = convert(kind, x0, eps, level.alpha, level.sigma)
            return torch.stack(view.pair(level, output, x))

        if isinstance(kernel, Glass):
            bar = kernel.begin(x, noise, start, stop)
            for j in range(kernel.inner):
                clean, kappa = kernel.observation(j, x, bar, start, stop)
                level = start if j == 0 else levels.between(kappa / (1 + kappa))
                x0 = predicted(clean * level.alpha, level)[0]
                bar = kernel.advance(j, x, bar, x0, start, stop)
            x = bar
            continue
        x0, eps = predicted(x, start)
        step = kernel.transition(x, x0, eps, start, stop)
        if not drift:
            step = Transition(Ddim(0.0).transition(x, x0, eps, start, stop).mean, step.std)
        x = step.sample(noise)
    return x


def distance(x: Tensor) -> float:
    return BED.distance(x)


def test_the_noise_floor_is_as_stated() -> None:
    distances = [distance(BED.draw(N, i)) for i in range(20)]
    assert 0.3 * FLOOR < max(distances) < FLOOR


KERNELS = [
    *("ode", "ddim(0.5)", "ddim(1)", "sde(0.5)", "sde(1)", "sde(rbf)", "sde(flow_grpo)", "sde(fading)"),
    *("sde(1, vp)", "sde(0.5, cosine)", "sde(0.5, polynomial:2)", "sde(0.7, ve)", "sde(rbf, vp)", "glass(4)"),
]
CASES = [(k, "flow") for k in KERNELS] + [
    (k, kind)
    for k in ("ode", "ddim(0.5)", "sde(1)", "sde(0.5, vp)", "glass(3)")
    for kind in ("epsilon", "v_prediction", "sample")
]


@pytest.mark.parametrize(("kernel", "kind"), CASES)
def test_every_kernel_leaves_the_exact_law(kernel: str, kind: str) -> None:
    """ODE, SDE, DDIM(eta), GLASS and every interpolant, for every kind of prediction."""
    assert distance(sampled(parse(kernel), kind)) < FLOOR + BIAS


@pytest.mark.parametrize("kernel", ["ddim(1)", "sde(1)", "sde(rbf)", "sde(1, vp)"])
def test_the_check_sees_noise_without_its_drift(kernel: str) -> None:
    assert distance(sampled(parse(kernel), "flow", drift=0.0)) > FLOOR + BIAS


def test_the_check_sees_a_wrong_clean_estimate() -> None:
    assert distance(1.1 * sampled(parse("ode"), "flow")) > FLOOR + BIAS


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("churn", "path", "wanted"),
    [
        ("rbf", LINEAR, {0.1: 0.004, 0.3: 0.085, 0.5: 0.281, 0.7: 0.463, 0.9: 0.328, 0.97: 0.123}),
        ("flow_grpo", LINEAR, {0.1: 0.245, 0.9: 0.245}),
        ("fading", LINEAR, {0.1: 0.9, 0.5: 0.5, 0.97: 0.03}),
        ("rbf", VP, {0.71: 0.04, 0.86: 0.10, 0.96: 0.23, 0.993: 0.44}),
    ],
)
def test_published_schedules_as_squared_churn(churn: str, path: Any, wanted: dict[float, float]) -> None:
    """Research note 1.3, at linear times."""
    for time, value in wanted.items():
        t = path.time(LINEAR.kappa(time))
        assert Sde(churn).squared_churn(path, t) == pytest.approx(value, abs=0.012)


@pytest.mark.parametrize("time", [0.2, 0.5, 0.8])
def test_churn_is_eta_and_does_not_know_the_interpolant(time: float) -> None:
    """To first order in the step; the std of a step in linear coordinates."""
    start, stop = NoiseLevel(1 - time, time), NoiseLevel(1 - time + 1e-5, time - 1e-5)
    x = torch.ones(1, 1, dtype=torch.float64)
    stds = [Ddim(0.7).transition(x, x, x, start, stop).std]
    for name in ("linear", "vp", "cosine", "ve", "polynomial:3"):
        stds.append(Sde(0.7, name).transition(x, x, x, start, stop).std)
    assert stds == pytest.approx([stds[0]] * len(stds), rel=1e-3)


def test_eta_1_is_the_exact_posterior_of_the_forward_process() -> None:
    """For one Gaussian the reverse transition is known: its mean and std are those of ddim(1) given the exact x0."""
    start, stop = NoiseLevel(0.4, 0.6), NoiseLevel(0.55, 0.45)
    x0, x = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[0.3]], dtype=torch.float64)
    eps = (x - start.alpha * x0) / start.sigma
    step = Ddim(1.0).transition(x, x0, eps, start, stop)
    scale = start.alpha / stop.alpha
    added = start.sigma**2 - scale**2 * stop.sigma**2
    precision = scale**2 / added + 1 / stop.sigma**2
    mean = (scale * x / added + stop.alpha * x0 / stop.sigma**2) / precision
    assert torch.allclose(step.mean, mean, atol=1e-12)
    assert step.std == pytest.approx(precision**-0.5, rel=1e-12)


@pytest.mark.parametrize("rho", [0.4, None, -0.3])
def test_glass_samples_the_exact_transition(rho: float | None) -> None:
    """Mean and variance of x' given x, for the mixture: gbar x + abar x0 + sbar z with x0 from its posterior."""
    kernel, start, stop = Glass(200, rho), NoiseLevel(0.35, 0.65), NoiseLevel(0.6, 0.4)
    n = 5000
    x = torch.full((n, 1), 0.2, dtype=torch.float64)
    bar = kernel.begin(x, Key((5,)).normal((n, 1)).double(), start, stop)
    for j in range(kernel.inner):
        clean, kappa = kernel.observation(j, x, bar, start, stop)
        level = NoiseLevel(1 / (1 + kappa), kappa / (1 + kappa))
        bar = kernel.advance(j, x, bar, BED.clean(clean * level.alpha, level), start, stop)
    gbar, abar, sbar = kernel._path(start, stop)
    weight, mean, var = BED.posterior(x[:1], start)
    first = float((weight * mean).sum())
    second = float((weight * (mean**2 + var)).sum())
    exact_mean = gbar * 0.2 + abar * first
    exact_var = abar**2 * (second - first**2) + sbar**2
    assert float(bar.mean()) == pytest.approx(exact_mean, abs=4 * math.sqrt(exact_var / n) + 0.002)
    assert float(bar.var()) == pytest.approx(exact_var, rel=0.08)


def test_glass_with_one_inner_call_is_ddim() -> None:
    start, stop = NoiseLevel(0.4, 0.6), NoiseLevel(0.6, 0.4)
    x, noise = (torch.tensor([[v]], dtype=torch.float64) for v in (0.3, -1.2))
    x0, eps = BED.pair(x, start)
    kernel = Glass(1, 0.4)
    bar = kernel.advance(0, x, kernel.begin(x, noise, start, stop), x0, start, stop)
    step = kernel.transition(x, x0, eps, start, stop)
    assert step.std == pytest.approx(stop.sigma * math.sqrt(1 - 0.16))
    assert torch.allclose(bar, step.sample(noise), atol=1e-12)
    same = Glass(1).transition(x, x0, eps, start, stop)
    assert same.std == pytest.approx(Ddim(1.0).transition(x, x0, eps, start, stop).std)


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    "text", ["ode", "ddim(1)", "ddim(3)", "sde(1)", "sde(rbf)", "sde(1, vp)", "glass(4)"]
)
def test_pure_noise_and_the_clean_end_are_deterministic(text: str) -> None:
    kernel = parse(text)
    x, x0 = (torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    noise, end = NoiseLevel(0.0, 1.0), NoiseLevel(1.0, 0.0)
    first = kernel.transition(x, x0, x, noise, NoiseLevel(0.1, 0.9))
    assert first.std == 0
    assert torch.allclose(first.mean, 0.1 * x0 + 0.9 * x, atol=1e-6)
    last = kernel.transition(x, x0, x, NoiseLevel(0.9, 0.1), end)
    assert last.std == 0
    assert torch.equal(last.mean, x0)
    assert kernel.calls(noise) == 1


@pytest.mark.parametrize("text", ["sde(ancestral)", "sde(0.7)", "sde(ancestral, vp)", "sde(rbf)", "ddim(1)"])
@pytest.mark.parametrize(("start", "stop"), [(0.98, 0.9), (0.9, 0.8)])
def test_one_coarse_step_keeps_the_spread(text: str, start: float, stop: float) -> None:
    """Of standard normal data, for which the exact spread is known: noise that is cut takes its drift with it."""
    a, b = NoiseLevel(1 - start, start), NoiseLevel(1 - stop, stop)
    var = a.alpha**2 + a.sigma**2
    x = torch.ones(1, 1, dtype=torch.float64) * math.sqrt(var)
    x0 = a.alpha / var * x
    step = parse(text).transition(x, x0, (x - a.alpha * x0) / a.sigma, a, b)
    spread = math.hypot(float(step.mean), step.std)
    assert spread == pytest.approx(math.hypot(b.alpha, b.sigma), rel=0.16)


def test_eta_is_cut_at_full_renoising() -> None:
    x = torch.ones(2, 3)
    step = Ddim(50.0).transition(x, x, x, NoiseLevel(0.4, 0.6), NoiseLevel(0.6, 0.4))
    assert step.std == 0.4
    assert torch.allclose(step.mean, 0.6 * x)


def test_ode_is_euler_on_rectified_flow() -> None:
    x, x0 = torch.randn(2, 3), torch.randn(2, 3)
    eps = (x - 0.4 * x0) / 0.6
    step = parse("ode").transition(x, x0, eps, NoiseLevel(0.4, 0.6), NoiseLevel(0.5, 0.5))
    assert torch.allclose(step.mean, x - 0.1 * (eps - x0), atol=1e-6)


def test_log_prob_is_the_density() -> None:
    mean, x = torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    wanted = torch.distributions.Normal(mean.double(), 0.7).log_prob(x.double()).flatten(1).sum(1)
    assert torch.allclose(Transition(mean, 0.7).log_prob(x), wanted, atol=1e-10)
    point = Transition(mean, 0.0)
    assert point.log_prob(mean).tolist() == [0.0] * 5
    assert point.log_prob(x).tolist() == [-math.inf] * 5
    assert torch.equal(point.sample(x), mean)


@pytest.mark.parametrize(
    ("text", "kernel"),
    [
        ("own", Own()),
        ("ode", Ddim(0.0)),
        ("ddim", Ddim(0.5)),
        ("DDIM( eta=0.25 )", Ddim(0.25)),
        ("sde", Sde("rbf", "linear")),
        ("sde(rbf, vp)", Sde("rbf", "vp")),
        ("sde(churn=0.5,interpolant=cosine)", Sde(0.5, "cosine")),
        ("glass(6, 0.4)", Glass(6, 0.4)),
        ("glass(inner=2, rho=none)", Glass(2, None)),
    ],
)
def test_kernels_are_read(text: str, kernel: Any) -> None:
    assert parse(text) == kernel
    assert parse(kernel) == kernel


@pytest.mark.parametrize(
    "text",
    ["euler", "ddim(", "ddim(x)", "ddim(-1)", "ddim(nan)", "ddim(1, 2)", "ddim(eta=1, eta=2)", "sde(loud)",
     "sde(1, xy)", "glass(0)", "glass(2, 1.0)", "glass(2.5, 0.1)", ""],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_named_orders() -> None:
    assert named("polynomial:3").level(0.5) == (1 - 0.125, 0.125)
