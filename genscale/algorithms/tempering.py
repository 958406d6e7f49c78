"""Potentials and tempering: how a score at some step changes a particle's weight.

With rewards r_1 ... r_k so far and the strength s_k at step k, a log-potential G_k is applied; at the end comes
strength R - sum of all that was applied, so that every potential targets exp(strength R(x0)) (FK steering, Singhal et
al. 2025, arXiv 2501.06848, section 3.2; the released code keeps the max or the sum in the last step, and then
has another target).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genscale.numerics.resampling import temper_to_ess

Potential = Callable[[Tensor, float, Tensor], Tensor]
"""(rewards [n, k], strength, sum of the log-potentials applied so far [n]) -> the next log-potential [n]."""

POTENTIALS: dict[str, Potential] = {
    "difference": lambda rewards, strength, applied: strength * rewards[:, -1] - applied,
    "max": lambda rewards, strength, applied: strength * rewards.amax(1),
    "sum": lambda rewards, strength, applied: strength * rewards.sum(1),
    "reward": lambda rewards, strength, applied: strength * rewards[:, -1],
}

MERITS: dict[str, Callable[[Tensor], Tensor]] = {
    # The criterion for the best particle where the strength is infinite.
    "difference": lambda rewards: rewards[:, -1],
    "max": lambda rewards: rewards.amax(1),
    "sum": lambda rewards: rewards.sum(1),
    "reward": lambda rewards: rewards[:, -1],
}

TEMPERS = ("constant", "increasing", "adaptive", "damped")


def tempered(
    rule: str, strength: float, progress: float, kappa: float, *, log_w: Tensor, applied: Tensor, rewards: Tensor,
    reached: float, target: float,
) -> float:  # fmt: skip
    """The strength at a scoring step.

    constant: all of it. increasing: (1 + gamma)^i - 1 with (1 + gamma)^T = 2, as a function of the fraction of the run
    done (DAS, Kim et al. 2025, arXiv 2501.05803, section 4.1). damped: strength / (1 + 2 strength s^2), s^2 =
    kappa^2 / (1 + kappa^2) being the posterior variance of standardised data at noise-to-signal ratio kappa
    (code of "Are we really tilting?"). adaptive: the largest, from `reached` on, that keeps the ESS at `target`
    of the pool (Jasra et al. 2011, section 3.2).
    """
    if rule == "constant" or math.isinf(strength):
        return strength
    if rule == "increasing":
        return strength * (2**progress - 1)
    if rule == "damped":
        variance = kappa**2 / (1 + kappa**2) if math.isfinite(kappa) else 1.0
        return strength / (1 + 2 * strength * variance)
    latest = rewards[:, -1]
    step = temper_to_ess(log_w - applied + reached * latest, latest, target, strength - reached)
    return reached + step


def unit_of(scores: Tensor, scale: float | str) -> float:
    """What scores are divided by: a number, or for "pool" their own standard deviation (1 if that is 0)."""
    if not isinstance(scale, str):
        return float(scale)
    spread = float(scores.std(unbiased=False)) if len(scores) > 1 else 0.0
    return spread if spread > 0 and math.isfinite(spread) else 1.0


def joined(rewards: Tensor, latest: Tensor) -> Tensor:
    """Rewards [n, k] with those of one more scoring."""
    return torch.cat([rewards, latest[:, None]], 1)
