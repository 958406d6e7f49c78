"""TreeG: tree search guidance, sampling in the space of states."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.beam_search import EVERY, BeamSearch
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class TreeG(BeamSearch):
    """Beam search at every step: each of A states branches into K, and the A best are kept.

    TreeG (Guo et al. 2025, arXiv 2502.11420) in its mode that samples current states.

    survivors: A, 4 by default.
    branch: K, 4 by default. The paper varies A and K by task (music, molecules, DNA) and has no setting for images.
    levels: "every" by default, so all steps.
    kernel, rest: DDIM with eta = 1.

    Differences: the search starts from A K fresh noises, because no kernel branches at pure noise. The predictions that
    scored the children are kept, so a step costs A K calls instead of A (K + 1). The paper's other two modes, branching
    the clean estimate and gradients, are not implemented.

    Cost in NFE: A K f(0, T) a pass. Scores: A K at every step, and at the end.
    """

    width: int | None = 16
    levels: str | tuple[float, ...] = EVERY
    survivors: float | tuple[float, ...] = 4
    branch: int | tuple[int, ...] = 4
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"
