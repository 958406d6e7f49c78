"""How far scores vary: between candidates of one prompt, and of one candidate under changes that do not matter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def within(values: Array, groups: NDArray[np.int64]) -> float | None:
    """The pooled standard deviation of values [n] around the means of their groups [n]; None without a group of two.

    The square root of the sum of squared differences over n less the number of groups, of groups of two or more.
    """
    squares, freedom = 0.0, 0
    for group in np.unique(groups):
        some = values[groups == group]
        if len(some) > 1:
            squares += float(((some - some.mean()) ** 2).sum())
            freedom += len(some) - 1
    return math.sqrt(squares / freedom) if freedom else None


@dataclass(frozen=True)
class ChangeNoise:
    """What one kind of change does to the scores. noise_sd: see `noise_of`. shift: mean of changed less unchanged
    score. images: how many were changed."""

    noise_sd: float
    shift: float
    images: int


def noise_of(
    scores: Array, changed: Mapping[str, Array], prompts: NDArray[np.int64]
) -> tuple[float | None, dict[str, ChangeNoise]]:
    """The standard deviation of the noise in scores [n] of n candidates of numbered prompts [n], and each change's own.

    changed: by name of the change, the scores [n] of the changed candidates, NaN where one was not changed. A score is
    taken as quality + noise, where a change that does not matter keeps the quality and draws the noise anew. Then the
    difference of both scores has twice the noise's variance, so a change's noise is the standard deviation of the
    difference over sqrt(2). A difference that all candidates of a prompt have in common changes no ranking and is left
    out: the deviation is that around the mean of each prompt (`within`). The noise in all is the root mean square over
    changes. None: no prompt has two candidates that were changed.
    """
    found = {}
    for name, again in changed.items():
        known = np.isfinite(again)
        difference = again[known] - scores[known]
        spread = within(difference, prompts[known])
        if spread is not None:
            found[name] = ChangeNoise(spread / math.sqrt(2), float(difference.mean()), int(known.sum()))
    if not found:
        return None, {}
    return math.sqrt(float(np.mean([c.noise_sd**2 for c in found.values()]))), found
