"""DAS, the tempered SMC of diffusion alignment as sampling."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.guided_proposal import DECODER
from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Das(ParticleFilter):
    """Tempered sequential Monte Carlo whose steps follow the gradient of the score.

    DAS (Kim, Kim & Park 2025, arXiv 2501.05803, sections 4.1 and 4.2).

    gradient: "decoder" by default (ours), which costs no NFE. Proposals are moved by std^2 lambda_(t-1) grad r / alpha;
        the paper takes the gradient through the denoiser as well ("model"). A verifier that cannot be differentiated is
        refused. With "none" this is DAS without gradients.
    particles: by default, as many as the budget pays for. The authors' scripts have 4.
    strength: 10 by default (ours), in units of the spread of the first scores. The paper has 1 / alpha for each reward.
    temper: "increasing" by default, min((1 + gamma)^i - 1, 1) with gamma = 0.008 at T = 100, so that (1 + gamma)^T is
        about 2.
    potential: "difference" by default.
    scheme: "ssp" by default.
    ess: 0.5 by default.
    window, interval: every step from half of the run to 7/8 of it (ours). The paper scores all of its 100 steps. With 8
        steps that is worse than no search, because previews of the first half predict little of the image.
    reach: 0.3 by default (ours), so that a step is moved by 0.3 standard deviations of its noise at most.
    kernel: DDIM with eta = 1. rest: the pipeline's scheduler, "own", by default (ours; the paper has DDIM with eta = 1,
        which at 8 steps makes worse images).

    As published: particles=4, gradient="model", window=(0, 1), rest="ddim(1)", reach=inf, with a strength for the
    reward. The law that the weights target is the same.

    Cost in NFE: N f(0, T) a pass; with gradient "model" also twice as much again for the backward passes of the
    steps in the window. Scores: N at every step in the window, and at the end.
    """

    temper: str = "increasing"
    scheme: str = "ssp"
    interval: float = 0.0
    gradient: str = DECODER
    window: tuple[float, float] = (0.5, 0.875)
    reach: float = 0.3
    kernel: str | Kernel = "ddim(1)"
