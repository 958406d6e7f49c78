"""Potentials and tempering: how a score at an intermediate step changes the weight of a particle.

At scoring step k a log-potential G_k is applied, which depends on the rewards r_1 ... r_k so far and the strength s_k.
At the end the log-weight gets strength R minus the sum of all log-potentials applied before, so that every potential
has the target exp(strength R(x0)) (FK steering, Singhal et al. 2025, arXiv 2501.06848, section 3.2). The released code
of that paper keeps the max or the sum in the last step, and then has another target.
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
    # The ranking criterion if the strength is infinite.
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

    rule: "constant": the full strength. "increasing": strength times (1 + gamma)^i - 1 with (1 + gamma)^T = 2, which is
    2^progress - 1 (DAS, Kim et al. 2025, arXiv 2501.05803, section 4.1). "damped": strength / (1 + 2 strength s^2),
    where s^2 = kappa^2 / (1 + kappa^2) is the posterior variance of standardised data at noise-to-signal ratio kappa
    (code of "Are we really tilting?"). "adaptive": the largest strength, at least `reached`, that keeps the ESS at the
    share `target` of the pool (Jasra et al. 2011, section 3.2).

    progress: completed fraction of the run, in [0, 1]. log_w, applied: log-weights, and log-potentials applied so far
    [n]. rewards: [n, k].
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


def unit_of(scores: Tensor, scale: float | str, flat: float = 1.0) -> float:
    """What scores are divided by: a number, or for a word their own standard deviation (`flat` if that is 0).

    Scores of -inf, of candidates that failed, are left out.
    """
    if not isinstance(scale, str):
        return float(scale)
    scores = scores[scores.isfinite()]
    spread = float(scores.std(unbiased=False)) if len(scores) > 1 else 0.0
    return spread if spread > 0 and math.isfinite(spread) else flat


def joined(rewards: Tensor, latest: Tensor) -> Tensor:
    """Rewards [n, k] with the latest ones [n] appended: [n, k + 1]."""
    return torch.cat([rewards, latest[:, None]], 1)
