"""Feynman-Kac correctors: importance weights with which a mix of predictions samples prod q_i^w_i (arXiv 2503.02819).

Particles that step with the mix as if it were a score, with any churn, get d log w = rate d lambda, where lambda =
log(alpha / sigma) and the rate is that of `genscale.diffusion.mixture_arithmetic`. Constants that all particles share
are left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genscale.diffusion.noise_schedule import NoiseLevel


def increment(rate: Tensor, start: NoiseLevel, stop: NoiseLevel) -> Tensor:
    """The log-weight of a step between two levels, float64 [n], from the rate at its start.

    rate: [n]. The left Riemann sum, as published. In the last step, to clean latents, lambda goes to infinity and the
    rate falls with kappa^2, so that the integral is half the rate. A step from pure noise, where all sources agree,
    adds 0. Trapezoids were tried on closed-form models: they are as good where weights sum to 1 and worse elsewhere,
    since particles are then selected one step later.
    """
    if math.isinf(start.kappa):
        return torch.zeros_like(rate)
    if stop.sigma == 0:
        return rate / 2
    return rate * math.log(start.kappa / stop.kappa)


def subdued(gain: Tensor, temperature: float, clamp: float) -> Tensor:
    """Increments [n] divided by a temperature and clamped to within [-clamp, clamp] of their mean.

    With 1 and inf they are exact. Otherwise the weighted distribution lies between that of the mix without weights and
    the target.
    """
    gain = gain / temperature
    if math.isinf(clamp):
        return gain
    return (gain - gain.nanmean()).clamp(-clamp, clamp)


def even_times(steps: int, first: float, last: float) -> list[float]:
    """Linear times of `steps` levels whose noise-to-signal ratios form a geometric series from `first` to `last`."""
    if steps == 1:
        return [first / (1 + first)]
    ratio = math.log(last / first) / (steps - 1)
    kappas = [first * math.exp(i * ratio) for i in range(steps)]
    return [k / (1 + k) for k in kappas]
