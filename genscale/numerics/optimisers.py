"""Ascent on rows of numbers: what every optimiser of noise is made of. Row i of a result depends on row i alone.

Points, gradients and states are float32 [n, ...]; an optimiser is told the objective and its gradient at the points
that it gave last, and gives the next ones. One evaluation a turn, so a turn has one price.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Optimiser(Protocol):
    """State of n rows on their way up."""

    def next(self, points: Tensor, objective: Tensor, gradient: Tensor) -> Tensor:
        """The points to evaluate next. points, gradient: [n, ...]; objective: float64 [n], higher is better."""


def rowwise(values: Tensor, like: Tensor) -> Tensor:
    """[n] as [n, 1, ...], to multiply rows with."""
    return values.view(-1, *[1] * (like.ndim - 1))


def clipped(gradient: Tensor, most: float | None) -> Tensor:
    """Rows shortened to the length `most`; the tiny number in it is that of torch's clip_grad_norm_."""
    if most is None:
        return gradient
    factor = (most / (gradient.flatten(1).norm(dim=1) + 1e-6)).clamp(max=1.0)
    return gradient * rowwise(factor, gradient)


# ---------------------------------------------------------------- the shell of the noise


def shell_penalty(z: Tensor) -> Tensor:
    """0.5 |z|^2 - (d - 1) log |z|, float64 [n]: minus the log-density of the length of standard normal noise.

    ReNO (Eyring et al. 2024, arXiv 2406.04312, eq. 4), after Samuel et al. 2023. The least is at |z| = sqrt(d - 1).
    Worked out in float64: in half precision its value overflows (ReNO's issue 4).
    """
    squared = z.flatten(1).double().square().sum(1)
    return 0.5 * squared - 0.5 * (z[0].numel() - 1) * squared.clamp(min=torch.finfo(torch.float64).tiny).log()


def shell_gradient(z: Tensor) -> Tensor:
    """The gradient of `shell_penalty`, z (1 - (d - 1) / |z|^2): along the radius only; 0 at the origin."""
    squared = z.flatten(1).double().square().sum(1)
    inward = (z[0].numel() - 1) / squared.clamp(min=torch.finfo(torch.float64).tiny)
    return z * rowwise(torch.where(squared > 0, 1 - inward, 0.0).to(z), z)


# ---------------------------------------------------------------- first order


class Momentum:
    """Gradient ascent with momentum: torch.optim.SGD's recursion, Nesterov's variant of it if asked.

    buffer = momentum buffer + g (at first g); step = lr (g + momentum buffer), or lr buffer without Nesterov.
    """

    def __init__(self, lr: float, momentum: float = 0.9, nesterov: bool = True) -> None:
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov
        self.buffer: Tensor | None = None

    def next(self, points: Tensor, objective: Tensor, gradient: Tensor) -> Tensor:
        self.buffer = gradient if self.buffer is None else self.momentum * self.buffer + gradient
        step = gradient + self.momentum * self.buffer if self.nesterov else self.buffer
        return points + self.lr * step


class Adam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1), as torch.optim.Adam; no weight decay."""

    def __init__(self, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps
        self.mean: Tensor | None = None
        self.square: Tensor | None = None
        self.turns = 0

    def next(self, points: Tensor, objective: Tensor, gradient: Tensor) -> Tensor:
        first, second = self.betas
        if self.mean is None or self.square is None:
            self.mean, self.square = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.turns += 1
        self.mean = first * self.mean + (1 - first) * gradient
        self.square = second * self.square + (1 - second) * gradient.square()
        mean = self.mean / (1 - first**self.turns)
        root = (self.square / (1 - second**self.turns)).sqrt()
        return points + self.lr * mean / (root + self.eps)
