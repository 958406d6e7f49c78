"""DITTO-2: optimise the noise through a few model calls, then run the model in full from the result.

Novack, McAuley, Berg-Kirkpatrick & Bryan 2024, "DITTO-2: Distilled Diffusion Inference-Time T-Optimization for Music
Generation" (arXiv 2405.20289); ReNO's `enable_multi_apply` (arXiv 2406.04312) is the same with SGD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genscale.algorithms.noise_ascent import NoiseGradient
from genscale.numerics.optimisers import Adam
from genscale.protocol.interfaces import Process


@dataclass(frozen=True)
class Ditto2(NoiseGradient):
    """Adam on the initial noise through a few model calls; the result is run with all of them.

    opt_steps: model calls that a gradient goes through, spread evenly over the run and stepped by the ode: 1,
    published, which needs a model distilled to few steps: one call of another model does not predict the image.
    finals: without trials, starts that are run in full in the end, the best by their approximate scores; None is all.
    lr, iterations, starts, clip, reg: as of `ditto`.

    Cost in NFE: the warm-up, and for every start and turn g + trials * f at most, f being the evaluations of one
    candidate and g of a gradient through opt_steps of its calls: 3 times these for one, 4 times for more. Without
    warm-up and trials f + starts * iterations * g + finals * f.
    """

    reg: float = 0.0
    lr: float = 0.1
    clip: float | None = None
    opt_steps: int | None = 1
    finals: int | None = None

    PUBLISHED: ClassVar[int] = 50

    def optimiser(self) -> Adam:
        return Adam(self.lr)

    def ends(self, process: Process, starts: int) -> int:
        return starts if self.finals is None else min(self.finals, starts)
