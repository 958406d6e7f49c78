"""Proposals that follow the gradient of the score: a transition moved by its variance times a gradient."""

from __future__ import annotations

import math

from torch import Tensor

from genscale.diffusion.kernels import Transition
from genscale.diffusion.noise_schedule import NoiseLevel

NONE, MODEL, DECODER = "none", "model", "decoder"
THROUGH = (NONE, MODEL, DECODER)


def twisted(base: Transition, slope: Tensor, reach: float = math.inf) -> Transition:
    """The transition with mean + std^2 slope as its mean, which is N(mean, std^2) tilted by exp(slope . x).

    This is the twisted proposal of TDS (Wu et al. 2023, arXiv 2306.17775) with slope = grad log p(y | x0 estimate), and
    that of DAS (Kim et al. 2025, arXiv 2501.05803) with slope = lambda grad r / alpha. Both take the gradient at the
    state before the step. slope: [n, *latent]. reach: largest norm of the shift of a row, in standard deviations; the
    KL divergence of the proposal from the kernel is then at most reach^2 / 2. The papers have no such limit.
    """
    shift = base.std**2 * slope.to(base.mean)
    if math.isfinite(reach):
        length = shift.flatten(1).norm(dim=1).clamp_min(1e-30)
        factor = (reach * base.std / length).clamp_max(1.0)
        shift = shift * factor.reshape(-1, *[1] * (shift.ndim - 1))
    return Transition(base.mean + shift, base.std)


def slope_factor(through: str, level: NoiseLevel) -> float:
    """The factor that turns the result of a gradient query into the gradient with respect to the state.

    If only the decoder is differentiated, the query returns 1 / alpha times the gradient at the clean estimate. That
    treats the noise as constant and is far too steep near pure noise. The denoiser of unit-variance data has
    d x0 / d x = alpha / (alpha^2 + sigma^2), which is used instead. The weights make either choice exact, and they are
    more even with this one.
    """
    return 1.0 if through != DECODER else level.alpha**2 / (level.alpha**2 + level.sigma**2)
