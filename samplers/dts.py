"""Diffusion tree sampling (DTS): a tree of denoising states that samples from the tilted law."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.algorithms.tree_search import TreeSearch


@dataclass(frozen=True)
class Dts(TreeSearch):
    """Tree search over denoising states that samples from p(x0) exp(strength R(x0)).

    Diffusion Tree Sampling (Jain et al. 2025, arXiv 2506.20701, section 4.1). policy: "sample". strength: 1, in spreads
    of the first wave. widen: "practical", (1, 0.5); "paper" is (2, 0.8). levels: the paper's, with 4/5, 3/5, 2/5 and
    1/5 of the run left. The population holds every finished sample with the probability that a descent ends there: any
    number of samples can be drawn from it.

    Cost in NFE: f(0, T) for a rollout from the root, f(s, T) - f(s, s + 1) for one that branches at step s. Scores: one
    a rollout.
    """

    policy: str = "sample"
