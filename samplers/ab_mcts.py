"""Adaptive branching Monte Carlo tree search (AB-MCTS): wider or deeper, by Thompson sampling."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.tree_search import TreeSearch


@dataclass(frozen=True)
class AbMcts(TreeSearch):
    """Adaptive branching tree search over denoising states: go wider or deeper by Thompson sampling.

    Variant A of AB-MCTS (Inoue et al. 2025, arXiv 2503.04412).

    policy, widen: "thompson" by default for both. No schedule fixes the number of children. At each node, a value is
        drawn from the posterior of a new child and from that of each present child, and the largest draw decides where
        to go.
    prior: (0, 1, 1, 0.1), as published for scores in [0, 1].
    levels: by default half, 5/8 and 3/4 of the run, as in `dts_star`.

    Differences: a node here has no score of its own, so it takes the score of the sample that its first rollout
    reached. A rollout makes a child at every level below the node where it branches. Scores are mapped to [0, 1] by the
    range seen so far, because verifiers have no common unit and the prior is meant for that interval (z-scores would
    need another prior). Rollouts that have not finished count with their expected score, so that the rollouts of one
    wave spread over the tree. wave=1 is the published method.

    Cost in NFE: f(0, T) for a rollout from the root, f(s, T) - f(s, s + 1) for one that branches at step s. Scores: one
    a rollout.
    """

    policy: str = "thompson"
    widen: tuple[float, float] | str = "thompson"
    levels: tuple[float, ...] = (0.5, 0.625, 0.75)
