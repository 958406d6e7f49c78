"""Gaussian mixtures on the plane under their exact reverse chain: beds whose tilted law is known in closed form.

A kernel draws from p(x_s | x_t) itself, so the chain ends in the mixture after any number of steps, and what is left
between a sampler and the tilted law is the sampler's own doing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.bed import Bed
from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule
from genscale.media import Media

FIRST = 1e-4  # alpha of the first level: the data are gone there
TINY = 1e-7  # float32 noise is no finer: what is left of a uniform number stays this far from 0 and 1


@dataclass(frozen=True, eq=False)
class Mixture:
    """sum_k w_k N(m_k, std^2 I) on the plane: log_weights [k] (normalised), means [k, 2], float64."""

    log_weights: Tensor
    means: Tensor
    std: float

    def draw(self, n: int, seed: int) -> Tensor:
        """Exact samples [n, 2]."""
        g = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=g)
        return self.means[which] + self.std * torch.randn(n, 2, generator=g, dtype=torch.float64)

    def log_shares(self, x: Tensor) -> Tensor:
        """log p(component | x) [n, k] of clean x [n, 2]."""
        return (self.log_weights - _squares(x, self.means) / (2 * self.std**2)).log_softmax(1)

    def log_density(self, x: Tensor) -> Tensor:
        each = self.log_weights - _squares(x, self.means) / (2 * self.std**2)
        return torch.logsumexp(each, 1) - math.log(2 * math.pi * self.std**2)

    def posterior(self, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor, float]:
        """Of x0 given x_t: log weights [n, k] and means [n, k, 2] of the components, and their common variance."""
        var = (level.alpha * self.std) ** 2 + level.sigma**2
        gap = x[:, None] - level.alpha * self.means
        weight = (self.log_weights - gap.square().sum(-1) / (2 * var)).log_softmax(1)
        return weight, self.means + level.alpha * self.std**2 / var * gap, self.std**2 * level.sigma**2 / var

    def clean(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """E[x0 | x_t = x]."""
        weight, mean, _ = self.posterior(x.double(), level)
        return (weight.exp()[..., None] * mean).sum(1)

    def mean_kernel(self, x: Tensor, width: float) -> Tensor:
        """E exp(-|x - Y|^2 / (2 width^2)) over Y of the mixture, [n]."""
        var = width**2 + self.std**2
        each = self.log_weights - _squares(x.double(), self.means) / (2 * var)
        return each.exp().sum(1) * width**2 / var

    def own_kernel(self, width: float) -> float:
        """The same over both arguments."""
        var = width**2 + 2 * self.std**2
        each = self.log_weights[:, None] + self.log_weights - _squares(self.means, self.means) / (2 * var)
        return float(each.exp().sum() * width**2 / var)


def _squares(x: Tensor, y: Tensor) -> Tensor:
    return (x[:, None] - y).square().sum(-1)


@dataclass(frozen=True, eq=False)
class Tilt:
    """A mixture, and a reward that is smooth and gives every component another weight.

    reward(x) = log sum_k p(k | x) exp(gains_k), so p(x) exp(reward(x)) = sum_k w_k exp(gains_k) N(x; m_k, std^2): the
    tilted law is the same components with other weights, and Z their sum.
    """

    mixture: Mixture
    gains: Tensor

    def reward(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self.mixture.log_shares(x.double()) + self.gains, 1)

    @property
    def log_z(self) -> float:
        return float(torch.logsumexp(self.mixture.log_weights + self.gains, 0))

    @property
    def law(self) -> Mixture:
        weights = (self.mixture.log_weights + self.gains).log_softmax(0)
        return Mixture(weights, self.mixture.means, self.mixture.std)

    def bed(self, steps: int) -> Bed:
        """All steps take the cosine's levels, alpha = cos(pi t / 2), t even from the first to 0."""
        t = torch.linspace(math.acos(FIRST), 0.0, steps + 1, dtype=torch.float64)
        alpha, sigma = t.cos(), t.sin()
        alpha[-1], sigma[-1] = 1.0, 0.0

        def verifier(media: Media, prompts: Any) -> Tensor:
            return self.reward(media.pixels.flatten(1))

        return Bed(
            (2,), NoiseSchedule(alpha, sigma), "sample", Exact(self.mixture),
            lambda x, level: self.mixture.clean(x, level).to(x.dtype), lambda x: x[:, :, None, None].clone(), verifier,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Exact:
    """A kernel whose transitions are the mixture's own."""

    mixture: Mixture
    deterministic: bool = False

    def calls(self, start: NoiseLevel) -> int:
        return 1

    def transition(
        self, x: Tensor, x0: Tensor, eps: Tensor, start: NoiseLevel, stop: NoiseLevel
    ) -> ExactStep:
        return ExactStep(self.mixture, x, start, stop)


@dataclass(frozen=True, eq=False)
class ExactStep:
    """p(x_s | x_t), a mixture of Gaussians of one variance.

    Two normal numbers draw from it: Phi of the first is uniform and chooses the component, and where it lies within
    that one's share is uniform again. The step is no Gaussian: `std` only says that it is no point mass either.
    """

    mixture: Mixture
    x: Tensor
    start: NoiseLevel
    stop: NoiseLevel
    std: float = 1.0

    @property
    def mean(self) -> Tensor:
        return self.x

    def components(self) -> tuple[Tensor, Tensor, float]:
        """Log weights [n, k], means [n, k, 2], common std."""
        x, start, stop = self.x.double(), self.start, self.stop
        weight, clean, var = self.mixture.posterior(x, start)
        # The bridge x_s | x0, x_t of the forward process (Ho et al. 2020, eq. 7), then x0 integrated out.
        scale = start.alpha / stop.alpha
        fresh = start.sigma**2 - scale**2 * stop.sigma**2
        to_clean, to_noisy = stop.alpha * fresh / start.sigma**2, scale * stop.sigma**2 / start.sigma**2
        spread = math.sqrt(to_clean**2 * var + stop.sigma**2 * fresh / start.sigma**2)
        return weight, to_clean * clean + to_noisy * x[:, None], spread

    def sample(self, noise: Tensor) -> Tensor:
        weight, mean, spread = self.components()
        share = weight.softmax(1)
        edge = share.cumsum(1)
        u = torch.special.ndtr(noise[:, :1].double())
        which = (u >= edge).sum(1, keepdim=True).clamp(max=share.shape[1] - 1)
        below = (edge - share).gather(1, which)
        rest = ((u - below) / share.gather(1, which)).clamp(TINY, 1 - TINY)
        chosen = mean.gather(1, which[..., None].expand(-1, 1, 2))[:, 0]
        own = torch.cat([torch.special.ndtri(rest), noise[:, 1:].double()], 1)
        return (chosen + spread * own).to(self.x.dtype)


def ring() -> Tilt:
    """Eight modes on a circle of radius 4, std 0.3, weights as exp(1.5 i): the toy of arXiv 2506.20701."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    return Tilt(Mixture(_even(8), means, 0.3), 1.5 * torch.arange(8, dtype=torch.float64))


def grid() -> Tilt:
    """64 modes 1.5 apart, std 0.15; one of them and, less, its neighbours are wanted. Rarer than on the ring: best of a
    handful of plain samples is none of them."""
    line = 1.5 * (torch.arange(8, dtype=torch.float64) - 3.5)
    means = torch.cartesian_prod(line, line)
    gains = -(means - means[8 * 5 + 6]).square().sum(1) / (2 * 0.75**2)
    return Tilt(Mixture(_even(64), means, 0.15), gains)


def _even(k: int) -> Tensor:
    return torch.full((k,), -math.log(k), dtype=torch.float64)
