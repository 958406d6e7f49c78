"""A mean over prompts with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Mean:
    """mean, None of no values; half: half the width of the 95 % interval by Student's t, None below two values."""

    mean: float | None
    half: float | None
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> Mean:
        n = len(values)
        if n == 0:
            return Mean(None, None, 0)
        if n == 1:
            return Mean(float(values[0]), None, 1)
        half = float(stats.t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
        return Mean(float(np.mean(values)), half, n)

    def text(self, signed: bool = False) -> str:
        """As in "+0.0123 ± 0.0045", with the digits that the interval leaves meaning to."""
        if self.mean is None:
            return ""
        digits = 3 if not self.half else min(5, max(2, 1 - math.floor(math.log10(self.half))))
        told = f"{self.mean:+.{digits}f}" if signed else f"{self.mean:.{digits}f}"
        return told if self.half is None else f"{told} ± {self.half:.{digits if self.half else 0}f}"
