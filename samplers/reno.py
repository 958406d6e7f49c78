"""ReNO: gradient ascent on the initial noise of a model of one step or few.

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

    A penalty keeps the length of the noise. lr, momentum, clip, reg: 5, 0.9, 0.1 and 0.01, published, for 50 iterations
    and noise of length 128 (latents of 4 x 64 x 64); the authors take lr = 10 for Hyper-SD. A step is at most lr * clip
    long, so for shorter noise its angle is larger. iterations: 50, published. starts: 1, published. Published weights
    of rewards: hps 5, image_reward 1, clip 0.01 and pickscore 0.05 of their logits (1 and 5 of the cosines here).

    Differences: the penalty is computed in float64 (in half precision it overflows); every finished image is a
    candidate, so the best is the best of all, the pipeline's own among them; models of many steps are unrolled whole,
    where the authors' code optimises through one step and then runs all (`ditto2`).

    Cost in NFE: the warm-up, and for every start and turn g + trials * f at most, f being the evaluations of one
    candidate and g of a gradient through all its calls: 3 f for one step and 4 f for more. Without warm-up and
    trials f + starts * (iterations * g + f).
    """

    lr: float = 5.0
    momentum: float = 0.9
    clip: float | None = 0.1

    PUBLISHED: ClassVar[int] = 50

    def optimiser(self) -> Momentum:
        return Momentum(self.lr, self.momentum)
