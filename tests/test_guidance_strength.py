"""How far gradient guidance moves a whole run: where that is known exactly, and the same for every number of steps.

On Gaussian data the run is linear, so a guided run minus the plain run from the same noise is one number without error.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from genscale.algorithms import guided_steps
from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule
from genscale.diffusion.prediction import View
from genscale.protocol.answers import Prediction
from genscale.samplers.gradient_guidance import GradientGuidance
from genscale.toy.analytic import gaussian
from tests.analytic import Euler, run

STEPS = (5, 10, 20, 50, 100)
TILT = GradientGuidance(2, scale=1.0, normalise="none", window=(0.0, 1.0), rest="ode")
"""Guidance towards exp(score): of N(0, 1) with score x the mean of the tilted law is 1."""


def shift(sampler: GradientGuidance, steps: int, start: float = 1.0) -> float:
    """By how much guidance moves the clean latents of N(0, 1) along the score x, in prior standard deviations.

    start: time of the first noise level, 1 for pure noise.
    """
    times = tuple(start * (1 - i / steps) for i in range(steps + 1))
    alpha = torch.tensor([1 - t for t in times], dtype=torch.float64)
    more = {"solver": Euler(times), "view": View(NoiseSchedule(alpha, 1 - alpha), "flow")}
    ends = [
        run(s, steps=steps, dim=1, mixture=gaussian(1), more=more, batch_size=16).searches[0].finals[1].total
        for s in (sampler, replace(sampler, scale=0.0))
    ]
    return ends[0] - ends[1]


def noise_kept(found: Prediction, move: Tensor, level: NoiseLevel) -> Prediction:
    """The broken twin: the clean estimate moves, and the estimate of the noise stays behind."""
    return Prediction(found.x0 + move, found.eps)


@pytest.mark.parametrize("through", ["model", "decoder"])
def test_guidance_towards_a_tilt_has_its_mean_at_any_number_of_steps(through: str) -> None:
    sampler = replace(TILT, through=through)
    assert [shift(sampler, n, start=0.97) for n in STEPS] == pytest.approx([1.0] * len(STEPS), rel=0.05)


@pytest.mark.parametrize("through", ["model", "decoder"])
def test_with_the_noise_kept_the_mean_grows_with_the_steps(
    through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guided_steps, "shifted", noise_kept)
    found = [shift(replace(TILT, through=through), n, start=0.97) for n in STEPS]
    assert found[0] > 1.2
    assert found[-1] > 10
    assert all(b > 1.5 * a for a, b in pairwise(found))


def test_noise_in_the_steps_leaves_the_mean() -> None:
    sampler = replace(TILT, kernel="ddim(1)", rest="ddim(1)")
    assert [shift(sampler, n, start=0.97) for n in (5, 20)] == pytest.approx([1.0, 1.0], rel=0.05)


def test_what_the_step_out_of_pure_noise_leaves_out() -> None:
    """That step is not guided. In angles theta = atan(sigma / alpha) a step d multiplies what was there by cos d and
    adds sin(theta) sin d, which from pure noise on would add up to 1."""
    for steps in STEPS:
        angles = [math.atan2(1 - i / steps, i / steps) for i in range(steps + 1)]
        exact = 0.0
        for a, b in list(pairwise(angles))[1:]:
            exact = math.cos(a - b) * exact + math.sin(a) * math.sin(a - b)
        assert shift(TILT, steps) == pytest.approx(exact, abs=1e-4)


def test_the_default_moves_a_run_as_far_with_many_steps_as_with_few() -> None:
    found = [shift(GradientGuidance(2, rest="ode"), n) for n in (8, 20, 28, 50, 100)]
    scale = GradientGuidance().scale
    # The sum of scale times the angle of each guided step: atan 4 to atan 1/9 for the window .2 to .9.
    assert found == pytest.approx([scale * (math.atan(4) - math.atan(1 / 9))] * 5, rel=0.07)


def test_with_the_noise_kept_the_default_grows_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided_steps, "shifted", noise_kept)
    found = [shift(GradientGuidance(2, rest="ode"), n) for n in (8, 20, 28, 50, 100)]
    assert found[-1] > 8 * found[0]
