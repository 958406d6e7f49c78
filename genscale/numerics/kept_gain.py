"""What a search keeps that drafts n candidates, makes the best m drafts in full, and takes the best of these.

The expectation is over all sets of n of the N candidates that were measured. It is exact: for each candidate the sets
are counted in which it is the best of those made in full.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from genscale.errors import UsageError

Scores = NDArray[np.float64]


def expected_best(drafts: Scores, finals: Scores, n: int, keep: int) -> float:
    """The expected final score of the best of the `keep` best drafts among n candidates drawn without replacement.

    drafts, finals: scores [N] of the same candidates. Of equal drafts the first is the better one, and of equal finals
    the better draft wins. UsageError: not 1 <= keep and 1 <= n <= N.
    """
    total = len(drafts)
    if not (1 <= n <= total and keep >= 1):
        raise UsageError(
            f"of {total} candidates 1 to {total} can be drafted and at least 1 kept, not {n} and {keep}."
        )
    order = np.argsort(-drafts, kind="stable")
    ranked = finals[order]
    sets, found = comb(total, n), 0.0
    for r, score in enumerate(ranked):
        # It wins if it is in the set, fewer than `keep` of the better drafts are, none of these has a better final
        # score, and none of those worse drafts that are still made in full has.
        worse_above = int((ranked[:r] < score).sum())
        rivals = ranked[r + 1 :] > score
        for above in range(min(keep, n, worse_above + 1)):
            ways = comb(worse_above, above) * _without_rival(rivals, n - 1 - above, keep - 1 - above)
            found += float(score) * ways / sets
    return found


def _without_rival(rivals: NDArray[np.bool_], size: int, made: int) -> int:
    """The number of subsets of this size of the drafts below, of whose best `made` none is a rival."""
    below = len(rivals)
    if size > below:
        return 0
    if made >= size:
        return comb(below - int(rivals.sum()), size)
    if made == 0:
        return comb(below, size)
    # By the rank k of the last one that is made in full: made - 1 non-rivals before it, any after it.
    count, harmless = 0, 0
    for k, rival in enumerate(rivals):
        if not rival:
            count += comb(harmless, made - 1) * comb(below - k - 1, size - made)
            harmless += 1
    return count


def margin_values(drafts: Scores, finals: Scores) -> float:
    """How far the draft of the best candidate is below the best draft, at least 0. drafts, finals: scores [N].

    Of equally good candidates the one with the best draft counts.
    """
    best = drafts[finals == finals.max()].max()
    return float(drafts.max() - best)
