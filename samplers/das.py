"""DAS, the tempered SMC of diffusion alignment as sampling."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.kernel import Kernel
from genscale.particle_filter import ParticleFilter


@dataclass(frozen=True)
class Das(ParticleFilter):
    """DAS without its gradient (Kim, Kim & Park 2025, arXiv 2501.05803, sections 4.1 and 4.2).

    particles: 4, as in its scripts. temper: "increasing", min((1 + gamma)^i - 1, 1) with gamma = .008 at T = 100,
    that is (1 + gamma)^T about 2. potential: "difference". scheme: "ssp". ess: 0.5. interval: 0, scores at every
    step. kernel, rest: DDIM with eta = 1. Difference: the paper's proposal follows the gradient of the reward; that
    is `proposal` here (needs a differentiable verifier). The paper's strength is 1 / alpha of each reward; here 10
    spreads.

    Cost in NFE: N f(0, T) a pass; scores: N at every step.
    """

    particles: int | None = 4
    temper: str = "increasing"
    scheme: str = "ssp"
    interval: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"
