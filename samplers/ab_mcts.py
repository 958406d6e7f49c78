"""Adaptive branching Monte Carlo tree search (AB-MCTS): wider or deeper, by Thompson sampling."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.tree_search import TreeSearch


@dataclass(frozen=True)
class AbMcts(TreeSearch):
    """Adaptive branching tree search, variant A (Inoue et al. 2025, arXiv 2503.04412), on denoising states.

    policy, widen: "thompson": no schedule says how many children a node may have; it draws what new children and the
    present ones may be worth from what is believed of both, and goes where the draw is higher. prior: (0, 1, 1, 0.1),
    as published for scores in [0, 1]. levels: as in dts_star.

    Differences: a node has no score of its own here, so the sample that its first rollout ended in stands for it, and a
    rollout makes a child at every level below. Scores are mapped to [0, 1] by the range seen so far, since verifiers
    have no common unit and the prior is meant for that interval: 0 is the worst, and scores spread over a third of it.
    (For z-scores its 0 would be an average sample, and 0.1 a tenth of their variance: another prior.) Rollouts under
    way count as if they came out as expected, so that a wave spreads; with wave=1 it is the published method.

    Cost in NFE: f(0, T) for a rollout from the root, f(s, T) - f(s, s + 1) for one that branches at step s. Scores: one
    a rollout.
    """

    policy: str = "thompson"
    widen: tuple[float, float] | str = "thompson"
    levels: tuple[float, ...] = (0.5, 0.625, 0.75)
