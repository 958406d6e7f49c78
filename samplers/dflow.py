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

    The line search meets the strong Wolfe conditions.

    first: length of the first trial step, as a share of the length of the noise. 0.05 by default, which is genscale's
        choice. The authors' code leaves it to torch, min(1, 1 / |g|_1), which is not scaled for rewards.
    history: steps that L-BFGS remembers. 100 by default, published.
    iterations: number of evaluations, including those of the line search. 20 where no budget ends the search, which is
        genscale's choice.
    reg: 0.01 by default as in `reno`. The penalty is minus the log-density of the length of the noise, with the sign
        that preserves the length (a public port has the opposite sign).
    starts: 1 by default.

    Differences: the objective is a reward and not an inverse problem, so the start is noise and not an inverted image.

    With `trials` above 0, plain runs of several step lengths take the place of the line search. With 0, each turn
    evaluates the next trial step of the line search, at the cost of a gradient.

    Cost in NFE: as of `ditto`.
    """

    first: float = 0.05
    history: int = 100

    PUBLISHED: ClassVar[int] = 20

    def optimiser(self) -> Lbfgs:
        return Lbfgs(self.first, self.history, searching=self.tries == 0)
