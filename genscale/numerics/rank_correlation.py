"""How well early scores predict final ones: Spearman's rank correlation, and the share of good candidates kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from genscale.numerics.intervals import Mean

TOP, KEPT = 0.25, 0.5  # share of the final best quarter that pruning to the early best half would keep

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How well early scores agree with final ones, averaged over prompts.

    rho: mean over prompts of Spearman's rank correlation of early and final scores, in [-1, 1]; None if no prompt could
    be used. low, high: 95 % interval of that mean (genscale.numerics.intervals); None for fewer than two prompts, or if
    all correlations are equal. kept: mean share of the final top quarter that is in the early top half. prompts: number
    of prompts used. left_out: number of prompts that were not, because all their early or all their final scores are
    equal.
    """

    rho: float | None
    low: float | None
    high: float | None
    kept: float | None
    prompts: int
    left_out: int


def agreement(early: Scores | Sequence[Scores], final: Scores | Sequence[Scores]) -> Agreement:
    """The agreement of scores [candidates] of each prompt. early, final: one array of scores per prompt."""
    pairs = [(a, b) for a, b in zip(early, final, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
    left_out = len(early) - len(pairs)
    if not pairs:
        return Agreement(None, None, None, None, 0, left_out)
    rhos = [float(stats.spearmanr(a, b).statistic) for a, b in pairs]
    shares = [kept(a, b) for a, b in pairs]
    found = Mean.of_numbers(rhos)
    low = None if found.low is None else max(found.low, -1.0)
    high = None if found.high is None else min(found.high, 1.0)
    return Agreement(found.mean, low, high, float(np.mean(shares)), len(pairs), left_out)


def kept(early: Scores, final: Scores) -> float:
    """Share of the final top quarter that is in the early top half; about 1/2 if the early scores carry no information.

    early, final: scores [n] of one prompt. Ties at the boundary count by the mean over all ways to order them.
    """
    top, survivors = math.ceil(TOP * len(final)), math.ceil(KEPT * len(early))
    return float(_members(early, survivors) @ _members(final, top)) / top


def _members(scores: Scores, places: int) -> Scores:
    """The share [n], in [0, 1], with which each is among the best `places`; ties at the boundary share the remaining
    places. The sum is `places`."""
    edge = np.sort(scores)[-places]
    above, level = (scores > edge).astype(np.float64), (scores == edge).astype(np.float64)
    members: Scores = above + level * (places - above.sum()) / level.sum()
    return members
