"""Kinds of model outputs: the affine map from (output, x) to the pair (x0, eps), and back.

Throughout x = alpha x0 + sigma eps; alpha and sigma are numbers, or tensors broadcastable to [n, 1, ...].
    epsilon       eps                        Ho et al. 2020
    sample        x0
    v_prediction  alpha eps - sigma x0       Salimans & Ho 2022, section 4
    flow          eps - x0                   Liu et al. 2022 (rectified flow), the sign of diffusers
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule

PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow")

Coefficient = float | Tensor


def clean_and_noise(
    kind: str, output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient
) -> tuple[Tensor, Tensor]:
    """The pair (x0, eps) of a model `output` of this kind at latents `x`.

    output, x: [n, *latent]. Returns float32, or float64 if one of them is.
    v and flow are well conditioned at every level. epsilon multiplies its error by kappa = sigma / alpha in x0, and
    sample by 1 / kappa in eps. Where they do not determine the other at all, 0 is returned, the mean of standardised
    data or noise: x0 = 0 for epsilon at alpha = 0, eps = 0 for sample at sigma = 0. ValueError: unknown kind, or shapes
    that differ.
    """
    if output.shape != x.shape:
        raise ValueError(
            f"a model output of shape {list(output.shape)} is not a prediction for latents of shape "
            f"{list(x.shape)}; if it also predicts a variance, split that off first"
        )
    output, x = _same_precision(output, x)
    p, q, r, w = (_beside(c, x) for c in _coefficients(kind, _number(alpha), _number(sigma)))
    return p * x + q * output, r * x + w * output


def convert(kind: str, x0: Tensor, eps: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
    """The model output of this kind that corresponds to a pair: the inverse of `clean_and_noise`.

    x0, eps: [n, *latent]. Returns float32, or float64 if one of them is. ValueError: unknown kind.
    """
    x0, eps = _same_precision(x0, eps)
    if kind == "epsilon":
        return eps
    if kind == "sample":
        return x0
    if kind == "flow":
        return eps - x0
    if kind == "v_prediction":
        return _beside(_number(alpha), x0) * eps - _beside(_number(sigma), x0) * x0
    raise _unknown(kind)


def _coefficients(kind: str, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(p, q, r, w) of x0 = p x + q output and eps = r x + w output, float64."""
    zero, one = torch.zeros_like(a + s), torch.ones_like(a + s)
    if kind == "epsilon":
        p = torch.where(a > 0, 1 / a, zero)
        return p, torch.where(a > 0, -s / a, zero), zero, one
    if kind == "sample":
        r = torch.where(s > 0, 1 / s, zero)
        return zero, one, r, torch.where(s > 0, -a / s, zero)
    if kind == "v_prediction":
        n = a**2 + s**2  # 1 in variance preserving coordinates
        return a / n, -s / n, s / n, a / n
    if kind == "flow":
        n = a + s
        return 1 / n, -s / n, 1 / n, a / n
    raise _unknown(kind)


def _same_precision(*tensors: Tensor) -> list[Tensor]:
    dtype = torch.float32
    for t in tensors:
        dtype = torch.promote_types(dtype, t.dtype)
    return [t.to(dtype) for t in tensors]


def _number(level: Coefficient) -> Tensor:
    return torch.as_tensor(level, dtype=torch.float64, device="cpu")


def _beside(coefficient: Tensor, x: Tensor) -> Tensor:
    """The coefficient in x's dtype and on its device; a single number may stay on the CPU."""
    coefficient = coefficient.to(x.dtype)
    return coefficient.to(x.device) if coefficient.ndim else coefficient


def _unknown(kind: str) -> ValueError:
    return ValueError(f"a prediction is one of {', '.join(PREDICTIONS)}, not {kind!r}")


@dataclass(frozen=True)
class Limit:
    """A bound on clean estimates, for models of pixels in [-1, 1].

    quantile None: estimates are clamped to [-largest, largest]. Otherwise dynamic thresholding (Saharia et al. 2022,
    Imagen, section 2.3): each row is clamped to its own quantile of |x0|, limited to [1, largest], and divided by it.
    """

    largest: float
    quantile: float | None = None

    def __call__(self, x0: Tensor) -> Tensor:
        """x0: [n, *latent]. Each row is limited by itself."""
        if self.quantile is None:
            return x0.clamp(-self.largest, self.largest)
        bound = torch.quantile(x0.abs().flatten(1), self.quantile, dim=1)
        bound = bound.clamp(min=1.0).clamp(max=self.largest).view(-1, *[1] * (x0.ndim - 1))
        return torch.minimum(torch.maximum(x0, -bound), bound) / bound


@dataclass(frozen=True, eq=False)
class View:
    """The meaning of the model outputs of one run: its noise levels, and what the outputs predict.

    kind: one of PREDICTIONS, for `gain * output`. v_prediction refers to the coordinates that the network sees, where x
    has variance 1: x / sqrt(alpha^2 data_std^2 + sigma^2). With alpha = 1 that is EDM preconditioning (Karras et al.
    2022, table 1): c_skip x + c_out output.
    learned_variance: an output with twice the channels of x is cut to its first half.
    limit: the bound that the scheduler applies to clean estimates.
    """

    schedule: NoiseSchedule
    kind: str
    gain: float = 1.0
    data_std: float = 1.0
    learned_variance: bool = False
    limit: Limit | None = None

    def clean_and_noise(self, i: int, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The pair (x0, eps) of model call i: `pair` at that level."""
        return self.pair(self.schedule.level(i), output, x)

    def pair(self, level: NoiseLevel, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The pair (x0, eps) of a model call at any level, with x = alpha x0 + sigma eps also under a limit.

        x: [n, *latent] as given to `scheduler.step`; output: [n, *latent], or [n, 2 channels, ...].
        """
        if self.learned_variance and output.shape[1] == 2 * x.shape[1]:
            output = output[:, : x.shape[1]]
        output, x = _same_precision(output, x)
        alpha, sigma, norm = self._seen(level)
        x0, eps = clean_and_noise(self.kind, self.gain * output, x / norm, alpha, sigma)
        x0 = x0 * self._unit
        if self.limit is not None:
            x0 = self.limit(x0)
            eps = clean_and_noise("sample", x0, x, level.alpha, level.sigma)[1]
        return x0, eps

    def output(self, i: int, x0: Tensor, eps: Tensor) -> Tensor:
        """The model output for a pair at call i: the inverse, without variance and limit."""
        return self.output_at(self.schedule.level(i), x0, eps)

    def output_at(self, level: NoiseLevel, x0: Tensor, eps: Tensor) -> Tensor:
        """The model output for a pair at any level."""
        alpha, sigma, _ = self._seen(level)
        return convert(self.kind, x0 / self._unit, eps, alpha, sigma) / self.gain

    @property
    def _unit(self) -> float:
        return self.data_std if self.kind == "v_prediction" else 1.0

    def _seen(self, level: NoiseLevel) -> tuple[float, float, float]:
        """(alpha, sigma, norm) with x / norm = alpha (x0 / unit) + sigma eps, the coordinates of `kind`."""
        alpha, sigma = level.alpha, level.sigma
        if self.kind != "v_prediction":
            return alpha, sigma, 1.0
        norm = math.hypot(alpha * self.data_std, sigma)
        return alpha * self.data_std / norm, sigma / norm, norm
