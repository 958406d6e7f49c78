"""Means over prompts with 95 % intervals: Wilson's for proportions, the bootstrap for everything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
FEW = 5  # below that many values a bootstrap sees too little, and Student's t is used
RESAMPLES = 4999
SEED = 0  # of the bootstrap, so that the same values have the same interval
_ROUNDING = 1e-12  # spread below this share of the values' size is round-off


@dataclass(frozen=True)
class Mean:
    """A mean and its 95 % interval.

    mean: None of no values. low, high: None where there is none to tell, of one value or of values that are all the
    same (proportions have one). n: how many values.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> Mean:
        """Of independent values. Where all are 0 or 1 they are a proportion, with Wilson's interval."""
        n = len(values)
        if n < 2 or not is_binary(values):
            return Mean.of_numbers(values)
        mean = float(np.mean(values))
        found = stats.binomtest(round(math.fsum(values)), n).proportion_ci(LEVEL, method="wilson")
        return Mean(mean, min(float(found.low), mean), max(float(found.high), mean), n)

    @staticmethod
    def of_numbers(values: Sequence[float]) -> Mean:
        """Of independent values that are no proportion, even where they happen to be 0 or 1."""
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
        """Of the paired differences of values to the first ones. Of a 0/1 score they are within [-1, 1]."""
        gains = [v - w for v, w in zip(values, first, strict=True)]
        if len(gains) < 2 or not is_binary([*values, *first]):
            return Mean.of_numbers(gains)
        return Mean(float(np.mean(gains)), *_paired_proportions(gains), len(gains))

    def text(self, signed: bool = False) -> str:
        """As in "+0.0123 ± 0.0045", or "0.50 (0.15 to 0.85)", with the digits that the interval leaves meaning to.

        ± stands where both sides of the interval are the same to these digits.
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
    """Whether all values are 0 or 1, as those of a judge that says yes or no."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean: the expanded percentile bootstrap (Hesterberg 2015, arXiv 1411.5279, section 5.3).

    Percentiles of resampled means are too narrow by sqrt((n - 1) / n) and by what Student's t has over the normal
    distribution; they are taken further out to make up for both.
    """
    n = len(values)
    out = math.sqrt(n / (n - 1)) * float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    found = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),), np.mean, confidence_level=1 - 2 * float(stats.norm.sf(out)),
        n_resamples=RESAMPLES, method="percentile", random_state=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def _paired_proportions(gains: Sequence[float]) -> tuple[float, float]:
    """Of differences -1, 0 and 1: Wald's interval with half a pair more in each of the four cells (Agresti & Min
    2005, "Simple improved confidence intervals for comparing matched proportions"), so that it is never empty."""
    n = len(gains) + 2
    up, down = (sum(g == sign for g in gains) + 0.5 for sign in (1, -1))
    centre = (up - down) / n
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt(up + down - n * centre**2) / n
    mean = float(np.mean(gains))
    return max(-1.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))
