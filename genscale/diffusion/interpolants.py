"""Interpolants x_t = alpha_t x0 + sigma_t eps, and the predictions of a model in each of them.

Time runs towards noise; a prime is d/dt. With D = alpha sigma' - alpha' sigma > 0:

    u = alpha' x0 + sigma' eps    flow velocity (Lipman et al. 2023; the sign of diffusers)
    s = -eps / sigma              score, grad log p_t(x) (Song et al. 2021)
    v = alpha eps - sigma x0      v-prediction (Salimans & Ho 2022)

At a given (x, t) each of them is an affine function of any other. At equal noise-to-signal ratio kappa = sigma / alpha,
x / alpha is the same variable for all interpolants. A model trained on one interpolant can therefore be sampled along
any other (Kim et al. 2025, arXiv 2503.19385, section 4.2; Karras et al. 2022). All numbers are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # x0, eps
NAMES = ("linear", "vp", "cosine", "ve", "polynomial")


@dataclass(frozen=True)
class Interpolant:
    """An interpolant. name: one of NAMES. order: exponent of the "polynomial" interpolant (1 is "linear").

    beta_min, beta_max: of "vp" (variance preserving), which has alpha = exp(-T / 2) with T = (beta_max - beta_min)
    t^2 / 2 + beta_min t (Song et al. 2021; 0.1 and 20 are the values of DDPM and of RBF). Times are in [0, 1], except
    for "ve" (variance exploding), where t is sigma itself, in [0, inf).
    """

    name: str = "linear"
    order: float = 1.0
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"an interpolant is one of {', '.join(NAMES)}, not '{self.name}'")
        if self.order <= 0 or not 0 < self.beta_min <= self.beta_max:
            raise ValueError("an interpolant needs an order above 0 and 0 < beta_min <= beta_max")

    def level(self, t: float) -> tuple[float, float]:
        """(alpha, sigma) at a time."""
        if self.name == "ve":
            return 1.0, t
        if self.name == "cosine":
            return math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
        if self.name == "vp":
            total = self._total(t)
            return math.exp(-total / 2), math.sqrt(-math.expm1(-total))  # 1 - exp loses its digits near 0
        power = t**self._order
        return 1 - power, power

    def rates(self, t: float) -> tuple[float, float]:
        """(alpha', sigma') at a time in (0, 1)."""
        alpha, sigma = self.level(t)
        if self.name == "ve":
            return 0.0, 1.0
        if self.name == "cosine":
            return -math.pi / 2 * sigma, math.pi / 2 * alpha
        if self.name == "vp":
            beta = (self.beta_max - self.beta_min) * t + self.beta_min
            return -beta * alpha / 2, beta * alpha**2 / (2 * sigma)
        slope = self._order * t ** (self._order - 1)
        return -slope, slope

    def time(self, kappa: float) -> float:
        """The time at which sigma / alpha is kappa, in [0, inf]."""
        if self.name == "ve" or (self.name == "vp" and math.isinf(kappa)):
            return kappa
        if self.name == "cosine":
            return math.atan(kappa) * 2 / math.pi
        if self.name == "vp":
            total, slope = math.log1p(kappa**2), self.beta_max - self.beta_min
            if slope == 0:
                return total / self.beta_min
            return 2 * total / (self.beta_min + math.sqrt(self.beta_min**2 + 2 * slope * total))
        share = 1.0 if math.isinf(kappa) else kappa / (1 + kappa)
        return float(share ** (1 / self._order))

    def kappa(self, t: float) -> float:
        """sigma / alpha at a time; inf where there is no signal."""
        alpha, sigma = self.level(t)
        return sigma / alpha if alpha > 0 else math.inf

    def wronskian(self, t: float) -> float:
        """D = alpha sigma' - alpha' sigma."""
        (alpha, sigma), (d_alpha, d_sigma) = self.level(t), self.rates(t)
        return alpha * d_sigma - d_alpha * sigma

    def diffusion(self, t: float) -> float:
        """2 sigma D / alpha: the squared noise rate g^2 of the time reversal of the forward process (churn 1)."""
        alpha, sigma = self.level(t)
        return 2 * sigma * self.wronskian(t) / alpha

    # ---- conversions between predictions at latents x of time t and the pair (x0, eps)

    def velocity(self, t: float, x0: Tensor, eps: Tensor) -> Tensor:
        d_alpha, d_sigma = self.rates(t)
        return d_alpha * x0 + d_sigma * eps

    def score(self, t: float, eps: Tensor) -> Tensor:
        return -eps / self.level(t)[1]

    def from_velocity(self, t: float, x: Tensor, u: Tensor) -> Pair:
        (alpha, sigma), (d_alpha, d_sigma), d = self.level(t), self.rates(t), self.wronskian(t)
        return (d_sigma * x - sigma * u) / d, (alpha * u - d_alpha * x) / d

    def from_score(self, t: float, x: Tensor, score: Tensor) -> Pair:
        alpha, sigma = self.level(t)
        return (x + sigma**2 * score) / alpha, -sigma * score

    @property
    def _order(self) -> float:
        return self.order if self.name == "polynomial" else 1.0

    def _total(self, t: float) -> float:
        return (self.beta_max - self.beta_min) * t**2 / 2 + self.beta_min * t


def named(text: str) -> Interpolant:
    """An interpolant from its name; "polynomial:2" with its order. ValueError: unknown name."""
    name, _, order = text.partition(":")
    return Interpolant(name, float(order)) if order else Interpolant(name)


LINEAR = Interpolant("linear")
VP = Interpolant("vp")


def rbf_times(steps: int, start: float = math.inf) -> Tensor:
    """RBF's time grid, sqrt(1 - (1 - u)^2) for u from 1 down to 1 / steps, as linear times [steps], decreasing.

    (Kim et al. 2025, arXiv 2503.19385, section 5.2, "exp" in its code.) The grid is meant for the variance preserving
    interpolant. With 10 steps all model calls are then above linear time 0.70, which suits models with a good one-step
    clean estimate, such as distilled ones. start: noise-to-signal ratio at which the pipeline begins. If it is less
    than that at time 1, the grid is shrunk to begin there.
    """
    u = 1 - torch.arange(steps, dtype=torch.float64) / steps
    first = min(VP.time(start), 1.0)
    kappas = [VP.kappa(first * math.sqrt(1 - (1 - float(v)) ** 2)) for v in u]
    return torch.tensor([1.0 if math.isinf(k) else k / (1 + k) for k in kappas], dtype=torch.float64)
