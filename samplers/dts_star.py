"""Diffusion tree search (DTS*): a tree of denoising states, searched for the best sample."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.tree_search import TreeSearch


@dataclass(frozen=True)
class DtsStar(TreeSearch):
    """Diffusion Tree Search (Jain et al. 2025, arXiv 2506.20701, sections 4.2 and 4.3): UCT on the tree of DTS.

    policy: "uct" on values that are normalised by the range of rewards seen (the paper does not say how; without it the
    bonus means nothing across verifiers). explore: 1, as in all reproductions. widen: "practical", (1, 0.5), which beat
    "paper", (2, 0.8), at every budget in our notes: that one is exactly best of N for 36 rollouts. levels: half, 5/8
    and 3/4 of the run, where previews begin to tell the picture; the paper has four, from a fifth on, for 50 steps.

    Cost in NFE: f(0, T) for a rollout from the root, f(s, T) - f(s, s + 1) for one that branches at step s. Scores: one
    a rollout.
    """

    levels: tuple[float, ...] = (0.5, 0.625, 0.75)
