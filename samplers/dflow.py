"""D-Flow: L-BFGS on the initial noise through the ODE of a flow model.

Ben-Hamu, Puny, Gat, Karrer, Singer & Lipman 2024, "D-Flow: Differentiating through Flows for Controlled Generation"
(arXiv 2402.14017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genscale.algorithms.noise_ascent import NoiseGradient
from genscale.numerics.lbfgs import Lbfgs


@dataclass(frozen=True)
class DFlow(NoiseGradient):
    """L-BFGS on the initial noise of a flow model, with gradients through every step of the ODE.

    The line search meets the strong Wolfe conditions. first: length of the first trial step as a share of the noise's
    own length (ours: 0.05; the authors' code leaves it to torch, min(1, 1 / |g|_1), which is not scaled for rewards).
    history: pairs remembered, 100, published. iterations: evaluations, including those of the line search; 20 where no
    budget ends the search (ours). reg: 0.01, that of `reno`: minus the log-density of the length, with the sign that
    keeps it (a public port has the other). starts: 1.

    Differences: rewards instead of inverse problems, so the start is noise and not an inverted image.

    With trials these are the line search; without them one evaluation a turn is its next trial, at a gradient's price.

    Cost in NFE: as of `ditto`.
    """

    first: float = 0.05
    history: int = 100

    PUBLISHED: ClassVar[int] = 20

    def optimiser(self) -> Lbfgs:
        return Lbfgs(self.first, self.history, searching=self.tries == 0)
