"""Where a held-out score turns down while a search goes on, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from genscale.numerics.intervals import FEW, LEVEL, RESAMPLES, SEED


@dataclass(frozen=True)
class Turn:
    """The highest place of the mean over prompts of a curve, and how far it has fallen since.

    peak: index of the place of the highest mean, the first of equals. earliest, latest: its 95 % interval, over
    bootstrap samples of the prompts. fall: the mean at the peak less that at the end, 0 or more. least: the lower bound
    of the fall at 95 %. prompts: how many.
    """

    peak: int
    earliest: int
    latest: int
    fall: float
    least: float
    prompts: int

    @property
    def turned(self) -> bool:
        """Whether the fall is more than chance: its lower bound is above 0."""
        return self.least > 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"turned": self.turned}


def turn_of(curves: Sequence[Sequence[float]]) -> Turn | None:
    """The turning point of curves [prompts, places]; None for fewer than 5 prompts or 2 places.

    The place that is highest in a sample is partly so by chance, and an interval of the fall from that one place would
    find a turn in curves that only fluctuate. So the fall is held against the largest one of any place that chance
    gives: the 95 % quantile, over bootstrap samples of the prompts, of the maximum over places of (fall in the sample -
    fall measured); the reality check of White 2000, "A Reality Check for Data Snooping". `least` is the fall less that
    quantile, widened as in genscale.numerics.intervals for few prompts.
    """
    values = np.asarray(curves, dtype=np.float64)
    n = len(values)
    if n < FEW or values.ndim != 2 or values.shape[1] < 2:
        return None
    means = values.mean(0)
    falls = means - means[-1]
    peak = int(means.argmax())
    shares = np.random.default_rng(SEED).multinomial(n, [1 / n] * n, size=RESAMPLES) / n
    again = shares @ values
    largest = (again - again[:, -1:] - falls).max(1)
    few = math.sqrt(n / (n - 1)) * float(stats.t.ppf(LEVEL, n - 1) / stats.norm.ppf(LEVEL))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(again.argmax(1), [tail, 1 - tail], method="inverted_cdf")
    least = float(falls[peak] - few * np.quantile(largest, LEVEL))
    return Turn(peak, int(low), int(high), float(falls[peak]), least, n)
