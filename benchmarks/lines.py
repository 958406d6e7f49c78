"""Mixtures on a line and what products of their powers are, to any precision: targets of mixed predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GRID = torch.linspace(-14, 14, 14_001, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Line:
    """sum_k p_k N(m_k, s_k^2) in every coordinate by itself, under the rectified-flow interpolant."""

    means: Sequence[float]
    stds: Sequence[float]
    shares: Sequence[float]

    def _parts(self, x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Gap to each mean, variance and log of share times density [..., k] at time t."""
        m, s, p = (torch.tensor(list(v), dtype=torch.float64) for v in (self.means, self.stds, self.shares))
        var = ((1 - t) * s) ** 2 + t**2
        gap = x.double()[..., None] - (1 - t) * m
        return gap, var, p.log() - gap**2 / (2 * var) - (2 * math.pi * var).log() / 2

    def velocity(self, x: Tensor, t: float) -> Tensor:
        gap, var, logs = self._parts(x, t)
        eps = t * (logs.softmax(-1) * gap / var).sum(-1)
        if t < 1:
            return ((eps - x.double()) / (1 - t)).to(x.dtype)
        mean = sum(p * m for p, m in zip(self.shares, self.means, strict=True))
        return (x.double() - mean).to(x.dtype)

    def log_density(self, x: Tensor) -> Tensor:
        return self._parts(x, 0.0)[2].logsumexp(-1)


@dataclass(frozen=True, eq=False)
class Target:
    """prod q_i^w_i: its distribution function on GRID, and the log of its integral."""

    laws: Sequence[Line]
    weights: Sequence[float]

    def _logs(self) -> Tensor:
        return torch.stack(
            [w * q.log_density(GRID) for w, q in zip(self.weights, self.laws, strict=True)]
        ).sum(0)

    @property
    def log_evidence(self) -> float:
        return float(self._logs().logsumexp(0)) + math.log(float(GRID[1] - GRID[0]))

    @property
    def cdf(self) -> Tensor:
        masses = self._logs().softmax(0)
        assert masses[[0, -1]].max() < 1e-9, "the product is not a law on this grid"
        return masses.cumsum(0)

    def draw(self, n: int, seed: int) -> Tensor:
        u = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return GRID[torch.searchsorted(self.cdf, u).clamp(max=len(GRID) - 1)]

    def distance(self, x: Tensor, weights: Tensor | None = None) -> float:
        """Wasserstein-1 between weighted draws [n] and the target."""
        x = x.double().flatten()
        share = torch.full((len(x),), 1 / len(x)).double() if weights is None else weights
        order = x.argsort()
        below = torch.cat([torch.zeros(1).double(), share[order].cumsum(0)])
        empirical = below[torch.searchsorted(x[order].contiguous(), GRID, right=True)]
        return float((empirical - self.cdf).abs().sum() * (GRID[1] - GRID[0]))

    def floor(self, n: float, repeats: int = 40) -> tuple[float, float]:
        """Mean and standard deviation of the distance of n exact draws."""
        found = torch.tensor([self.distance(self.draw(int(n), seed)) for seed in range(repeats)])
        return float(found.mean()), float(found.std())
