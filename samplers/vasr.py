"""VASR: variance-aware resampling of a weighted population."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.errors import UsageError


@dataclass(frozen=True)
class Vasr(ParticleFilter):
    """Particle filter with low-variance (systematic) resampling at every scoring step.

    VASR (Shekhar et al. 2026, arXiv 2604.06779v2). The mass of each particle is w exp(strength r).

    scheme: "systematic" by default. The paper names the variance of the number of offspring in multinomial resampling
        as the cause of lineage collapse.
    ess: 1 by default, which resamples at every scoring step.
    offspring: "mass", the default, gives each particle offspring in proportion to its mass, which leaves the target as
        it is. "max" is VASR-Max, the paper's variant for latent models, whose rewards on the way are noisy: the
        particles of the largest mass share all offspring evenly. It is biased on purpose: it looks for high rewards,
        and its weights are those of no law.
    elite: with offspring=max, the share of the particles that have offspring, rounded up. 0.25 by default (ours: the
        paper's number was not seen).

    Only the abstract of the paper and accounts of others were read: they call VASR-Max a deliberately biased variant of
    high selection, and how many are selected is our choice.

    Cost in NFE: N f(0, T) a pass; scores: N at each scoring step, and N at the end.
    """

    particles: int | None = 8
    ess: float = 1.0
    offspring: str = "mass"
    elite: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.offspring not in ("mass", "max"):
            raise UsageError(f"offspring='{self.offspring}' is unknown: it is mass or max.")
        if not 0 < self.elite <= 1:
            raise UsageError(f"elite={self.elite} must be a share of the particles in (0, 1].")
        if self.offspring == "max" and (self.children > 1 or self.scheme == "killing"):
            raise UsageError(
                "offspring=max needs children=1, and another scheme than killing, which keeps particles."
            )

    @property
    def biased(self) -> bool:
        return self.offspring == "max"

    def shares(self, log_w: Tensor) -> Tensor:
        if self.offspring == "mass" or bool((log_w == -math.inf).all()):
            return super().shares(log_w)
        n = math.ceil(self.elite * len(log_w) - 1e-9)
        best = torch.sort(log_w, descending=True, stable=True).indices[:n]
        best = best[log_w[best] > -math.inf]  # those that failed have no offspring
        return torch.zeros(len(log_w), dtype=torch.float64).index_fill_(0, best, 1 / len(best))
