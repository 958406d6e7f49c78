"""VASR: variance-aware resampling of a weighted population."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter


@dataclass(frozen=True)
class Vasr(ParticleFilter):
    """Particle filter with low-variance (systematic) resampling at every scoring step.

    VASR (arXiv 2604.06779). The mass of each particle is w exp(strength r).

    scheme: "systematic" by default. The paper names the variance of the number of offspring in multinomial resampling
        as the cause of lineage collapse.
    ess: 1 by default, which resamples at every scoring step.

    This is based on the abstract and third-party descriptions only. What the paper adds beyond that (its latent reward)
    is not implemented.

    Cost in NFE: N f(0, T) a pass; scores: N at each scoring step, and N at the end.
    """

    particles: int | None = 8
    ess: float = 1.0
