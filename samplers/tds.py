"""TDS, the twisted diffusion sampler."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Tds(ParticleFilter):
    """Sequential Monte Carlo with proposals that follow the gradient of the score (twisted diffusion sampler).

    TDS (Wu et al. 2023, arXiv 2306.17775, algorithm 1), for p(x0) exp(strength R(x0)).

    gradient: "model" by default. Steps are drawn from N(mean + std^2 grad log phat, std^2) with log phat = strength
        R(x0 estimate). The log-weights grow by log p - log q + log phat_(t-1) - log phat_t.
    particles: by default, as many as the budget pays for.
    strength: 10 by default, in units of the spread of the scores. The paper's phat is a likelihood. To use one, set
        strength=1 and scale=1 with a verifier that returns its logarithm.
    potential: "difference" by default.
    temper: "constant" by default.
    scheme: "systematic" by default.
    ess: 0.5 by default.
    interval: 0 by default, which computes weights at every step.
    kernel, rest: DDIM with eta = 1.

    Difference: the first step, which leaves pure noise, is that of the kernel without a gradient.

    Cost in NFE: N f(0, T) a pass, and twice as much again for the backward passes (none with gradient "decoder") at
    every step but the first and the last; scores: N at every step.
    """

    gradient: str = "model"
    interval: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"
