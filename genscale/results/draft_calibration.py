"""What a draft keeps of the gain of a search: measured on candidates that were drafted and made in full."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genscale.numerics.conformal import conformal_quantile
from genscale.numerics.kept_gain import expected_best, margin_values
from genscale.numerics.rank_correlation import agreement
from genscale.results.search_outcome import SearchOutcome

ALPHA = 0.1
KEEPS = (1, 2, 4, 8)

Totals = NDArray[np.float64]


@dataclass(frozen=True)
class Recommended:
    """How to use a draft within a compute budget.

    images: the budget, in candidates made in full. candidates: how many to draft, keep: to make in full. share: of the
    gain of all measured candidates that is then expected. without: the share that as many candidates without drafts
    have as the budget pays for.
    """

    images: int
    candidates: int
    keep: int
    share: float
    without: float


@dataclass(frozen=True)
class MeasuredDraft:
    """One way to draft.

    draft: its text. cost: NFE of a draft, in those of a candidate. rho: mean rank correlation of drafts with the final
    scores, within a prompt; None if all are equal. kept: the share of the gain of the best of all N candidates over
    their mean, by how many are made in full. margin: see genscale.pipelines.draft; None where so few prompts give none.
    recommended: with the compute of half as many candidates; None where that pays for no draft.
    """

    draft: str
    cost: float
    rho: float | None
    kept: dict[str, float]
    alpha: float
    margin: float | None
    recommended: Recommended | None

    @staticmethod
    def of(draft: str, cost: float, drafts: Totals, finals: Totals, alpha: float = ALPHA) -> MeasuredDraft:
        """drafts, finals: total scores [prompts, candidates]."""
        count = finals.shape[1]
        margin = conformal_quantile([margin_values(a, b) for a, b in zip(drafts, finals, strict=True)], alpha)
        return MeasuredDraft(
            draft,
            cost,
            agreement(drafts, finals).rho,
            {str(keep): kept_share(drafts, finals, count, keep) for keep in KEEPS if keep <= count},
            alpha,
            None if math.isinf(margin) else margin,
            recommend(drafts, finals, cost, count // 2),
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def kept_share(drafts: Totals, finals: Totals, n: int, keep: int) -> float:
    """The expected gain of drafting n candidates and making `keep` in full, as a share of that of the best of all.

    drafts, finals: [prompts, candidates]. Gains are over the mean candidate, and the share is one of means over the
    prompts; 1 where nothing can be gained.
    """
    found = [expected_best(a, b, n, keep) for a, b in zip(drafts, finals, strict=True)]
    means, best = finals.mean(1), finals.max(1)
    whole = float((best - means).mean())
    return 1.0 if whole == 0 else float((np.array(found) - means).mean()) / whole


def recommend(drafts: Totals, finals: Totals, cost: float, images: int) -> Recommended | None:
    """The numbers of drafts and of those made in full that keep most, for the compute of so many candidates."""
    most, found = finals.shape[1], list[Recommended]()
    if images < 1:
        return None
    without = kept_share(finals, finals, min(images, most), 1)
    for keep in range(1, images + 1):
        n = min(most, math.floor((images - keep) / cost + 1e-9))
        if n >= keep:
            found.append(Recommended(images, n, keep, kept_share(drafts, finals, n, keep), without))
    return max(found, key=lambda r: r.share, default=None)


def totals(result: SearchOutcome) -> Totals:
    """Total scores of the finished candidates, in the order of their ids: [prompts, candidates]."""
    rows = []
    for search in result.searches:
        scored = zip(search.finals, search.totals(search.finals), strict=True)
        rows.append([total for _, total in sorted(scored, key=lambda pair: pair[0].candidate.id)])
    return np.array(rows, dtype=np.float64)
