"""DLBS: beam search in which each child is scored by a look-ahead along the ODE."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.beam_search import EVERY, BeamSearch
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class Dlbs(BeamSearch):
    """Beam search at every step, with states scored by a look-ahead along the ODE.

    Diffusion latent beam search (Oshima et al. 2025, arXiv 2501.19252): B beams of K candidates. survivors: B = 4
    beams. branch: K = 2 candidates of each. lookahead: 6 deterministic DDIM steps, as in its configuration; 1 is the
    beam search without. levels: every step. kernel, rest: DDIM with eta = 1. Differences: at the root there are B K
    fresh noises (from pure noise no kernel branches); the first call of a look-ahead is also the first of the
    children's transition, so it is paid for once; the last branching is two steps before the end, after which nothing
    is left to chance.

    Cost in NFE: B K f(0, T) for the states themselves, and at each step s from 1 to T - 2 another
    B K (min(6, T - s) - 1) calls to look ahead: with 8 steps 224 calls a beam, or 28 whole runs. Scores: B K at every
    step, and at the end.
    """

    width: int | None = 8
    levels: str | tuple[float, ...] = EVERY
    survivors: float | tuple[float, ...] = 4
    branch: int | tuple[int, ...] = 2
    lookahead: int | tuple[int, ...] = 6
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"
