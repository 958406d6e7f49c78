"""DLBS: beam search in which each child is scored by a look-ahead along the ODE."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.beam_search import EVERY, BeamSearch
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Dlbs(BeamSearch):
    """Beam search at every step, with states scored by a look-ahead along the ODE.

    Diffusion latent beam search (Oshima et al. 2025, arXiv 2501.19252): B beams of K candidates.

    survivors: B, 4 beams by default.
    branch: K, 2 candidates for each beam by default.
    lookahead: 6 deterministic DDIM steps by default, as in the paper's configuration. With 1, this is beam search
        without look-ahead.
    levels: "every" by default, so all steps.
    kernel, rest: DDIM with eta = 1.

    Differences: the search starts from B K fresh noises, because no kernel branches at pure noise. The first call of a
    look-ahead is also the first call of the children's transition, so it is paid for once. The last branching is two
    steps before the end, because nothing after it is random.

    Cost in NFE: B K f(0, T) for the states themselves, and at each step s from 1 to T - 2 another B K (min(6, T - s) -
    1) calls to look ahead: with 8 steps 224 calls a beam, or 28 whole runs. Scores: B K at every step, and at the end.
    """

    width: int | None = 8
    levels: str | tuple[float, ...] = EVERY
    survivors: float | tuple[float, ...] = 4
    branch: int | tuple[int, ...] = 2
    lookahead: int | tuple[int, ...] = 6
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"
