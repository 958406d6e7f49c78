"""A Gaussian mixture on the line with exact everything, for tests of kernels and particle methods. float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genscale.diffusion.noise_schedule import NoiseLevel


def _weights() -> Tensor:
    return torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def _means() -> Tensor:
    return torch.tensor([-1.5, 0.5, 2.0], dtype=torch.float64)


@dataclass(frozen=True)
class Line:
    """sum_k w_k N(m_k, std^2) on every coordinate by itself."""

    weights: Tensor = field(default_factory=_weights)
    means: Tensor = field(default_factory=_means)
    std: float = 0.35

    def draw(self, n: int, seed: int) -> Tensor:
        """Exact samples [n, 1]."""
        g = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, n, replacement=True, generator=g)
        return (self.means[which] + self.std * torch.randn(n, generator=g, dtype=torch.float64))[:, None]

    def posterior(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor, float]:
        """Of x0 given x_t: component weights and means [n, d, k], and their common variance."""
        var = (level.alpha * self.std) ** 2 + level.sigma**2
        gap = x[..., None] - level.alpha * self.means
        weight = torch.softmax(self.weights.log() - gap**2 / (2 * var), -1)
        return (
            weight,
            self.means + level.alpha * self.std**2 / var * gap,
            self.std**2 * level.sigma**2 / var,
        )

    def clean(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x_t = x]."""
        weight, mean, _ = self.posterior(x.double(), level)
        return (weight * mean).sum(-1)

    def pair(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        x0 = self.clean(x, level)
        return x0, (x.double() - level.alpha * x0) / level.sigma

    def log_density(self, x: Tensor, level: NoiseLevel) -> Tensor:
        var = (level.alpha * self.std) ** 2 + level.sigma**2
        gap = x[..., None] - level.alpha * self.means
        each = self.weights.log() - gap**2 / (2 * var) - 0.5 * math.log(2 * math.pi * var)
        return torch.logsumexp(each, -1)

    def tilted(self, slope: float) -> tuple[Line, float]:
        """p(x) exp(slope x) / Z is a mixture again: it, and log Z."""
        log_w = self.weights.log() + slope * self.means + slope**2 * self.std**2 / 2
        log_z = float(torch.logsumexp(log_w, 0))
        return Line((log_w - log_z).exp(), self.means + slope * self.std**2, self.std), log_z

    @property
    def mean(self) -> float:
        return float((self.weights * self.means).sum())

    def distance(self, x: Tensor, weights: Tensor | None = None) -> float:
        """W1 of a (weighted) sample on the line to the mixture: the area between the two distribution functions."""
        order = x.flatten().double().sort()
        n = len(order.values)
        w = (
            torch.full((n,), 1 / n, dtype=torch.float64)
            if weights is None
            else weights.double()[order.indices]
        )
        grid = torch.linspace(-8.0, 8.0, 40001, dtype=torch.float64)
        mine = torch.cat([torch.zeros(1, dtype=torch.float64), w.cumsum(0)])[
            torch.searchsorted(order.values, grid)
        ]
        gap = (grid[:, None] - self.means) / self.std
        exact = (self.weights * torch.special.ndtr(gap)).sum(1)
        return float((mine - exact).abs().mean() * 16.0)
