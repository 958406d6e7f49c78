"""VASR: variance-aware resampling of a weighted population."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter


@dataclass(frozen=True)
class Vasr(ParticleFilter):
    """VASR (arXiv 2604.06779): mass w exp(strength r) on each particle, and low-variance resampling by it.

    scheme: "systematic", in place of the multinomial one whose offspring variance the paper holds to be the cause of
    lineage collapse. ess: 1, at every scoring step. Read in the abstract and third-party accounts only: what the
    paper adds beyond that (its latent reward) is not here.

    Cost in NFE: N f(0, T) a pass; scores: N at each scoring step, and N at the end.
    """

    particles: int | None = 8
    ess: float = 1.0
