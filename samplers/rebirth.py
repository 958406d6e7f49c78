"""Rebirth: killing and rebirth for deterministic samplers."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Rebirth(ParticleFilter):
    """Particle filter on the ODE: a particle that is not kept is replaced by a copy of another, plus noise.

    After FVD (first version of arXiv 2604.06779). Survivors stay on the ODE. A copy takes one stochastic step, so that
    it differs from the original, and then continues on the ODE. This steers a flow model with hardly any added noise.
    No target law is claimed, because the weights decide which particle takes which kernel.

    scheme: "killing" by default. A particle survives with probability w_i / max w, and is otherwise replaced by a draw
        by the weights (Del Moral 2004, section 3.5). This is unbiased. FVD draws among the survivors uniformly and
        controls its kill rate, which is not done here.
    rebirth: "ddim(1)" by default.
    ess: 1 by default.

    Cost in NFE: N f(0, T) a pass; scores: N at each scoring step, and N at the end.
    """

    particles: int | None = 8
    scheme: str = "killing"
    ess: float = 1.0
    kernel: str | Kernel = "ode"
    rebirth: str | Kernel = "ddim(1)"
