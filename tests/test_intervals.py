"""Intervals of means: inside the range of a proportion, covering what they should, and never empty."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
import pytest
from scipy import stats

from genscale.numerics import intervals
from genscale.numerics.intervals import Mean
from genscale.numerics.rank_correlation import agreement
from genscale.report import score_curves
from genscale.report.score_curves import Curve, CurvePanel
from genscale.results.comparison import ScoreSummary

matplotlib.use("Agg")


def wilson(successes: int, n: int) -> tuple[float, float]:
    """By the textbook formula."""
    z, p = 1.959963984540054, successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return centre - half, centre + half


# ---------------------------------------------------------------- proportions


@pytest.mark.parametrize(("successes", "n"), [(1, 2), (2, 4), (7, 10), (0, 5), (5, 5), (49, 50)])
def test_a_proportion_has_wilson_s_interval(successes: int, n: int) -> None:
    found = Mean.of([1.0] * successes + [0.0] * (n - successes))
    assert found.low is not None
    assert found.high is not None
    assert (found.low, found.high) == pytest.approx(wilson(successes, n), abs=1e-12)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.high - found.low > 0.01  # also where all are the same


def test_a_known_value() -> None:
    """Half of 4: 0.1500 to 0.8500."""
    found = Mean.of([0, 1, 1, 0])
    assert (found.low, found.high) == pytest.approx((0.15003898915214947, 0.8499610108478506))
    assert found.text() == "0.50 ± 0.35"
    assert Mean.of([1.0] * 4).text() == "1.00 (0.51 to 1.00)"


def test_gains_of_a_proportion_are_within_one() -> None:
    for values, first in (
        ([1, 1, 1], [0, 0, 0]),
        ([1, 1, 0, 1], [0, 1, 0, 0]),
        ([0] * 6, [1] * 6),
        ([1, 0], [1, 0]),
    ):
        gain = ScoreSummary.of(values, first).gain
        assert gain is not None
        assert gain.low is not None
        assert gain.high is not None
        assert -1 <= gain.low <= gain.mean <= gain.high <= 1
        assert gain.high - gain.low > 0.1


def test_gains_of_a_proportion_cover() -> None:
    """Paired yes-or-no answers, of which a fifth change for the better and a tenth for the worse."""
    draws = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        kinds = draws.choice([1, -1, 0], size=12, p=[0.2, 0.1, 0.7])
        first = [0.0 if k == 1 else 1.0 for k in kinds]
        gain = Mean.of_gains([w + k for w, k in zip(first, kinds, strict=True)], first)
        assert gain.low is not None
        assert gain.high is not None
        covered += gain.low <= 0.1 <= gain.high
    assert covered >= 0.92 * 400


def test_gains_that_are_0_are_no_proportion() -> None:
    gain = Mean.of_gains([0.3, 0.4, 0.5], [0.3, 0.4, 0.5])
    assert (gain.mean, gain.low, gain.high) == (0.0, None, None)


# ---------------------------------------------------------------- other scores


def coverage(interval: Any, n: int = 6, runs: int = 400) -> float:
    draws = np.random.default_rng(5)
    found = [interval(draws.normal(size=n).tolist()) for _ in range(runs)]
    return sum(low <= 0 <= high for low, high in found) / runs


def test_the_bootstrap_covers() -> None:
    assert coverage(intervals.bootstrap) >= 0.91


def test_the_check_of_the_coverage_sees_an_interval_that_is_too_narrow() -> None:
    def percentiles(values: list[float]) -> tuple[float, float]:
        found = stats.bootstrap(
            (values,), np.mean, method="percentile", n_resamples=999, random_state=np.random.default_rng(0)
        )
        return found.confidence_interval.low, found.confidence_interval.high

    assert coverage(percentiles) < 0.9


def test_it_is_the_same_every_time_and_follows_the_skew() -> None:
    values = [0.1, 0.2, 0.15, 0.12, 0.18, 0.11, 2.0]
    found = Mean.of(values)
    assert found == Mean.of(values)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.mean > 1.5 * (found.mean - found.low)
    assert " to " in found.text()
    assert found.low >= min(values)
    assert found.high <= max(values)


@pytest.mark.parametrize("values", [[0.7] * 6, [0.1 + 0.2, 0.3, 0.3, 0.3, 0.3], [3.0, 3.0], [-2.5] * 9])
def test_values_that_are_all_the_same_have_no_interval(values: list[float]) -> None:
    found = Mean.of(values)
    assert (found.low, found.high) == (None, None)
    assert found.text() == f"{values[0]:.3f}"


def test_signs() -> None:
    assert Mean.of_gains([0.2, 0.1, 0.9, 0.2, 0.3, 0.4], [0.1] * 6).text(signed=True).startswith("+0.2")
    assert Mean(0.01, -0.02, 0.06, 9).text(signed=True) == "+0.010 (-0.020 to +0.060)"
    assert Mean(0.5, 0.25, 0.75, 9).text() == "0.50 ± 0.25"


def test_correlations_are_no_proportion() -> None:
    """Two prompts that are ranked alike would be "2 of 2"."""
    ranks = np.arange(8.0)[None].repeat(2, 0)
    found = agreement(ranks, ranks)
    assert (found.rho, found.low, found.high) == (1.0, None, None)


# ---------------------------------------------------------------- plots


def error_bars(axes: Any) -> list[float]:
    return [
        float(y)
        for container in axes.containers
        for bars in container.lines[2]
        for segment in bars.get_segments()
        for _, y in segment
    ]


def test_plots_of_proportions_stay_within_0_and_1() -> None:
    yes_or_no = Curve("a", [[(4, 0.0), (8, 1.0)], [(4, 0.0)], [(4, 0.0), (12, 1.0)], [(4, 1.0)]])
    (axes,) = score_curves.figure([CurvePanel("judge", [yes_or_no], ("base", 0.0))], "t").axes
    ends = error_bars(axes)
    assert ends
    assert min(ends) >= 0
    assert max(ends) <= 1
    low, high = axes.get_ylim()
    assert low >= 0
    assert high <= 1


def test_other_plots_are_not_cut() -> None:
    scores = Curve("a", [[(4, 0.2), (8, 1.7)], [(4, -0.4)], [(4, 0.1)]])
    (axes,) = score_curves.figure([CurvePanel("judge", [scores])], "t").axes
    low, high = axes.get_ylim()
    assert low <= min(error_bars(axes)) < 0
    assert high >= max(error_bars(axes)) > 1
