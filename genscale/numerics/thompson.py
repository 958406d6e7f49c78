"""Thompson sampling with normal scores: posterior of an action's mean score, and draws from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
        """Of the numbers (x - low) / spread."""
        return Tally(self.count, (self.mean - low) / spread, self.squares / spread**2)


@dataclass(frozen=True)
class Belief:
    """Normal-inverse-chi-square: sigma^2 ~ nu tau2 / chi^2(nu), and the mean ~ N(m, sigma^2 / kappa).

    kappa, nu: how many observations m and tau2 are worth.
    """

    m: float
    kappa: float
    nu: float
    tau2: float

    def given(self, seen: Tally) -> Belief:
        """After so many more normal observations (Murphy 2007, "Conjugate Bayesian analysis of the Gaussian
        distribution", section 5)."""
        n = seen.count
        kappa, nu = self.kappa + n, self.nu + n
        gap = self.kappa * n / kappa * (seen.mean - self.m) ** 2
        m = (self.kappa * self.m + n * seen.mean) / kappa
        return Belief(m, kappa, nu, (self.nu * self.tau2 + seen.squares + gap) / nu)

    def expecting(self, n: int) -> Belief:
        """As if n unfinished observations had the expected value: the same mean with more certainty."""
        nu = self.nu + n
        return replace(self, kappa=self.kappa + n, nu=nu, tau2=self.nu * self.tau2 / nu)

    def draw(self, u: float) -> float:
        """A mean drawn by a uniform number: Student's t with nu degrees of freedom, m and tau2 / kappa."""
        return self.m + math.sqrt(self.tau2 / self.kappa) * float(special.stdtrit(self.nu, u))
