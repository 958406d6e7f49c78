"""How the scores of several verifiers are combined to one number."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def weighted_sum(raw: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k s_k: [n, k], [k] -> [n]. A candidate's total does not depend on the others; weights set the scales."""
    return raw @ weights


def mean_rank(raw: Tensor, weights: Tensor) -> Tensor:
    """Minus the weighted mean of fractional ranks (1 = best): [n, k], [k] -> [n].

    Ma et al. 2025 (arXiv 2501.09732, section 4) with weights 1. Ties share their mean rank, so that the order of the
    candidates does not matter.
    """
    ranks = torch.empty_like(raw)
    for k, column in enumerate(raw.T):
        _, place, equal = torch.unique(column, return_inverse=True, return_counts=True)  # worst first
        better = len(column) - equal.cumsum(0)
        ranks[:, k] = (better + (equal + 1) / 2)[place]
    return -(ranks @ weights) / (weights.sum() or 1)  # 0 without verifiers


def votes(raw: Tensor, weights: Tensor) -> Tensor:
    """How many of the candidates give the same answer: [n, k], [k] -> [n]. Scores are numbers that stand for answers
    (`Verifier.gives_answers`); a negative one is no answer, and has no vote. Weights do not count."""
    if not raw.numel():
        return torch.zeros(len(raw), dtype=raw.dtype)
    _, which, counts = torch.unique(raw, dim=0, return_inverse=True, return_counts=True)
    return torch.where((raw < 0).any(-1), 0, counts[which]).to(raw.dtype)


VOTE = "vote"
ENSEMBLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "weighted": weighted_sum,
    "rank": mean_rank,
    VOTE: votes,
}
POINTWISE = frozenset({"weighted"})
"""Those by which a candidate's total does not depend on the other candidates."""
