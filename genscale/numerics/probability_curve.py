"""From scores to probabilities: monotone curves that are fitted to labelled scores.

Two kinds of curve, both increasing:

- isotonic: the increasing step function of maximum likelihood, found by pooling adjacent violators (Zadrozny & Elkan
  2002, "Transforming classifier scores into accurate multiclass probability estimates"), with smoothed blocks;
- logistic: sigmoid(a + b s) with b >= 0, fitted to smoothed labels (Platt 1999, "Probabilistic outputs for support
  vector machines").

No curve reaches 0 or 1, however few labels there are. A block of an isotonic curve has, beside its own labels, one
further label that is right with the probability of the base rate. The labels of a logistic curve are moved to
(r + 1) / (r + 2) and 1 / (w + 2), r and w being the numbers of right and wrong ones, as Platt has it. The base rate
itself is (r + 1) / (n + 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit

Array = NDArray[np.float64]
Fit = Callable[[Array, Array], "ProbabilityCurve"]

FOLDS = 5
PRIOR = 1.0  # labels that are added to each block of an isotonic curve
_ITERATIONS, _SMALL = 100, 1e-12


@dataclass(frozen=True)
class ProbabilityCurve:
    """An increasing function from scores to probabilities in (0, 1).

    kind: "isotonic" or "logistic". scores, probabilities: knots. Between two knots an isotonic curve is linear in the
    probability and a logistic one in its log-odds; beyond the outer knots an isotonic curve is constant and a logistic
    one goes on.
    """

    kind: str
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        fewest = 2 if self.kind == "logistic" else 1
        if self.kind not in FITS or not len(self.scores) == len(self.probabilities) >= fewest:
            raise ValueError(f"no curve: {self.kind!r} of {len(self.scores)} knots")
        increasing = all(a < b for a, b in zip(self.scores, self.scores[1:], strict=False))
        rising = all(p <= q for p, q in zip(self.probabilities, self.probabilities[1:], strict=False))
        if not (increasing and rising and all(0 < p < 1 for p in self.probabilities)):
            raise ValueError("the knots of a curve increase, with probabilities in (0, 1)")

    def __call__(self, scores: Array) -> Array:
        """Probabilities of scores, of any shape."""
        x, y = np.asarray(self.scores), np.asarray(self.probabilities)
        if self.kind == "isotonic":
            found: Array = np.interp(scores, x, y)
            return found
        odds = logit(y)
        slope = (odds[-1] - odds[0]) / (x[-1] - x[0])
        near = expit(odds[0] + slope * (np.asarray(scores, dtype=np.float64) - x[0]))
        clipped: Array = np.clip(near, _SMALL, 1 - _SMALL)
        return clipped


def base_rate(right: Array) -> float:
    """The probability of being right that labels [n] in [0, 1] tell, by Laplace's rule of succession."""
    return float((right.sum() + 1) / (len(right) + 2))


def isotonic(scores: Array, right: Array) -> ProbabilityCurve:
    """The isotonic curve of scores [n] with labels [n] in [0, 1]; its knots are at the mean scores of its blocks."""
    x, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    weight = count.astype(np.float64)
    share = np.bincount(place, weights=right) / weight
    blocks = isotonic_regression(share, weights=weight).blocks
    n, k, s = (np.add.reduceat(v, blocks[:-1]) for v in (weight, share * weight, x * weight))
    smoothed = (k + PRIOR * base_rate(right)) / (n + PRIOR)
    # A small block may have been moved past its neighbour: these are pooled again.
    again = isotonic_regression(smoothed, weights=n + PRIOR)
    n, s = (np.add.reduceat(v, again.blocks[:-1]) for v in (n, s))
    return ProbabilityCurve("isotonic", tuple((s / n).tolist()), tuple(again.x[again.blocks[:-1]].tolist()))


def logistic(scores: Array, right: Array) -> ProbabilityCurve:
    """The logistic curve of scores [n] with labels [n] in [0, 1], by maximum likelihood."""
    centre, spread = float(np.mean(scores)), float(np.std(scores))
    spread = spread if spread > _SMALL * max(1.0, abs(centre)) else 1.0  # all scores are equal
    x, y = (scores - centre) / spread, _smoothed(right)
    a, b = float(logit(np.mean(y))), 0.0
    design = np.stack([np.ones_like(x), x])
    for _ in range(_ITERATIONS):
        p = expit(a + b * x)
        hessian = (design * (p * (1 - p))) @ design.T + _SMALL * np.eye(2)
        step = np.linalg.solve(hessian, design @ (y - p))
        step *= min(1.0, 2.0 / max(_SMALL, float(np.abs(step).max())))
        a, b = a + float(step[0]), b + float(step[1])
        if np.abs(step).max() < 1e-10:
            break
    if b <= 0:
        a, b = float(logit(np.mean(y))), 0.0
    odds = np.clip([a - b, a + b], -25, 25)
    knots = (centre - spread, centre + spread)
    return ProbabilityCurve("logistic", knots, tuple(expit(odds).tolist()))


def _smoothed(right: Array) -> Array:
    """Platt's targets."""
    r = float(right.sum())
    high, low = (r + 1) / (r + 2), 1 / (len(right) - r + 2)
    return right * high + (1 - right) * low


FITS: dict[str, Fit] = {"isotonic": isotonic, "logistic": logistic}


def folds(right: Array, groups: NDArray[np.int64], count: int = FOLDS) -> NDArray[np.int64]:
    """The fold [n] of each label: groups (prompts) stay together, and folds have similar shares of right ones.

    Groups are sorted by their mean label and dealt to the folds in turn, back and forth; there are at most as many
    folds as groups.
    """
    names, place = np.unique(groups, return_inverse=True)
    means = np.bincount(place, weights=right) / np.bincount(place)
    count = min(count, len(names))
    there = np.concatenate([np.arange(count), np.arange(count)[::-1]])
    dealt = np.empty(len(names), dtype=np.int64)
    dealt[np.argsort(means, kind="stable")] = np.resize(there, len(names))
    found: NDArray[np.int64] = dealt[place]
    return found


def choose(scores: Array, right: Array, fold: NDArray[np.int64]) -> ProbabilityCurve:
    """The kind of curve with the smaller log loss on folds that it was not fitted on, fitted to all labels.

    A tie is for the logistic curve. fold: [n], as of `folds`.
    """
    losses = {kind: log_loss(out_of_fold(fit, scores, right, fold), right) for kind, fit in FITS.items()}
    kind = "isotonic" if losses["isotonic"] < losses["logistic"] else "logistic"
    return FITS[kind](scores, right)


def out_of_fold(
    fit: Callable[[Array, Array], Callable[[Array], Array]],
    scores: Array,
    right: Array,
    fold: NDArray[np.int64],
) -> Array:
    """P [n] by curves that were fitted without the label's own fold.

    scores: [n], or [n, ...] where `fit` takes that.
    """
    found = np.empty(len(right))
    for f in np.unique(fold):
        held = fold == f
        found[held] = fit(scores[~held], right[~held])(scores[held])
    return found


# ---------------------------------------------------------------- how good probabilities are


def log_loss(p: Array, right: Array) -> float:
    """Mean negative log-likelihood of labels [n] under probabilities [n], in nats."""
    return float(-np.mean(right * np.log(p) + (1 - right) * np.log1p(-p)))


def auc(scores: Array, right: Array) -> float | None:
    """The chance that a right one scores above a wrong one, ties counting half; None where one kind is missing."""
    x, place = np.unique(scores, return_inverse=True)
    yes, no = np.bincount(place, right, len(x)), np.bincount(place, 1 - right, len(x))
    if not yes.sum() * no.sum() > 0:
        return None
    below = np.cumsum(no) - no
    return float(yes @ (below + no / 2) / (yes.sum() * no.sum()))


@dataclass(frozen=True)
class Bin:
    """Labels whose probabilities are alike. probability, right: means; count: how many."""

    probability: float
    right: float
    count: int


def reliability(p: Array, right: Array, bins: int = 10) -> list[Bin]:
    """The bins of equal width in [0, 1] that are not empty, in order."""
    at = np.minimum((p * bins).astype(np.int64), bins - 1)
    some = [at == b for b in range(bins)]
    return [Bin(float(p[s].mean()), float(right[s].mean()), int(s.sum())) for s in some if s.any()]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean |share of right ones - mean probability|, by count (Guo et al. 2017, arXiv
    1706.04599, section 2)."""
    count = sum(b.count for b in bins)
    return sum(b.count * abs(b.right - b.probability) for b in bins) / count
