"""What the best of N is expected to be: by luck alone, by luck and quality, and in a pool that was scored and judged.

The best of N draws has a higher score than one draw whatever the score measures. So a searched score that rises with N
says nothing by itself; these are the numbers to hold beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from genscale.numerics.expected_maximum import standard_maximum


def noise_best(scores: Sequence[float], n: int) -> float:
    """E of the best of n of these scores, drawn without replacement: what a verifier that is pure noise gives.

    Such a verifier says nothing of the candidates: its scores are draws of one distribution, so any order of them is as
    likely as any other, and its noise explains all of their spread. With the scores of one prompt's candidates as that
    distribution no form of it is assumed. The held-out score of its winner is that of a random candidate, for every n.
    ValueError: n is not between 1 and the number of scores.
    """
    whole = len(scores)
    if not 1 <= n <= whole:
        raise ValueError(f"n={n} must be between 1 and the number of scores, {whole}")
    last = np.arange(n, whole + 1)  # the best of n is the i-th smallest with C(i - 1, n - 1) / C(N, n)
    logs = _log_binomial(last - 1, n - 1) - _log_binomial(np.array(whole), n)
    return float(np.exp(logs) @ np.sort(np.asarray(scores, dtype=np.float64))[n - 1 :])


def _log_binomial(of: NDArray[np.int64], some: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = gammaln(of + 1) - gammaln(some + 1) - gammaln(of - some + 1)
    return found


def split_gain(sd: float, noise_sd: float, n: int) -> tuple[float, float]:
    """(real, lucky): of what the best of n is expected to score above the mean, sd e(n), quality's part and noise's.

    sd: of the scores of one prompt's candidates. noise_sd: of one candidate's score under changes that do not matter;
    no more than sd counts. With score = quality + noise, both normal and independent, the winner's quality is expected
    to be above the mean by (sd^2 - noise_sd^2) / sd e(n) (the regression to the mean of the best; Smith & Winkler 2006,
    "The Optimizer's Curse"), and the rest is noise, which a second look at the winner would not find again.
    """
    if sd <= 0:
        return 0.0, 0.0
    whole, noise = sd * standard_maximum(n), min(max(noise_sd, 0.0), sd)
    lucky = whole * (noise / sd) ** 2
    return whole - lucky, lucky


def best_of(searched: Sequence[float], judged: Sequence[float], n: int) -> float:
    """E of the judged score of the best by the searched one among n of these candidates, drawn without replacement.

    Exact, over all subsets; of candidates with equal searched scores any may win. searched, judged: one a candidate.
    ValueError: n is not between 1 and their number.
    """
    if not 1 <= n <= len(searched):
        raise ValueError(f"n={n} must be between 1 and the number of candidates, {len(searched)}")
    groups: dict[float, list[float]] = {}
    for score, verdict in zip(searched, judged, strict=True):
        groups.setdefault(float(score), []).append(float(verdict))
    subsets, below, total = math.comb(len(searched), n), 0, 0.0
    for score in sorted(groups):
        group = groups[score]
        upto = below + len(group)
        wins = math.comb(upto, n) - math.comb(below, n)  # subsets whose best is in this group
        total += wins / subsets * math.fsum(group) / len(group)
        below = upto
    return total
