"""Importance resampling: a best-of-N pool, weighted by exp(strength * score)."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Importance(ParticleFilter):
    """Importance resampling: independent candidates, weighted by exp(strength * score).

    Self-normalised (Rubin 1988); the baseline of every particle method. All candidates run on the pipeline's own
    scheduler and are scored once, at the end; which is what interval=1 means. The best is best_of_n's; the weighted
    population targets p(x0) exp(strength R(x0)), as in the comparisons of FK steering (arXiv 2501.06848). strength: 10
    as in FK steering, so that populations can be compared.

    Cost in NFE: N f(0, T).
    """

    interval: float = 1.0
    kernel: str | Kernel = "own"
