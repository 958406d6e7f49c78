"""What a strength of the particle methods is measured in: a number means one tilt, and "previews" one for each window.

On N(0, 1) with the clean latent as the score, the law tilted by exp(strength x / unit) has its mean at strength / unit.
"""

from __future__ import annotations

import math

import pytest
from torch import Tensor

from genscale.algorithms import particle_pass
from genscale.algorithms.particle_filter import ParticleFilter
from genscale.algorithms.tempering import unit_of
from genscale.errors import UsageError
from genscale.toy import analytic

STEPS = 20
WINDOWS = {0.2: (0.2, 0.6), 0.7: (0.7, 0.9)}


def tilt(scale: float | str, start: float) -> float:
    """The mean of the weighted population with strength 0.25, of a window that begins at `start`."""
    spec = ParticleFilter(1000, strength=0.25, scale=scale, window=WINDOWS[start], interval=0.2)
    found = analytic.search(spec, analytic.gaussian(1), analytic.coordinate(0), steps=STEPS, batch_size=1000)
    population = found.population()
    return float((population.weights * population.totals).sum())


def spread_of_previews(start: float) -> float:
    """Exact standard deviation of E[x0 | x] on N(0, 1): alpha / sqrt(alpha^2 + sigma^2), with alpha = start."""
    return start / math.hypot(start, 1 - start)


@pytest.mark.parametrize("start", WINDOWS)
def test_a_number_is_the_same_tilt_in_every_window(start: float) -> None:
    assert tilt(1.0, start) == pytest.approx(0.25, abs=0.1)


def test_previews_are_another_tilt_in_another_window() -> None:
    """The broken twin of a common unit: the same strength is over 2.5 times the tilt from a fifth of the run on."""
    assert tilt("previews", 0.2) > 2.5 * tilt("previews", 0.7)


@pytest.mark.parametrize("start", WINDOWS)
def test_the_unit_of_previews_by_its_law(start: float, monkeypatch: pytest.MonkeyPatch) -> None:
    units = []

    def seen(scores: Tensor, scale: float | str) -> float:
        units.append(unit_of(scores, scale))
        return units[-1]

    monkeypatch.setattr(particle_pass, "unit_of", seen)
    tilt("previews", start)
    assert units[0] == pytest.approx(spread_of_previews(start), rel=0.1)
    assert spread_of_previews(0.7) / spread_of_previews(0.2) == pytest.approx(3.8, abs=0.1)


def test_the_former_name_is_refused_with_the_present_one() -> None:
    with pytest.raises(
        UsageError, match=r"scale=pool must be a number above 0, or previews \(pool was its name\)"
    ):
        ParticleFilter(scale="pool")
