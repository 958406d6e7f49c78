"""CoDe: blockwise best of N."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.best_child import BestChild


@dataclass(frozen=True)
class Code(BestChild):
    """Blockwise best of N: continue from the best of N children at the end of each block of steps.

    CoDe (Singh et al. 2025, arXiv 2502.00968, algorithm 1). children: N = 40, the middle of the paper's range.
    interval: blocks of a fifth of the run (2 of 10 steps, as RBF configures it; the paper has 5 of 500, which would be
    every step of a short run). Differences: as for svdd, fresh noises at the start and cached predictions.

    Cost in NFE: N f(0, s) up to the last block's end s, then f(s, T); scores: N a block.
    """

    children: int = 40
    interval: float = 0.2
    window: tuple[float, float] = (0.2, 1.0)
