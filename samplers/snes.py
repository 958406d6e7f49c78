"""Separable natural evolution strategy on a few directions of the initial noise.

Schaul, Glasmachers & Schmidhuber 2011, "High Dimensions and Heavy Tails for Natural Evolution Strategies" (algorithm
SNES). For the noise of diffusion models: "evolutionary alignment" (2025, arXiv 2506.00299), which is said to find it
the best at long horizons.

Differences: the search is on a few random directions instead of all numbers of the noise, so that a hundred candidates
suffice to learn. Every candidate is kept on the sphere of the noise. Equal scores have equal utilities. When a basis of
directions is used up, a new one is drawn through the best noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.algorithms.subspace_evolution import Strategy, SubspaceRun
from genscale.key import Key


@dataclass(frozen=True)
class Snes(SubspaceRun):
    """Natural evolution strategy on a few random directions of the initial noise.

    It learns the mean and the spread of the noise along these directions from the ranks of the scores.

    Cost in NFE: (1 + rounds * population) f, f being the evaluations of one candidate.
    """

    def strategy(self, dimensions: int, population: int, key: Key) -> Strategy:
        return _Normal(dimensions, population, key)


class _Normal:
    """The search distribution, a normal with independent coordinates that moves along its natural gradient."""

    def __init__(self, dimensions: int, population: int, key: Key) -> None:
        self.mean = torch.zeros(dimensions, dtype=torch.float64)
        self.std = torch.ones(dimensions, dtype=torch.float64)
        self.rate = (3 + math.log(dimensions)) / (
            5 * math.sqrt(dimensions)
        )  # learning rate of the std; that of the mean is 1
        self.population, self.key, self.generation = population, key, 0

    def ask(self) -> Tensor:
        s = self.key.fold(self.generation).normal((self.population, len(self.mean))).double()
        self.generation += 1
        return self.mean + self.std * s

    def tell(self, z: Tensor, totals: Tensor) -> None:
        s, u = (z - self.mean) / self.std, _utilities(totals)[:, None]
        self.mean = self.mean + self.std * (u * s).sum(0)
        self.std = self.std * torch.exp(self.rate / 2 * (u * (s**2 - 1)).sum(0))


def _utilities(totals: Tensor) -> Tensor:
    """The published utilities of the ranks, which sum to 0. Equal scores share the mean of their utilities."""
    n = len(totals)
    if n == 1:
        return torch.zeros(1, dtype=torch.float64)
    raw = (math.log(n / 2 + 1) - torch.arange(1, n + 1, dtype=torch.float64).log()).clamp(min=0)
    ranked = raw / raw.sum() - 1 / n
    order = torch.argsort(totals, descending=True, stable=True)
    u = torch.empty(n, dtype=torch.float64)
    u[order] = ranked
    for value in set(totals.tolist()):
        same = totals == value
        u[same] = u[same].mean()
    return u
