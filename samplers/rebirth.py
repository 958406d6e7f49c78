"""Rebirth: killing and rebirth for deterministic samplers."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Rebirth(ParticleFilter):
    """Particle filter on the ODE: a particle that is not kept is replaced by a copy of another, plus noise.

    After FVD (first version of arXiv 2604.06779). Survivors stay on the ODE; a copy takes one stochastic step, so that
    it differs from the original, and then continues on the ODE: this steers a flow model with hardly any added noise.
    scheme: "killing", survival with w_i / max w and otherwise a draw by the weights (Del Moral 2004, section 3.5),
    which is unbiased; FVD draws among the survivors uniformly and controls its kill rate, which is not here. rebirth:
    ddim(1). ess: 1. No target law is claimed: which particle takes which kernel depends on the weights.

    Cost in NFE: N f(0, T) a pass; scores: N at each scoring step, and N at the end.
    """

    particles: int | None = 8
    scheme: str = "killing"
    ess: float = 1.0
    kernel: str | Kernel = "ode"
    rebirth: str | Kernel = "ddim(1)"
