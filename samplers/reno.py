"""ReNO: gradient ascent on the initial noise of a model of one step or few steps.

Eyring, Karthik, Roth, Dosovitskiy & Akata 2024, "ReNO: Enhancing One-step Text-to-Image Models through Reward-based
Noise Optimization" (arXiv 2406.04312; code ExplainableML/ReNO).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genscale.algorithms.noise_ascent import NoiseGradient
from genscale.numerics.optimisers import Momentum


@dataclass(frozen=True)
class Reno(NoiseGradient):
    """Gradient ascent on the initial noise by SGD with Nesterov momentum and clipped gradients.

    A penalty preserves the length of the noise.

    lr, momentum, clip, reg: 5, 0.9, 0.1 and 0.01 by default, published for 50 iterations and noise of length 128
        (latents of 4 x 64 x 64). The authors take lr = 10 for Hyper-SD. A step is at most lr * clip long, so its angle
        is larger for shorter noise.
    iterations: 50, published.
    starts: 1 by default, published.

    The published weights of the rewards are 5 for hps, 1 for image_reward, 0.01 for clip and 0.05 for pickscore. The
    last two multiply logits; for the cosines that genscale's verifiers return they are 1 and 5.

    Differences: the penalty is computed in float64, because it overflows in half precision. Every finished image is a
    candidate, so the result is the best of all, the pipeline's own included. Gradients go through all steps of a model
    of many steps, whereas the authors' code optimises through one step and then runs all of them (as `ditto2` does).

    Cost in NFE: the warm-up, and for every start and turn g + trials * f at most, f being the evaluations of one
    candidate and g of a gradient through all its calls: 3 f for one step and 4 f for more. Without warm-up and trials f
    + starts * (iterations * g + f).
    """

    lr: float = 5.0
    momentum: float = 0.9
    clip: float | None = 0.1

    PUBLISHED: ClassVar[int] = 50

    def optimiser(self) -> Momentum:
        return Momentum(self.lr, self.momentum)
