"""The expected maximum of independent normal numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import ndtr

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(400)
_REACH = 9.0  # standard deviations; beyond, Phi is 0 or 1 for float64


def expected_maximum(groups: Sequence[tuple[float, float, int]]) -> float:
    """E of the maximum of n_1 draws of N(mean_1, std_1^2), n_2 of N(mean_2, std_2^2), ...

    groups: (mean, std above 0, n), at least one draw in all. It is the integral of 1 - F over the positive numbers,
    less that of F over the negative ones, F being the product of the distribution functions; by Gauss-Legendre
    quadrature, to about 1e-9 of the largest std where these are within a factor of 30 of each other.
    """
    drawn = [(mean, std, n) for mean, std, n in groups if n > 0]
    low = max(mean - _REACH * std for mean, std, _ in drawn)  # below, F is 0
    high = max(mean + _REACH * std for mean, std, _ in drawn)
    x = (high + low) / 2 + (high - low) / 2 * _NODES
    cdf = np.ones_like(x)
    for mean, std, n in drawn:
        cdf *= ndtr((x - mean) / std) ** n
    return low + (high - low) / 2 * float(_WEIGHTS @ (1 - cdf))


@lru_cache(maxsize=4096)
def standard_maximum(n: int) -> float:
    """E of the maximum of n draws of N(0, 1); 0 for one."""
    return expected_maximum([(0.0, 1.0, n)]) if n > 1 else 0.0
