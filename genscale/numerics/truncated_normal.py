"""A normal distribution truncated to a range: fitted to a few scores, to predict the gain of more of them.

After OptScale (2025, arXiv 2506.22376, section 3), which fits one to the first scores of a prompt. The density on
[low, high] is proportional to exp(slope u - precision u^2 / 2), u = x - anchor: the natural parameters, since in them
the likelihood is concave, and its maximum may be at precision 0, where the distribution is exponential or flat, which
centre and width reach only at infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)
_REACH = 40.0  # densities this many nats below the peak are negligible in double precision


@dataclass(frozen=True)
class Truncated:
    """A truncated normal law. precision 0: exponential or flat on the range; infinite: all mass at the anchor."""

    anchor: float
    slope: float
    precision: float
    low: float = -math.inf
    high: float = math.inf

    @staticmethod
    def of(centre: float, width: float, low: float = -math.inf, high: float = math.inf) -> Truncated:
        """The law of a normal variable with this mean and standard deviation, given that it is in the range."""
        return Truncated(centre, 0.0, 1 / width**2, low, high)

    @staticmethod
    def fit(values: Sequence[float], low: float = -math.inf, high: float = math.inf) -> Truncated:
        """Maximum likelihood: the law of the values' own mean and variance. Values outside the range widen it.

        Where the values are spread more widely than any normal law on the range is, the best is an exponential
        one (precision 0).
        """
        mean = math.fsum(values) / len(values)
        variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
        low, high = min(low, *values), max(high, *values)
        if variance <= (1e-12 * max(map(abs, values), default=0.0)) ** 2:  # all the same, but for rounding
            return Truncated(mean, 0.0, math.inf, low, high)
        if math.isinf(low) and math.isinf(high):
            return Truncated(mean, 0.0, 1 / variance, low, high)

        def law(precision: float) -> Truncated:
            return Truncated(mean, _slope(mean, precision, low, high), precision, low, high)

        # With the mean held, the variance falls as the precision grows; a truncated law's is at most 1 / precision.
        for end in (law(0.0), law(1 / variance)):
            if (end.variance <= variance) == (end.precision == 0):  # flatter than any, or hardly truncated
                return end
        from scipy.optimize import brentq

        return law(brentq(lambda q: law(q).variance / variance - 1, 0.0, 1 / variance, xtol=1e-10 / variance))

    # ---------------------------------------------------------------- moments

    @property
    def mean(self) -> float:
        return self._moments()[0]

    @property
    def variance(self) -> float:
        return self._moments()[1]

    @property
    def std(self) -> float:
        return math.sqrt(self.variance)

    def _moments(self) -> tuple[float, float]:
        if math.isinf(self.precision):
            return self.anchor, 0.0
        start, u, p, _ = self._within(self.low, self.high)
        mean = float(p @ u)
        return start + mean, float(p @ (u - mean) ** 2)

    # ---------------------------------------------------------------- gain of further draws

    def above(self, x: float) -> float:
        """P(X >= x), to full relative precision in the tail."""
        if math.isinf(self.precision):
            return float(x <= self.anchor)
        if x <= self.low or x >= self.high:
            return float(x <= self.low)
        return math.exp(min(0.0, self._within(x, self.high)[3] - self._within(self.low, self.high)[3]))

    def improvement(self, best: float) -> float:
        """E[max(X - best, 0)]: the expected gain of one more draw over the best."""
        if math.isinf(self.precision) or best <= self.low:
            return max(0.0, self.mean - best)
        if best >= self.high:
            return 0.0
        start, u, p, _ = self._within(best, self.high)
        return self.above(best) * (start - best + float(p @ u))

    def needed(self, target: float, p: float) -> float:
        """The smallest N for which the p-quantile of the best of N is at least the target; inf where there is none.

        P(best of N < target) = F(target)^N, so it is ln p / ln F(target), rounded up.
        """
        above = self.above(target)
        if above == 0:
            return math.inf
        return 1 if above == 1 else max(1, math.ceil(math.log(p) / math.log1p(-above)))

    def _within(self, low: float, high: float) -> tuple[float, np.ndarray, np.ndarray, float]:
        """The law given that X is in [low, high]: (start, u, p, log of its mass), X being start + u with chances p.

        Quadrature from the peak as far as there is weight. The mass is up to the law's own constant.
        """
        peak = _clip(self.anchor + self.slope / self.precision, low, high) if self.precision else math.nan
        if not math.isfinite(peak):
            peak = low if self.slope < 0 or math.isinf(high) else high
        u = peak - self.anchor
        slope = self.slope - self.precision * u  # at the peak: 0, or it falls off from an edge
        left = min(peak - low, _falls_by_reach(max(slope, 0.0), self.precision))
        right = min(high - peak, _falls_by_reach(max(-slope, 0.0), self.precision))
        w = (left + right) / 2 * (_NODES + 1) - left
        log_density = slope * w - self.precision * w**2 / 2
        mass = _WEIGHTS * np.exp(log_density)
        total = float(mass.sum())
        height = self.slope * u - self.precision * u**2 / 2
        return peak, w, mass / total, height + math.log(total * (left + right) / 2)


def _falls_by_reach(slope: float, precision: float) -> float:
    """How far from the peak the log-density has fallen by _REACH: slope w + precision w^2 / 2 = _REACH."""
    steep = slope + math.sqrt(slope**2 + 2 * _REACH * precision)
    return 2 * _REACH / steep if steep > 0 else math.inf


def _slope(mean: float, precision: float, low: float, high: float) -> float:
    """The slope at `mean` of the law of this mean and precision on a range with at least one end."""
    if precision == 0 and math.isinf(high):
        return -1 / (mean - low)
    if precision == 0 and math.isinf(low):
        return 1 / (high - mean)

    def excess(slope: float) -> float:
        return Truncated(mean, slope, precision, low, high).mean - mean

    at_zero = excess(0.0)
    if at_zero == 0:
        return 0.0
    # A law that is cut off on one side leans to the other: the slope that makes up for it is of the other sign.
    step = -math.copysign(1 / min(mean - low, high - mean), at_zero)
    while excess(step) * at_zero > 0:
        step *= 2
    from scipy.optimize import brentq

    return float(brentq(excess, min(step, 0.0), max(step, 0.0), xtol=abs(step) * 1e-13))


def _clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)
