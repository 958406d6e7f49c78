"""DITTO: optimise the initial noise through the whole run of a model of many steps.

Novack, McAuley, Berg-Kirkpatrick & Bryan 2024, "DITTO: Diffusion Inference-Time T-Optimization for Music Generation"
(arXiv 2401.12179). No official code is public.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genscale.algorithms.noise_ascent import NoiseGradient
from genscale.numerics.optimisers import Adam


@dataclass(frozen=True)
class Ditto(NoiseGradient):
    """Adam on the initial noise, with gradients through every model call (checkpointed).

    lr: 0.1, from third-party code (ComfyUI's SelVA node), which attributes it to the paper; unverified. A step changes
    every number by about lr, whatever the length of the noise. iterations: 50 there. starts: 1.
    clip: none. reg: 0, the paper has no norm penalty.

    Differences: rewards instead of features of music; several starts.

    Cost in NFE: the warm-up, and for every start and turn 4 f + trials * f at most, f being the evaluations of one
    candidate. Without warm-up and trials f + starts * (iterations * 4 f + f).
    """

    reg: float = 0.0
    lr: float = 0.1
    clip: float | None = None

    PUBLISHED: ClassVar[int] = 50

    def optimiser(self) -> Adam:
        return Adam(self.lr)
