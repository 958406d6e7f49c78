"""TreeG: tree search guidance, sampling in the space of states."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.beam_search import EVERY, BeamSearch
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class TreeG(BeamSearch):
    """Beam search at every step: each of A states branches into K, and the A best are kept.

    TreeG (Guo et al. 2025, arXiv 2502.11420), sampling current states. survivors: A = 4. branch: K = 4; the paper
    varies both by task (music, molecules, DNA), with no setting for images. levels: every step. kernel, rest: DDIM with
    eta = 1. Differences: A K fresh noises at the root (from pure noise no kernel branches); the predictions that scored
    the children are kept, so a step costs A K calls and not A (K + 1). Its other two modes are not implemented:
    branching the clean estimate, and gradients.

    Cost in NFE: A K f(0, T) a pass. Scores: A K at every step, and at the end.
    """

    width: int | None = 16
    levels: str | tuple[float, ...] = EVERY
    survivors: float | tuple[float, ...] = 4
    branch: int | tuple[int, ...] = 4
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"
