"""Optimisers that maximise an objective of noise, and the norm penalty and gradient clipping that they share.

All are row-wise: row i of a result depends only on row i of the arguments. Points, gradients and states are float32
[n, ...]. An optimiser gets the objective and its gradient at the points that it proposed last, and returns the next
points. Every iteration makes exactly one evaluation, so all iterations cost the same.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Optimiser(Protocol):
    """An optimiser that maximises an objective on n rows, with its state."""

    def next(self, points: Tensor, objective: Tensor, gradient: Tensor) -> Tensor:
        """The points to evaluate next. points, gradient: [n, ...]; objective: float64 [n], higher is better."""


def rowwise(values: Tensor, like: Tensor) -> Tensor:
    """Values [n] as [n, 1, ...], to multiply the rows of `like` [n, ...] by them."""
    return values.view(-1, *[1] * (like.ndim - 1))


def clipped(gradient: Tensor, most: float | None) -> Tensor:
    """The gradient [n, ...] with the norm of each row clipped to `most` (None: unchanged). The constant added to the
    norm is that of torch's clip_grad_norm_."""
    if most is None:
        return gradient
    factor = (most / (gradient.flatten(1).norm(dim=1) + 1e-6)).clamp(max=1.0)
    return gradient * rowwise(factor, gradient)


# ---------------------------------------------------------------- norm penalty


def shell_penalty(z: Tensor) -> Tensor:
    """0.5 |z|^2 - (d - 1) log |z|, float64 [n]: minus the log-density of the norm of standard normal noise z [n, ...].

    From ReNO (Eyring et al. 2024, arXiv 2406.04312, eq. 4), after Samuel et al. 2023. The minimum is at |z| =
    sqrt(d - 1). Computed in float64, because the value overflows in half precision (issue 4 of ReNO's repository).
    """
    squared = z.flatten(1).double().square().sum(1)
    return 0.5 * squared - 0.5 * (z[0].numel() - 1) * squared.clamp(min=torch.finfo(torch.float64).tiny).log()


def shell_gradient(z: Tensor) -> Tensor:
    """The gradient [n, ...] of `shell_penalty`, z (1 - (d - 1) / |z|^2): parallel to z, and 0 at the origin."""
    squared = z.flatten(1).double().square().sum(1)
    inward = (z[0].numel() - 1) / squared.clamp(min=torch.finfo(torch.float64).tiny)
    return z * rowwise(torch.where(squared > 0, 1 - inward, 0.0).to(z), z)


# ---------------------------------------------------------------- first order


class Momentum:
    """Gradient ascent with momentum, as torch.optim.SGD with maximize=True.

    buffer <- momentum * buffer + g (at first g). With nesterov the step is lr * (g + momentum * buffer), else
    lr * buffer.
    """

    def __init__(self, lr: float, momentum: float = 0.9, nesterov: bool = True) -> None:
        self.lr, self.momentum, self.nesterov = lr, momentum, nesterov
        self.buffer: Tensor | None = None

    def next(self, points: Tensor, objective: Tensor, gradient: Tensor) -> Tensor:
        self.buffer = gradient if self.buffer is None else self.momentum * self.buffer + gradient
        step = gradient + self.momentum * self.buffer if self.nesterov else self.buffer
        return points + self.lr * step


class Adam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980, algorithm 1), as torch.optim.Adam with maximize=True."""

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
