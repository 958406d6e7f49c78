"""Proposals that follow the gradient of the score: a transition moved by its variance times a gradient."""

from __future__ import annotations

import math

from torch import Tensor

from genscale.diffusion.kernels import Transition
from genscale.diffusion.noise_schedule import NoiseLevel

NONE, MODEL, DECODER = "none", "model", "decoder"
THROUGH = (NONE, MODEL, DECODER)


def twisted(base: Transition, slope: Tensor, reach: float = math.inf) -> Transition:
    """mean + std^2 slope: N(mean, std^2) tilted by exp(slope . x).

    The twisted proposal of TDS (Wu et al. 2023, arXiv 2306.17775) with slope = grad log p(y | x0 estimate), and that of
    DAS (Kim et al. 2025, arXiv 2501.05803) with slope = lambda grad r / alpha; both take the gradient at the state that
    is stepped from. slope: [n, *latent]. reach: the most standard deviations, as a norm, by which a row is moved, so
    that the proposal's KL divergence from the kernel is at most reach^2 / 2 (the papers set no such limit).
    """
    shift = base.std**2 * slope.to(base.mean)
    if math.isfinite(reach):
        length = shift.flatten(1).norm(dim=1).clamp_min(1e-30)
        factor = (reach * base.std / length).clamp_max(1.0)
        shift = shift * factor.reshape(-1, *[1] * (shift.ndim - 1))
    return Transition(base.mean + shift, base.std)


def slope_factor(through: str, level: NoiseLevel) -> float:
    """The factor that makes a gradient query's result a gradient at the state.

    Through the decoder it is 1 / alpha times the gradient at the clean estimate, as if only the signal could
    change, which is far too steep near pure noise. The denoiser of unit-variance data has d x0 / d x = alpha /
    (alpha^2 + sigma^2), which is used instead. The weights make either exact; this one keeps them more even.
    """
    return 1.0 if through != DECODER else level.alpha**2 / (level.alpha**2 + level.sigma**2)
