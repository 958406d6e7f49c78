"""Moves on the sphere that Gaussian noise lives on: a normal vector of d numbers has length close to sqrt(d).

All are per row: row i of the result depends on row i of the arguments alone. `x + delta * noise`
without a correction is not among them, because it leaves the sphere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PARALLEL = 1e-7  # sine of the angle below which two directions span no plane


def neighbour(x: Tensor, cosine: float, noise: Tensor) -> Tensor:
    """A point at a given angle from x and at the same distance from the origin.

    y = |x| (c u + sqrt(1 - c^2) w) with u = x / |x| and w the unit vector of `noise` made orthogonal to
    u: the neighbour that W. Ma contributed to tt-scale-flux for the zero-order search of Ma et al. 2025
    (arXiv 2501.09732), which uses c = 0.95 (an angle of 18.2 degrees, whatever the dimension).

    x: [n, *latent], or [*latent] for n neighbours of one point. noise: [n, *latent], standard normal.
    cosine in [-1, 1]. Returns [n, *latent] of x's dtype, worked out in float64; exactly x for cosine 1,
    and 0 for x = 0. ValueError: cosine out of range, shapes that do not fit, or noise parallel to x.
    """
    if not -1 <= cosine <= 1:
        raise ValueError(f"the cosine between neighbours is in [-1, 1], not {cosine}")
    x = _as_rows(x, noise)
    if cosine == 1:
        return x
    rows, z = _flat64(x), _flat64(noise)
    length = rows.norm(dim=1, keepdim=True)
    u = rows / length.clamp(min=torch.finfo(torch.float64).tiny)
    w = z - (z * u).sum(1, keepdim=True) * u
    across = w.norm(dim=1, keepdim=True)
    if (across <= _PARALLEL * z.norm(dim=1, keepdim=True)).any():
        raise ValueError("a row of noise is zero or parallel to x and names no direction: draw it again")
    w = w - (w * u).sum(1, keepdim=True) * u  # again: rounding counts where little of the noise is across
    y = length * (cosine * u + math.sqrt(1 - cosine**2) * w / w.norm(dim=1, keepdim=True))
    return _back(y, x)


def mix(x: Tensor, beta: float, noise: Tensor) -> Tensor:
    """Variance-preserving mix sqrt(1 - beta^2) x + beta noise: standard normal if both are.

    The mutation of EvoSearch (He et al. 2025, arXiv 2505.17618; its code has beta = 0.2), and the
    preconditioned Crank-Nicolson proposal. The length is kept on average only; the angle is close to
    that of `neighbour` with cosine sqrt(1 - beta^2).

    x: [n, *latent] or [*latent]; noise: [n, *latent]. beta in [0, 1]: 0 gives exactly x, 1 exactly the
    noise. Returns x's dtype. ValueError: beta out of range, or shapes that do not fit.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"the share of fresh noise is in [0, 1], not {beta}")
    x = _as_rows(x, noise)
    y = math.sqrt(1 - beta**2) * _flat64(x) + beta * _flat64(noise)
    return _back(y, x)


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The point a share `weight` of the way along the arc from a to b (Shoemake 1985).

    Directions go along the great circle at even speed, lengths linearly; for equal lengths this is the
    usual sin((1 - t) angle) a + sin(t angle) b over sin(angle). a, b: [n, *latent] (or a: [*latent]).
    weight in [0, 1]: 0 gives exactly a, 1 exactly b. Returns a's dtype. Rows with (almost) one direction
    are joined by a straight line. ValueError: weight out of range, shapes that do not fit, a row that
    is zero, or opposite rows, between which no arc is the shortest.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"the share of the way is in [0, 1], not {weight}")
    a = _as_rows(a, b)
    if weight in (0, 1):
        return a if weight == 0 else b.to(a.device, a.dtype)
    p, q = _flat64(a), _flat64(b)
    length_p, length_q = p.norm(dim=1, keepdim=True), q.norm(dim=1, keepdim=True)
    if (length_p == 0).any() or (length_q == 0).any():
        raise ValueError("a row of zeros has no direction to turn from or to")
    u, v = p / length_p, q / length_q
    half_sum, half_gap = (u + v).norm(dim=1, keepdim=True), (u - v).norm(dim=1, keepdim=True)
    if (half_sum < _PARALLEL).any():
        raise ValueError("two rows point in opposite directions, so no arc between them is the shortest")
    angle = 2 * torch.atan2(half_gap, half_sum)  # exact for small angles, where acos is not
    arc = (torch.sin((1 - weight) * angle) * u + torch.sin(weight * angle) * v) / torch.sin(angle)
    direction = torch.where(half_gap < _PARALLEL, (1 - weight) * u + weight * v, arc)
    return _back(((1 - weight) * length_p + weight * length_q) * direction, a)


def _as_rows(x: Tensor, noise: Tensor) -> Tensor:
    """x as [n, *latent], the shape of noise."""
    fits = x.shape == noise.shape or x.shape == noise.shape[1:]
    if not fits or noise.ndim < 2:
        raise ValueError(
            f"noise is [n, *latent] and x the same or [*latent], not {list(noise.shape)} and {list(x.shape)}"
        )
    return x.expand_as(noise)


def _flat64(x: Tensor) -> Tensor:
    """Rows as float64 vectors [n, d]; on the CPU where the device (mps) has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64).flatten(1)


def _back(y: Tensor, x: Tensor) -> Tensor:
    return y.view(x.shape).to(x.device, x.dtype)
