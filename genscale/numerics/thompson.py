"""Thompson sampling with normally distributed scores: posterior of the mean score of an action, and draws from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special


@dataclass
class Tally:
    """Count, mean and sum of squared deviations of a stream of numbers (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, number: float) -> None:
        self.count += 1
        before = number - self.mean
        self.mean += before / self.count
        self.squares += before * (number - self.mean)

    def scaled(self, low: float, spread: float) -> Tally:
        """The tally of the numbers (x - low) / spread."""
        return Tally(self.count, (self.mean - low) / spread, self.squares / spread**2)


@dataclass(frozen=True)
class Belief:
    """Normal-inverse-chi-square distribution: sigma^2 ~ nu tau2 / chi^2(nu), and the mean ~ N(m, sigma^2 / kappa).

    m, tau2: estimates of mean and variance. kappa, nu: their weights, as numbers of observations.
    """

    m: float
    kappa: float
    nu: float
    tau2: float

    def given(self, seen: Tally) -> Belief:
        """The posterior after the observations of a tally (Murphy 2007, "Conjugate Bayesian analysis of the Gaussian
        distribution", section 5)."""
        n = seen.count
        kappa, nu = self.kappa + n, self.nu + n
        gap = self.kappa * n / kappa * (seen.mean - self.m) ** 2
        m = (self.kappa * self.m + n * seen.mean) / kappa
        return Belief(m, kappa, nu, (self.nu * self.tau2 + seen.squares + gap) / nu)

    def expecting(self, n: int) -> Belief:
        """The posterior if n unfinished observations had the expected value: the same mean with less variance."""
        nu = self.nu + n
        return replace(self, kappa=self.kappa + n, nu=nu, tau2=self.nu * self.tau2 / nu)

    def pair(self, u: float, v: float) -> tuple[float, float]:
        """A draw of (mean, sigma), as quantiles at u and v in (0, 1)."""
        variance = self.nu * self.tau2 / float(special.chdtri(self.nu, u))
        return self.m + math.sqrt(variance / self.kappa) * float(special.ndtri(v)), math.sqrt(variance)

    def draw(self, u: float) -> float:
        """A draw of the mean, as the quantile at u in (0, 1): Student's t with nu degrees of freedom, location m and
        squared scale tau2 / kappa."""
        return self.m + math.sqrt(self.tau2 / self.kappa) * float(special.stdtrit(self.nu, u))


FIRST = 8
"""Draws that are made before the others are compared with the largest of them."""


def largest_draw(
    m: NDArray[np.float64], scale: NDArray[np.float64], nu: NDArray[np.float64], u: NDArray[np.float64]
) -> int:
    """The index of the largest of n draws m + scale t(nu, u), as `Belief.draw` makes them; of equals the first.

    m, scale, nu, u: [n]; u in [0, 1). Quantiles of Student's t cost a microsecond each, so only those are computed that
    an upper bound does not rule out: above the median they fall with nu, and for 1, 2 and 4 degrees of freedom they
    have closed forms (Shaw 2006, "Sampling Student's T distribution", section 2).
    """
    if len(m) <= FIRST:
        rows = np.arange(len(m))
    else:
        most = m + scale * _bound(nu, u) + 1e-12 * np.abs(m)
        first = np.argpartition(most, -FIRST)[-FIRST:]
        least = (m[first] + scale[first] * special.stdtrit(nu[first], u[first])).max()
        rows = np.flatnonzero(most >= least)
    return int(rows[(m[rows] + scale[rows] * special.stdtrit(nu[rows], u[rows])).argmax()])


def _bound(nu: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    """At least the quantile at u of Student's t with nu degrees of freedom, rounding included."""
    half = np.maximum(u, 0.5)  # below the median 0 is a bound
    a = 4 * half * (1 - half)
    with np.errstate(divide="ignore"):
        two = (2 * half - 1) * np.sqrt(2 / a)
        root = np.sqrt(np.minimum(a, 1))
        four = 2 * np.sqrt(np.maximum(np.cos(np.arccos(root) / 3) / root - 1, 0))
        one = 1 / np.tan(np.pi * (1 - half))
    found = np.select([nu >= 4, nu >= 2, nu >= 1], [four, two, one], np.inf)
    return np.where(u > 0, found * (1 + 1e-6) + 1e-6, np.inf)  # at 0 SciPy gives either infinity
