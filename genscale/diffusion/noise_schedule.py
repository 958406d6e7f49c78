"""Noise levels of a reverse process, x_i = alpha_i x0 + sigma_i eps, and the forward kernel between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SAME = 1e-12  # relative difference below which two float64 noise levels are equal


@dataclass(frozen=True)
class NoiseLevel:
    """One noise level of the latents, x = alpha x0 + sigma eps; both >= 0, never both 0."""

    alpha: float
    sigma: float

    @property
    def kappa(self) -> float:
        """Noise-to-signal ratio sigma / alpha in [0, inf]."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def time(self) -> float:
        """Time of the rectified-flow interpolant at equal noise-to-signal ratio, in [0, 1]."""
        return self.sigma / (self.alpha + self.sigma) if self.sigma < math.inf else 1.0


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noise levels of a run, in the coordinates of the latents that a pipeline gives to `scheduler.step`.

    alpha, sigma: [steps + 1], >= 0, never both 0; kept as float64 on the CPU. Row i is the level of the latents that
    enter model call i, the last row that of the result (normally clean: sigma = 0). k-diffusion style schedulers have
    alpha = 1, variance preserving ones alpha^2 + sigma^2 = 1, rectified flows alpha + sigma = 1. Second-order solvers
    may repeat levels or go below the next one. ValueError: other shapes or values.
    """

    alpha: Tensor
    sigma: Tensor

    def __post_init__(self) -> None:
        for name in ("alpha", "sigma"):
            level = torch.as_tensor(getattr(self, name)).detach().to("cpu", torch.float64)
            object.__setattr__(self, name, level)
        if self.alpha.ndim != 1 or self.alpha.shape != self.sigma.shape or len(self.alpha) < 2:
            raise ValueError(
                "a noise schedule is two vectors [steps + 1], steps >= 1, not "
                f"alpha {list(self.alpha.shape)} and sigma {list(self.sigma.shape)}"
            )
        level = torch.stack([self.alpha, self.sigma])
        if not (level.isfinite().all() and (level >= 0).all() and (level.sum(0) > 0).all()):
            raise ValueError(f"noise levels are finite, >= 0 and not both 0, unlike (alpha, sigma) = {level}")

    @property
    def steps(self) -> int:
        """Number of model calls."""
        return len(self.alpha) - 1

    @property
    def kappa(self) -> Tensor:
        """Noise-to-signal ratio sigma / alpha [steps + 1], in [0, inf]; it does not depend on the interpolant."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> Tensor:
        """log(alpha^2 / sigma^2) [steps + 1] in nats: -inf for pure noise, inf for clean latents."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def linear_time(self) -> Tensor:
        """Time of the rectified-flow interpolant at equal SNR, kappa / (1 + kappa) [steps + 1], in [0, 1]."""
        return self.sigma / (self.alpha + self.sigma)

    def level(self, i: int) -> NoiseLevel:
        """The noise level of row i."""
        return NoiseLevel(float(self.alpha[i]), float(self.sigma[i]))

    def between(self, time: float) -> NoiseLevel:
        """The level at a linear time in [0, 1] in these coordinates, on the grid or between its levels.

        ValueError: alpha and sigma satisfy none of alpha = 1, alpha + sigma = 1 and alpha^2 + sigma^2 = 1.
        """
        if torch.allclose(self.alpha, torch.ones_like(self.alpha)):
            return NoiseLevel(1.0, time / (1 - time) if time < 1 else math.inf)
        if torch.allclose(self.alpha + self.sigma, torch.ones_like(self.alpha)):
            return NoiseLevel(1 - time, time)
        if torch.allclose(self.alpha**2 + self.sigma**2, torch.ones_like(self.alpha), atol=1e-6):
            norm = math.hypot(1 - time, time)
            return NoiseLevel((1 - time) / norm, time / norm)
        raise ValueError("these noise levels follow no known interpolant, so none can be put between them")

    def nearest(self, time: float) -> int:
        """Index in [0, steps] of the level whose `linear_time` is nearest to `time`.

        The last row (clean latents) is included. Of two equally near levels the noisier one, of equal levels the first.
        """
        times = self.linear_time
        distance = (times - time).abs()
        nearest = distance <= distance.min() + _SAME
        return int(torch.where(nearest, times, -1.0).argmax())

    def forward_kernel(self, start: int, stop: int) -> tuple[float, float]:
        """(scale, std) of the forward kernel x_stop = scale x_start + std z from a level to a noisier one.

        scale = alpha_stop / alpha_start and std^2 = sigma_stop^2 - scale^2 sigma_start^2 (DDPM, Ho et al. 2020, eq. 4,
        for any interpolant). Between two levels of pure noise std is 0.
        ValueError: `stop` is less noisy than `start`.
        """
        alpha, sigma = float(self.alpha[start]), float(self.sigma[start])
        alpha_to, sigma_to = float(self.alpha[stop]), float(self.sigma[stop])
        if alpha == alpha_to == 0:
            return sigma_to / sigma, 0.0
        scale = alpha_to / alpha if alpha > 0 else math.inf
        added = sigma_to - scale * sigma
        if added < -_SAME * sigma:
            raise ValueError(
                f"level {stop} (linear time {self.linear_time[stop]:.4g}) is less noisy than level {start} "
                f"({self.linear_time[start]:.4g}): noise can only be added, so choose an earlier level"
            )
        if added <= _SAME * sigma:
            return scale, 0.0
        return scale, math.sqrt(added * (sigma_to + scale * sigma))

    def renoise(self, x: Tensor, start: int, stop: int, noise: Tensor) -> Tensor:
        """Take latents of level `start` to the noisier level `stop` with the forward kernel.

        x, noise: [n, *latent], noise standard normal. Computed in at least float32, returned in x's dtype; x itself
        for equal levels. ValueError: `stop` is less noisy, or the shapes differ.
        """
        if noise.shape != x.shape:
            raise ValueError(f"renoising {list(x.shape)} needs noise of that shape, not {list(noise.shape)}")
        scale, std = self.forward_kernel(start, stop)
        if scale == 1 and std == 0:
            return x
        dtype = torch.promote_types(x.dtype, torch.float32)
        return (scale * x.to(dtype) + std * noise.to(x.device, dtype)).to(x.dtype)
