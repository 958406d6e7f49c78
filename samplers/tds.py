"""TDS, the twisted diffusion sampler."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.guided_proposal import DECODER
from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Tds(ParticleFilter):
    """Sequential Monte Carlo with proposals that follow the gradient of the score (twisted diffusion sampler).

    TDS (Wu et al. 2023, arXiv 2306.17775, algorithm 1), for p(x0) exp(strength R(x0)).

    gradient: "decoder" by default (ours), which costs no NFE; the paper takes the gradient through the denoiser as well
        ("model"). Steps are drawn from N(mean + std^2 grad log phat, std^2) with log phat = strength R(x0 estimate).
        The log-weights grow by log p - log q + log phat_(t-1) - log phat_t.
    particles: by default, as many as the budget pays for.
    strength: 10 by default (ours), in units of the spread of the first scores. The paper's phat is a likelihood. To use
        one, set strength=1 and scale=1 with a verifier that returns its logarithm.
    potential: "difference" by default.
    temper: "constant" by default.
    scheme: "systematic" by default.
    ess: 0.5 by default.
    window, interval: every step from half of the run to 7/8 of it (ours). The paper weighs all steps. With 8 steps that
        is worse than no search, because previews of the first half predict little of the image.
    reach: 0.3 by default (ours), so that a step is moved by 0.3 standard deviations of its noise at most.
    kernel: DDIM with eta = 1. rest: the pipeline's scheduler, "own", by default (ours; the paper has ancestral steps
        all along, which at 8 steps make worse images).

    As published: gradient="model", window=(0, 1), rest="ddim(1)", reach=inf, many steps, and a likelihood. The law that
    the weights target is the same.

    Cost in NFE: N f(0, T) a pass; with gradient "model" also twice as much again for the backward passes of the
    steps in the window. Scores: N at every step in the window, and at the end.
    """

    gradient: str = DECODER
    interval: float = 0.0
    window: tuple[float, float] = (0.5, 0.875)
    reach: float = 0.3
    kernel: str | Kernel = "ddim(1)"
