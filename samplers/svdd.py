"""SVDD: soft value-based decoding."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.best_child import BestChild


@dataclass(frozen=True)
class Svdd(BestChild):
    """At every step continue from the best of M children of each particle.

    SVDD-PM (Li et al. 2024, arXiv 2408.08252, algorithm 1).

    children: M, 20 by default, as in the paper for images.
    strength: the authors' code takes the argmax too, for alpha = 0.01.
    interval: 0 by default, which scores at every step.
    gradient: "none" by default. With "model" or "decoder" and a `push`, the children follow the gradient of the value
        at their parent, as in the paper's section on classifier guidance as a proposal. Where the best child is taken,
        no weight corrects for that.

    Differences: the children of the root are M fresh noises, because no kernel branches at pure noise. The predictions
    that scored the children are kept, so a step costs M calls instead of M + 1.

    Cost in NFE: N M f(0, s) up to the last scoring step s, then N f(s, T); scores: N M at every step. With a gradient N
    more calls and backward passes at every step.
    """

    children: int = 20
    interval: float = 0.0
    window: tuple[float, float] = (0.0, 1.0)
