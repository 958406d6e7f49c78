"""Adaptive branching Monte Carlo tree search (AB-MCTS): wider or deeper, by Thompson sampling."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.tree_search import TreeSearch


@dataclass(frozen=True)
class AbMcts(TreeSearch):
    """Adaptive branching tree search over denoising states: go wider or deeper by Thompson sampling.

    Variant A of AB-MCTS (Inoue et al. 2025, arXiv 2503.04412). policy, widen: "thompson": no schedule fixes the number
    of children; the values of a new child and of the present ones are drawn from their posteriors, and the larger draw
    decides. prior: (0, 1, 1, 0.1),
    as published for scores in [0, 1]. levels: as in dts_star.

    Differences: a node has no score of its own here, so the score of its first rollout's sample is used, and a rollout
    makes a child at every level below. Scores are mapped to [0, 1] by the range seen so far, since verifiers have no
    common unit and the prior is meant for that interval. (For z-scores it would be another prior.) Rollouts that are
    not finished count as if they had their expected score, so that a wave spreads; wave=1 is the published method.

    Cost in NFE: f(0, T) for a rollout from the root, f(s, T) - f(s, s + 1) for one that branches at step s. Scores: one
    a rollout.
    """

    policy: str = "thompson"
    widen: tuple[float, float] | str = "thompson"
    levels: tuple[float, ...] = (0.5, 0.625, 0.75)
