"""DAS, the tempered SMC of diffusion alignment as sampling."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Das(ParticleFilter):
    """Tempered sequential Monte Carlo whose steps follow the gradient of the score.

    DAS (Kim, Kim & Park 2025, arXiv 2501.05803, sections 4.1 and 4.2). gradient: "model": proposals are moved by std^2
    lambda_(t-1) grad r / alpha, back through verifier, decoder and denoiser; a verifier that cannot be differentiated
    is refused, and gradient=none is DAS without it. particles: 4, as in its scripts. temper: "increasing", min((1 +
    gamma)^i - 1, 1) with gamma = .008 at T = 100, that is (1 + gamma)^T about 2. potential: "difference". scheme:
    "ssp". ess: 0.5. interval: 0, scores at every step. kernel, rest: DDIM with eta = 1. Differences: the paper's
    strength is 1 / alpha of each reward, here 10 spreads; the first step, out of pure noise, is the kernel's own.

    Cost in NFE: N f(0, T) a pass, and twice as much again for the backward passes (none with gradient "decoder" or
    "none") at every step but the first and the last; scores: N at every step.
    """

    particles: int | None = 4
    temper: str = "increasing"
    scheme: str = "ssp"
    interval: float = 0.0
    gradient: str = "model"
    window: tuple[float, float] = (0.0, 1.0)
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"
