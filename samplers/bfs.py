"""Classical breadth-first search as a particle method."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Bfs(ParticleFilter):
    """Breadth-first search as a particle filter: increasing tempering, max potential, SSP resampling.

    Global BFS (Zhang et al. 2025, arXiv 2505.23614, section 4.1), the best of its ablation: SSP over multinomial is the
    largest gain over FK steering, tempering the next. particles: 8. ess: 1, resampling at every scoring step.
    potential: "max". temper: "increasing". scheme: "ssp". kernel, rest: DDIM with eta = 1.

    Cost in NFE: N f(0, T) a pass; scores: N at each scoring step, and N at the end.
    """

    particles: int | None = 8
    potential: str = "max"
    temper: str = "increasing"
    scheme: str = "ssp"
    ess: float = 1.0
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"
