"""Feynman-Kac correctors: what a mix of predictions must be weighted by to sample prod q_i^w_i (arXiv 2503.02819).

Particles that follow the mix as if it were a score, with any churn, carry d log w = rate d lambda, lambda = log(alpha /
sigma), with the rate of `genscale.diffusion.mixtures`. Constants that all particles share are left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genscale.diffusion.noise_schedule import NoiseLevel


def increment(rate: Tensor, start: NoiseLevel, stop: NoiseLevel) -> Tensor:
    """The log-weight of a step between two levels, float64 [n], from the rate at its start.

    The left Riemann sum, as published. In the last step, to clean latents, lambda goes to infinity; the rate falls with
    kappa^2 there, so that half of it is the integral. A step from pure noise, where all sources agree, weighs nothing.
    Trapezoids were tried: on our toys they are as good where weights sum to 1 and worse elsewhere, since particles are
    then selected one step later.
    """
    if math.isinf(start.kappa):
        return torch.zeros_like(rate)
    if stop.sigma == 0:
        return rate / 2
    return rate * math.log(start.kappa / stop.kappa)


def subdued(gain: Tensor, temperature: float, clamp: float) -> Tensor:
    """Increments [n] divided by a temperature and, around their mean, kept within [-clamp, clamp].

    1 and inf leave them exact. With any others the weighted law is one between that of the mix as it is and the target.
    """
    gain = gain / temperature
    if math.isinf(clamp):
        return gain
    return (gain - gain.nanmean()).clamp(-clamp, clamp)


def even_times(steps: int, first: float, last: float) -> list[float]:
    """Linear times of `steps` levels whose noise-to-signal ratios go from `first` to `last` in equal factors."""
    if steps == 1:
        return [first / (1 + first)]
    ratio = math.log(last / first) / (steps - 1)
    kappas = [first * math.exp(i * ratio) for i in range(steps)]
    return [k / (1 + k) for k in kappas]
