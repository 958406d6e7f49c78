"""TDS, the twisted diffusion sampler."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Tds(ParticleFilter):
    """Sequential Monte Carlo with proposals that follow the gradient of the score (twisted diffusion sampler).

    TDS (Wu et al. 2023, arXiv 2306.17775, algorithm 1), for p(x0) exp(strength R(x0)). gradient: "model": steps are
    drawn from N(mean + std^2 grad log phat, std^2) with log phat = strength R(x0 estimate), and the weights are log p -
    log q + log phat_(t-1) - log phat_t. particles: as many as the budget pays for. strength: 10 spreads; the paper's
    phat is a likelihood, which strength 1, scale 1 and a verifier that returns its logarithm make of it. potential:
    "difference". temper: "constant". scheme: "systematic". ess: 0.5. interval: 0, weights at every step. kernel, rest:
    DDIM with eta = 1. Difference: the first step, out of pure noise, is the kernel's own.

    Cost in NFE: N f(0, T) a pass, and twice as much again for the backward passes (none with gradient "decoder") at
    every step but the first and the last; scores: N at every step.
    """

    gradient: str = "model"
    interval: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"
