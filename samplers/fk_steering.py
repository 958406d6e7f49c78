"""Feynman-Kac steering."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class FkSteering(ParticleFilter):
    """Feynman-Kac steering: a particle filter with the max potential and the published defaults.

    Singhal et al. 2025, arXiv 2501.06848, sections 3 and 4. particles: k = 4. strength: lambda = 10 (for ImageReward,
    whose spread is about 1; see scale). potential: "max". scheme: "multinomial". ess: 1, resampling at every scheduled
    step. window, interval: steps 20 to 80 of 100, every 20. kernel, rest: DDIM with eta = 1 all along. Differences:
    states are scored by the prediction at the current state (the code's belongs to the state before); the last
    potential is exp(lambda R) over all that were applied (the code leaves the max in it and so targets another law);
    weights survive (no clamp, none dropped).

    Cost in NFE: k f(0, T) a pass; scores: k at each scoring step, and k at the end.
    """

    particles: int | None = 4
    potential: str = "max"
    scheme: str = "multinomial"
    ess: float = 1.0
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"
