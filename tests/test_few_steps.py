"""What kernels make of a Gaussian in few steps, exactly: mean and covariance follow in closed form, nothing is drawn.

The model knows N(m, diag(s^2)); every kernel is linear in the latents then, so the law of the discretised chain is a
Gaussian on each coordinate, and its W2 distance to the model's is a sum. From pure noise on linear times, flow levels
or levels of a variance-preserving model.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genscale.diffusion.kernels import Ddim, Kernel, Sde, Transition, parse
from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule
from genscale.key import Key

MEAN = torch.tensor([0.5, -0.3, 0.2, 0.0], dtype=torch.float64)
STD = torch.tensor([1.0, 0.5, 0.25, 0.1], dtype=torch.float64)
KERNELS = ("sde(1)", "sde(rbf)", "sde(flow_grpo)", "ode", "ddim(0.5)", "ddim(1)")  # from best to worst
# W2 at 8, 20 and 50 calls on flow levels: the table of genscale/diffusion/kernels.py and docs/particles.md.
TABLE = {
    "ode": (0.188, 0.079, 0.032),
    "ddim(0.5)": (0.204, 0.091, 0.039),
    "ddim(1)": (0.284, 0.139, 0.063),
    "sde(flow_grpo)": (0.078, 0.024, 0.006),
    "sde(rbf)": (0.051, 0.022, 0.010),
    "sde(1)": (0.039, 0.004, 0.001),
}


def levels(steps: int, kind: str = "flow") -> NoiseSchedule:
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    if kind == "flow":
        return NoiseSchedule(1 - times, times)
    alpha = torch.cos(times * 0.999 * math.pi / 2)
    return NoiseSchedule(alpha, (1 - alpha**2).sqrt())


def estimates(x: Tensor, at: NoiseLevel) -> tuple[Tensor, Tensor]:
    """E[x0 | x] and the noise that goes with it."""
    variance = (at.alpha * STD) ** 2 + at.sigma**2
    x0 = MEAN + at.alpha * STD**2 / variance * (x - at.alpha * MEAN)
    return x0, (x - at.alpha * x0) / at.sigma


def step(kernel: Kernel, x: Tensor, at: NoiseLevel, to: NoiseLevel) -> Transition:
    return kernel.transition(x, *estimates(x, at), at, to)


def law(kernel: Any, steps: int, kind: str = "flow") -> tuple[Tensor, Tensor]:
    """Mean and variance [4] of the finished latents."""
    grid = levels(steps, kind)
    mean, var = torch.zeros_like(MEAN), torch.full_like(STD, grid.level(0).sigma ** 2)
    ends = torch.stack([torch.zeros_like(MEAN), torch.ones_like(MEAN)])
    for i in range(steps):
        made = step(kernel, ends, grid.level(i), grid.level(i + 1))
        slope = made.mean[1] - made.mean[0]
        mean, var = made.mean[0] + slope * mean, slope**2 * var + made.std**2
    return mean, var


def distance(kernel: Any, steps: int, kind: str = "flow") -> float:
    """W2 of the finished latents to N(MEAN, diag(STD^2))."""
    mean, var = law(kernel, steps, kind)
    return float(((mean - MEAN) ** 2 + (var.sqrt() - STD) ** 2).sum().sqrt())


@pytest.mark.parametrize("kind", ["flow", "vp"])
@pytest.mark.parametrize("steps", [8, 20])
def test_sde_1_is_the_best_of_them_and_ddim_1_the_worst(steps: int, kind: str) -> None:
    found = {k: distance(parse(k), steps, kind) for k in KERNELS}
    assert min(found, key=found.__getitem__) == "sde(1)"
    assert max(found, key=found.__getitem__) == "ddim(1)"
    assert found["ode"] < found["ddim(0.5)"]
    assert max(found["sde(rbf)"], found["sde(flow_grpo)"]) < found["ode"] / 2


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_the_docstring(name: str) -> None:
    assert [distance(parse(name), n) for n in (8, 20, 50)] == pytest.approx(TABLE[name], abs=6e-4)


def test_ddim_1_loses_variance_that_sde_1_keeps() -> None:
    """At 8 calls, as shares of the model's variance."""
    lost, kept = (law(parse(k), 8)[1] / STD**2 for k in ("ddim(1)", "sde(1)"))
    assert 0.25 < float(lost.min()) < float(lost.max()) < 0.6
    assert 0.5 < float(kept.min()) < float(kept.max()) < 1


@pytest.mark.parametrize("name", KERNELS)
def test_in_many_steps_all_lead_to_the_same_law(name: str) -> None:
    assert distance(parse(name), 1600) < 0.003


def test_ddim_keeps_the_marginal_of_true_estimates_only() -> None:
    """With the true (x0, eps) of each latent, whose joint law has both variances, every eta keeps the next marginal.

    With E[x0 | x] in place of x0 the clean part has less variance, and eta = 1 draws anew what made up for it.
    """
    at, to = NoiseLevel(0.4, 0.6), NoiseLevel(0.525, 0.475)
    wanted = (to.alpha * STD) ** 2 + to.sigma**2
    for eta in (0.0, 0.5, 1.0):
        made = Ddim(eta).transition(MEAN, MEAN, MEAN, at, to)
        weight = math.sqrt(to.sigma**2 - made.std**2)  # of eps, that of x0 being alpha'
        assert torch.allclose((to.alpha * STD) ** 2 + weight**2 + made.std**2, wanted)
    before = (at.alpha * STD) ** 2 + at.sigma**2
    ends = torch.stack([torch.zeros_like(MEAN), torch.ones_like(MEAN)])
    shares = []
    for eta in (0.0, 0.5, 1.0):
        made = step(Ddim(eta), ends, at, to)
        after = (made.mean[1] - made.mean[0]) ** 2 * before + made.std**2
        shares.append(float((after / wanted).min()))
    assert 1 > shares[0] > shares[1] > shares[2]


def test_the_closed_form_is_that_of_many_draws() -> None:
    """... and a chain whose noise lacks its drift, the broken twin, has another."""
    kernel, n = Sde(1.0), 40_000
    grid, key = levels(8), Key((3,))
    x = twin = key.fold("start").normal((n, 4)).double()
    for i in range(8):
        noise = key.fold("step", i).normal((n, 4)).double()
        at, to = grid.level(i), grid.level(i + 1)
        x = step(kernel, x, at, to).sample(noise)
        twin = Transition(step(Ddim(0.0), twin, at, to).mean, step(kernel, twin, at, to).std).sample(noise)
    mean, var = law(kernel, 8)
    floor = 4 * (2 / n) ** 0.5
    assert float((x.var(0) / var - 1).abs().max()) < floor
    assert float((x.mean(0) - mean).abs().max()) < floor
    assert float((twin.var(0) / var - 1).abs().max()) > 10 * floor
