"""How well early scores predict the final ones: Spearman's rank correlation, and what halving would keep."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from genscale.numerics.intervals import Mean

TOP, KEPT = 0.25, 0.5  # whether the best quarter of the finished would survive a halving

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Of early scores with final ones, over prompts.

    rho: mean of Spearman's rank correlations; None where no prompt can be ranked. low, high: 95 % interval of that
    mean over prompts (genscale.numerics.intervals); None for fewer than two prompts, or where all correlate alike.
    kept: mean share of the final top quarter that is in the early top half. prompts: how many count. left_out: how
    many do not, since their early or their final scores are all equal.
    """

    rho: float | None
    low: float | None
    high: float | None
    kept: float | None
    prompts: int
    left_out: int


def agreement(early: Scores, final: Scores) -> Agreement:
    """early, final: [prompts, candidates]."""
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
    """Share of the final top quarter that is in the early top half; 1/2 where the early scores say nothing.

    Equals at an edge share the places that are left there: the mean over all ways to order them.
    """
    top, survivors = math.ceil(TOP * len(final)), math.ceil(KEPT * len(early))
    return float(_members(early, survivors) @ _members(final, top)) / top


def _members(scores: Scores, places: int) -> Scores:
    """How far each belongs to the best `places`, in [0, 1]; the sum is `places`."""
    edge = np.sort(scores)[-places]
    above, level = (scores > edge).astype(np.float64), (scores == edge).astype(np.float64)
    members: Scores = above + level * (places - above.sum()) / level.sum()
    return members
