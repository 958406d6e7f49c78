"""VASR: variance-aware resampling of a weighted population."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter


@dataclass(frozen=True)
class Vasr(ParticleFilter):
    """Particle filter with low-variance (systematic) resampling at every scoring step.

    VASR (arXiv 2604.06779): mass w exp(strength r) on each particle. scheme: "systematic", in place of multinomial
    resampling, whose offspring variance the paper names as the cause of lineage collapse. ess: 1, at every scoring
    step. Based on the abstract and third-party descriptions only: what the paper adds beyond that (its latent reward)
    is not implemented.

    Cost in NFE: N f(0, T) a pass; scores: N at each scoring step, and N at the end.
    """

    particles: int | None = 8
    ess: float = 1.0
