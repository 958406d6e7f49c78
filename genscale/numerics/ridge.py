"""Ridge regression: the linear function with the least squared error and a penalty on its weights.

Hoerl & Kennard 1970, "Ridge Regression: Biased Estimation for Nonorthogonal Problems". The features are standardised,
so that the penalty does not depend on their units; the bias is free. The penalty is chosen on folds of whole groups
(prompts), which were not fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genscale.numerics.probability_curve import Array, folds

PENALTIES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # in units of the features' variance (ours)
_FLAT = 1e-12


@dataclass(frozen=True)
class Linear:
    """Features [n, F] -> weights . features + bias [n]."""

    weights: Array
    bias: float

    def __call__(self, features: Array) -> Array:
        found: Array = features @ self.weights + self.bias
        return found


@dataclass(frozen=True)
class Chosen:
    """A linear function fitted to all groups, its penalty, and the predictions [n] of folds that were not fitted on."""

    predictor: Linear
    penalty: float
    held_out: Array


def ridges(features: Array, wanted: Array, penalties: Sequence[float]) -> list[Linear]:
    """The linear function of features [n, F] nearest to wanted [n], for each penalty: the least

    mean (wanted - prediction)^2 + penalty . sum (weight x standard deviation of its feature)^2.

    Features that are the same everywhere get weight 0.
    """
    centre, spread = features.mean(0), features.std(0)
    used = spread > _FLAT * np.maximum(1.0, np.abs(centre))
    scale = np.where(used, spread, 1.0)
    standard = (features - centre) / scale * used
    values, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
    seen = vectors.T @ (standard.T @ (wanted - wanted.mean()) / len(standard))
    found = []
    for penalty in penalties:
        weights = (vectors @ (seen / (np.maximum(values, 0) + penalty))) / scale * used
        found.append(Linear(weights, float(wanted.mean() - weights @ centre)))
    return found


def chosen_ridge(
    features: Array, wanted: Array, groups: NDArray[np.int64], penalties: Sequence[float] = PENALTIES
) -> Chosen:
    """The ridge regression whose penalty predicts best for groups [n] that it was not fitted on."""
    fold = folds(wanted, groups)
    held = np.empty((len(penalties), len(wanted)))
    for k in np.unique(fold):
        inside = fold == k
        fitted = ridges(features[~inside], wanted[~inside], penalties)
        held[:, inside] = np.stack([one(features[inside]) for one in fitted])
    best = int(np.square(held - wanted).mean(1).argmin())
    return Chosen(ridges(features, wanted, penalties)[best], penalties[best], held[best])
