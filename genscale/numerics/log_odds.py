"""Several probabilities of one event, combined in log-odds.

Let x_k = logit(p_k) - logit(p_0) be the evidence of verifier k, p_0 the base rate. If the verifiers err independently,
Bayes' rule adds their evidence: logit(p) = logit(p_0) + sum_k x_k. If they all say the same, the mean of the x_k is
right, and the sum counts one verifier several times. In between

    logit(p) = b + sum_k w_k x_k,  w_k >= 0,

with weights by logistic regression (stacking: Wolpert 1992; as a pool of correlated experts: Winkler 1981). The
correlation of the verifiers is shrunk towards 1: the prior of the weights is normal with mean 1 / K and variance
1 / K. So few labels give the mean of the evidence, and many give what independent verifiers deserve, a sum. Copies of
one verifier together have exactly the prior of one: they count once. The prior is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from genscale.numerics.probability_curve import Array

MOST = 25.0  # log-odds stay within this


@dataclass(frozen=True)
class LogOdds:
    """P = sigmoid(bias + sum_k weights_k x_k), x_k the evidence of verifier k. base: the base rate, in (0, 1)."""

    base: float
    bias: float
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < self.base < 1 or not self.weights or not all(w >= 0 for w in self.weights):
            raise ValueError(f"no combination: base rate {self.base}, weights {self.weights}")

    def __call__(self, p: Array) -> Array:
        """P [n] of probabilities [n, K] in (0, 1)."""
        odds = self.bias + evidence(p, self.base) @ np.asarray(self.weights)
        found: Array = expit(np.clip(odds, -MOST, MOST))
        return found


def evidence(p: Array, base: float) -> Array:
    """logit(p) - logit(base), of probabilities in (0, 1)."""
    found: Array = logit(p) - logit(base)
    return found


def combination(p: Array, right: Array, base: float) -> LogOdds:
    """The combination of probabilities [n, K] that labels [n] in [0, 1] make most probable, with the prior.

    The probabilities of a label should come from curves that were fitted without it.
    """
    x = evidence(p, base)
    k = x.shape[1]

    def loss(v: Array) -> tuple[float, Array]:
        odds = v[0] + x @ v[1:]
        away = v[1:] - 1 / k
        value = float(np.sum(np.logaddexp(0, odds) - right * odds) + k / 2 * away @ away)
        wrong = expit(odds) - right
        gradient = np.concatenate([[wrong.sum() + _FLAT * (v[0] - start)], x.T @ wrong + k * away])
        return value + _FLAT / 2 * (v[0] - start) ** 2, gradient

    start = float(logit(base))
    bounds = [(None, None), *[(0.0, None)] * k]
    first = np.concatenate([[start], np.full(k, 1 / k)])
    found = minimize(
        loss, first, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9}
    )
    return LogOdds(base, float(found.x[0]), tuple(map(float, found.x[1:])))


_FLAT = 1e-3  # precision of the bias's prior, so that it stays finite where all labels are alike
