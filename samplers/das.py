"""DAS, the tempered SMC of diffusion alignment as sampling."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Das(ParticleFilter):
    """Tempered sequential Monte Carlo whose steps follow the gradient of the score.

    DAS (Kim, Kim & Park 2025, arXiv 2501.05803, sections 4.1 and 4.2).

    gradient: "model" by default. Proposals are moved by std^2 lambda_(t-1) grad r / alpha, with the gradient taken
        through verifier, decoder and denoiser. A verifier that cannot be differentiated is refused. With "none" this is
        DAS without gradients.
    particles: 4 by default, as in the authors' scripts.
    temper: "increasing" by default, min((1 + gamma)^i - 1, 1) with gamma = 0.008 at T = 100, so that (1 + gamma)^T is
        about 2.
    potential: "difference" by default.
    scheme: "ssp" by default.
    ess: 0.5 by default.
    interval: 0 by default, which scores at every step.
    kernel, rest: DDIM with eta = 1.

    Differences: the paper chooses a strength of 1 / alpha for each reward; here it is 10 in units of the spread of the
    scores. The first step, which leaves pure noise, is that of the kernel without a gradient.

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
