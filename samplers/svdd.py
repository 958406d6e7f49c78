"""SVDD: soft value-based decoding."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.best_child import BestChild


@dataclass(frozen=True)
class Svdd(BestChild):
    """At every step continue from the best of M children of each particle.

    SVDD-PM (Li et al. 2024, arXiv 2408.08252, algorithm 1). children: M = 20 for images. strength: its code takes the
    argmax for alpha = .01. interval: 0. Differences: the children of the root are M fresh
    noises (from pure noise no kernel branches); the predictions that scored the children are kept, so a step
    costs M calls and not M + 1. gradient: "none"; "model" or "decoder" with a `push` lets the children follow the
    value's gradient at their parent, as the paper's section on classifier guidance as a proposal does; where the best
    is taken no weight corrects for that.

    Cost in NFE: N M f(0, s) up to the last scoring step s, then N f(s, T); scores: N M at every step. With a gradient
    N more calls and backward passes at every step.
    """

    children: int = 20
    interval: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)
