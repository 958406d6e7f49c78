"""Means over prompts with 95 % confidence intervals: Wilson's for proportions, else the bootstrap (Student's t for
fewer than FEW values)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
FEW = 5  # with fewer values the bootstrap is unreliable, and Student's t is used
RESAMPLES = 4999
SEED = 0  # of the bootstrap, so that equal values always give the same interval
_ROUNDING = 1e-12  # a range of values below this fraction of the largest magnitude is round-off


@dataclass(frozen=True)
class Mean:
    """A mean and its 95 % interval.

    mean: None if there are no values. low, high: bounds of the interval; None for a single value, and for values that
    are all equal unless they are a proportion. n: number of values.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> Mean:
        """The mean of independent values. If all are 0 or 1, they are a proportion, with Wilson's interval."""
        n = len(values)
        if n < 2 or not is_binary(values):
            return Mean.of_numbers(values)
        mean = float(np.mean(values))
        found = stats.binomtest(round(math.fsum(values)), n).proportion_ci(LEVEL, method="wilson")
        return Mean(mean, min(float(found.low), mean), max(float(found.high), mean), n)

    @staticmethod
    def of_numbers(values: Sequence[float]) -> Mean:
        """The mean of independent values that are not treated as a proportion, even if all of them are 0 or 1."""
        n = len(values)
        if n == 0:
            return Mean(None, None, None, 0)
        mean = float(np.mean(values))
        if n == 1 or float(np.ptp(values)) <= _ROUNDING * float(np.abs(values).max()):
            return Mean(mean, None, None, n)
        if n >= FEW:
            return Mean(mean, *bootstrap(values), n)
        half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
        return Mean(mean, mean - half, mean + half, n)

    @staticmethod
    def of_gains(values: Sequence[float], first: Sequence[float]) -> Mean:
        """The mean of the paired differences values - first. If all of both are 0 or 1, the interval is that of paired
        proportions, within [-1, 1]."""
        gains = [v - w for v, w in zip(values, first, strict=True)]
        if len(gains) < 2 or not is_binary([*values, *first]):
            return Mean.of_numbers(gains)
        return Mean(float(np.mean(gains)), *_paired_proportions(gains), len(gains))

    def text(self, signed: bool = False) -> str:
        """The mean and interval as text: "+0.0123 ± 0.0045" or "0.50 (0.15 to 0.85)"; "" if there are no values.

        The number of digits follows from the width of the interval. The form with ± is used if both half-widths round
        to the same digits. signed: write a plus sign before a positive mean.
        """
        if self.mean is None:
            return ""
        if self.low is None or self.high is None:
            return f"{self.mean:{'+' if signed else ''}.3f}"
        half = (self.high - self.low) / 2
        digits = min(5, max(2, 1 - math.floor(math.log10(half)))) if half > 0 else 3
        form = f"{'+' if signed else ''}.{digits}f"
        below, above = (f"{side:.{digits}f}" for side in (self.mean - self.low, self.high - self.mean))
        if below == above:
            return f"{self.mean:{form}} ± {above}"
        return f"{self.mean:{form}} ({self.low:{form}} to {self.high:{form}})"


def is_binary(values: Sequence[float]) -> bool:
    """Whether all values are 0 or 1, such as the scores of a yes/no verifier."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval (low, high) of the mean: expanded percentile bootstrap (Hesterberg 2015, arXiv 1411.5279, section
    5.3).

    The plain percentile interval is too narrow by a factor of sqrt((n - 1) / n), and by the ratio of the normal
    quantile to the Student's t quantile. More extreme percentiles are used to correct for both.
    """
    n = len(values)
    out = math.sqrt(n / (n - 1)) * float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    found = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),), np.mean, confidence_level=1 - 2 * float(stats.norm.sf(out)),
        n_resamples=RESAMPLES, method="percentile", random_state=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def _paired_proportions(gains: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval (low, high) of the mean of differences -1, 0 and 1: Wald's interval after adding half a pair to
    each of the four cells (Agresti & Min 2005, "Simple improved confidence intervals for comparing matched
    proportions"), so that its width is never 0."""
    n = len(gains) + 2
    up, down = (sum(g == sign for g in gains) + 0.5 for sign in (1, -1))
    centre = (up - down) / n
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt(up + down - n * centre**2) / n
    mean = float(np.mean(gains))
    return max(-1.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))
