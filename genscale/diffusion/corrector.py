"""Feynman-Kac correctors: importance weights with which a mix of predictions samples prod q_i^w_i (arXiv 2503.02819).

Particles step with the mix as if it were a score, with any churn. Their log-weights change by d log w = rate d lambda,
where lambda = log(alpha / sigma) and `rate` is that of `genscale.diffusion.mixture_arithmetic`. Constants that are the
same for all particles are left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genscale.diffusion.noise_schedule import NoiseLevel


def increment(rate: Tensor, start: NoiseLevel, stop: NoiseLevel) -> Tensor:
    """The log-weight of a step between two levels, float64 [n], from the rate at its start.

    rate: [n]. The integral is a left Riemann sum, as published. In the last step, to clean latents, lambda goes to
    infinity and the rate is proportional to kappa^2, so the integral is half the rate. A step from pure noise, where
    all sources agree, adds 0. The trapezoidal rule was tried on closed-form models: it is as good if weights sum to 1,
    and worse otherwise, because particles are then selected one step later.
    """
    if math.isinf(start.kappa):
        return torch.zeros_like(rate)
    if stop.sigma == 0:
        return rate / 2
    return rate * math.log(start.kappa / stop.kappa)


def subdued(gain: Tensor, temperature: float, clamp: float) -> Tensor:
    """Increments [n] divided by a temperature and clamped to within [-clamp, clamp] of their mean.

    With temperature 1 and clamp inf the weights are exact. Otherwise the weighted distribution lies between that of the
    mix without weights and the target.
    """
    gain = gain / temperature
    if math.isinf(clamp):
        return gain
    return (gain - gain.nanmean()).clamp(-clamp, clamp)


def even_times(steps: int, first: float, last: float) -> list[float]:
    """Linear times, in [0, 1], of `steps` levels whose noise-to-signal ratios form a geometric series from `first` to
    `last`."""
    if steps == 1:
        return [first / (1 + first)]
    ratio = math.log(last / first) / (steps - 1)
    kappas = [first * math.exp(i * ratio) for i in range(steps)]
    return [k / (1 + k) for k in kappas]
