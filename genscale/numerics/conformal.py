"""Split conformal quantiles: a threshold that a new value exceeds with probability at most alpha.

Vovk, Gammerman & Shafer 2005, "Algorithmic Learning in a Random World", section 2.2; Lei et al. 2018 (arXiv 1604.04173,
theorem 2). Nothing is assumed but that the values and the new one are exchangeable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from genscale.errors import UsageError


def conformal_quantile(values: Sequence[float], alpha: float) -> float:
    """The smallest q with P(new value > q) <= alpha: the k-th smallest of n values, k = ceil((n + 1) (1 - alpha)).

    values: [n], finite, exchangeable with the new one. alpha: in (0, 1). Infinite where n < 1 / alpha - 1: so few
    values exclude nothing. UsageError: alpha is out of range.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha={alpha} is out of range: give a probability in (0, 1), such as 0.1.")
    n = len(values)
    # (n + 1) alpha values may be above. The tolerance is for products that round to just below a whole number.
    above = math.floor((n + 1) * alpha * (1 + 1e-12))
    return math.inf if above < 1 else sorted(values)[n - above]
