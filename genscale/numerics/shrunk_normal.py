"""Normal distributions of several groups, each fitted to few values with the help of the others.

A normal distribution at two levels: the values of group g are N(mu_g, v_g), the mu_g are N(m, b). Means and variances
are estimated by moments, and each group's own are shrunk towards those of all (empirical Bayes: Efron & Morris 1975,
"Data Analysis Using Stein's Estimator and its Generalizations"; of variances: Smyth 2004, "Linear Models and Empirical
Bayes Methods for Assessing Differential Expression in Microarray Experiments", section 3). So a group of one value,
which has no variance of its own, gets a sensible one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PRIOR = 4.0
"""Degrees of freedom that the common variance counts in that of a group (ours)."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_REACH = 40.0  # the density is neglected where its logarithm is lower than at the start by so much


@dataclass(frozen=True)
class Normal:
    """N(mean, std^2); std 0: a single value."""

    mean: float
    std: float

    def improvement(self, best: float, draw: int = 1) -> float:
        """What the draw-th of several further draws is expected to add to the best value.

        E[max(best, X_1, ..., X_draw)] - E[max(best, X_1, ..., X_(draw - 1))], the integral of F^(draw - 1) (1 - F) from
        `best` on. It decreases in `draw` and in `best`; for draw = 1 it is the expected improvement
        E[max(X - best, 0)].
        """
        if self.std == 0:
            return max(0.0, self.mean - best) if draw == 1 else 0.0
        from scipy.special import ndtr

        start = (best - self.mean) / self.std
        low = max(start, -9.0)  # below, F is 0 for float64
        high = low + (math.sqrt(max(low, 0.0) ** 2 + 2 * _REACH) - low)
        z = (high + low) / 2 + (high - low) / 2 * _NODES
        area = (high - low) / 2 * float(_WEIGHTS @ (ndtr(z) ** (draw - 1) * ndtr(-z)))
        return self.std * (area + (low - start if draw == 1 else 0.0))


def shrunk_normals(groups: Sequence[Sequence[float]]) -> list[Normal]:
    """The predictive distribution of a further value of each group.

    groups: their values, at least one in all; a group without any has the law of all. With b the variance between the
    groups' means and w the common variance within them, group g of n values with mean x has the mean
    m + (x - m) n b / (n b + w). Its variance is that within the group, shrunk to w, and that of its mean,
    b w / (n b + w). Before any group has two values, half of the variance of all values is taken to be within groups.
    """
    centre, between, within = _common([group for group in groups if group])
    return [_law(group, centre, between, within) for group in groups]


def _law(group: Sequence[float], centre: float, between: float, within: float) -> Normal:
    n = len(group)
    mean = math.fsum(group) / n if n else centre
    square = math.fsum((x - mean) ** 2 for x in group)
    share = n * between / (n * between + within) if between else 0.0  # how far the group's own mean counts
    own = (square + PRIOR * within) / (max(n - 1, 0) + PRIOR)
    return Normal(centre + (mean - centre) * share, math.sqrt(own + (within * share / n if n else between)))


def _common(groups: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The mean of the groups' means, the variance between groups, and that within them; of groups with values."""
    sizes = [len(group) for group in groups]
    means = [math.fsum(group) / len(group) for group in groups]
    squares = [math.fsum((x - mean) ** 2 for x in group) for group, mean in zip(groups, means, strict=True)]
    centre = math.fsum(means) / len(means)
    within = _within(groups, squares, centre)
    apart = math.fsum((mean - centre) ** 2 for mean in means) / max(len(means) - 1, 1)
    between = max(0.0, apart - within * math.fsum(1 / n for n in sizes) / len(sizes))
    return centre, between, within


def _within(groups: Sequence[Sequence[float]], squares: Sequence[float], centre: float) -> float:
    """The common variance within groups; half of that of all values counts in it like PRIOR degrees of freedom."""
    values = [x for group in groups for x in group]
    every = math.fsum((x - centre) ** 2 for x in values) / max(len(values) - 1, 1)
    return (math.fsum(squares) + PRIOR * every / 2) / (len(values) - len(groups) + PRIOR)
