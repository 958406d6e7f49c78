"""Diffusion tree search (DTS*): a tree of denoising states, searched for the best sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

from genscale.algorithms.tree_search import TreeSearch


@dataclass(frozen=True)
class DtsStar(TreeSearch):
    """Tree search over denoising states for the best sample, by UCT.

    Diffusion Tree Search (Jain et al. 2025, arXiv 2506.20701, sections 4.2 and 4.3). policy: "uct". explore: 1, as in
    all reproductions, on values for which 0 and 1 stand for the median and the best reward seen: the paper does not say
    how to normalise, and over the whole range a few failures hide the differences between good samples. strength:
    infinite, the maximum is backed up, as the paper does where it only searches. widen: "practical", (1, 0.5), which
    beat "paper", (2, 0.8), at every budget in our notes: that one is exactly best of N for 36 rollouts. root: (2, 0.6),
    more fresh noises than that: with (1, 0.5) there too it only tied with best_of_n. levels: half, 5/8 and 3/4 of the
    run, where the image is partly determined; the paper has four, from a fifth on, for 50 steps. Tuned on the bundled
    toy flow model, seeds not in docs/trees.md.

    Cost in NFE: f(0, T) for a rollout from the root, f(s, T) - f(s, s + 1) for one that branches at step s. Scores: one
    a rollout.
    """

    strength: float = math.inf
    levels: tuple[float, ...] = (0.5, 0.625, 0.75)
    root: tuple[float, float] | str | None = (2.0, 0.6)
