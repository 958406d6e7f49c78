"""Moves of Gaussian noise that keep its norm plausible: a standard normal vector in R^d has norm close to sqrt(d).

All functions are row-wise: row i of the result depends only on row i of the arguments. There is no plain
`x + delta * noise`, because its norm is too large.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PARALLEL = 1e-7  # sine of the angle below which two directions span no plane


def neighbour(x: Tensor, cosine: float, noise: Tensor) -> Tensor:
    """A random point at a given angle to x, with the same norm as x.

    y = |x| (c u + sqrt(1 - c^2) w), where c is the cosine, u = x / |x|, and w is the unit vector along the part of
    `noise` that is orthogonal to u. This is the neighbour that W. Ma contributed to tt-scale-flux for the zero-order
    search of Ma et al. 2025 (arXiv 2501.09732), with c = 0.95 (an angle of 18.2 degrees in every dimension).

    x: [n, *latent], or [*latent] for n neighbours of one point. noise: [n, *latent], standard normal. cosine: in
    [-1, 1]. Returns [n, *latent] in the dtype of x, computed in float64: exactly x for cosine 1, and 0 for x = 0.
    ValueError: the cosine is out of range, the shapes do not fit, or the noise is parallel to x.
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
    w = w - (w * u).sum(1, keepdim=True) * u  # twice: round-off matters if the noise is almost parallel to x
    y = length * (cosine * u + math.sqrt(1 - cosine**2) * w / w.norm(dim=1, keepdim=True))
    return _back(y, x)


def mix(x: Tensor, beta: float, noise: Tensor) -> Tensor:
    """Variance-preserving mix sqrt(1 - beta^2) x + beta noise, which is standard normal if x and noise are.

    This is the mutation of EvoSearch (He et al. 2025, arXiv 2505.17618; beta = 0.2 in its code), and the preconditioned
    Crank-Nicolson proposal. The norm is preserved only on average. The angle to x is close to that of `neighbour` with
    cosine sqrt(1 - beta^2).

    x: [n, *latent] or [*latent]. noise: [n, *latent], standard normal. beta: in [0, 1]; 0 gives exactly x, and 1
    exactly the noise. Returns [n, *latent] in the dtype of x. ValueError: beta is out of range, or shapes do not fit.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"the share of fresh noise is in [0, 1], not {beta}")
    x = _as_rows(x, noise)
    y = math.sqrt(1 - beta**2) * _flat64(x) + beta * _flat64(noise)
    return _back(y, x)


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Spherical linear interpolation from a to b (Shoemake 1985).

    The direction moves along the great circle at constant speed, and the norm is interpolated linearly. For equal norms
    this is the usual (sin((1 - t) angle) a + sin(t angle) b) / sin(angle), with t = weight. Rows of (almost) the same
    direction are interpolated along a straight line.

    a, b: [n, *latent], or a: [*latent]. weight: in [0, 1]; 0 gives exactly a, and 1 exactly b. Returns [n, *latent] in
    the dtype of a. ValueError: the weight is out of range, the shapes do not fit, a row is zero, or two rows have
    opposite directions, so that no arc between them is the shortest.
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
    angle = 2 * torch.atan2(half_gap, half_sum)  # accurate for small angles, unlike acos
    arc = (torch.sin((1 - weight) * angle) * u + torch.sin(weight * angle) * v) / torch.sin(angle)
    direction = torch.where(half_gap < _PARALLEL, (1 - weight) * u + weight * v, arc)
    return _back(((1 - weight) * length_p + weight * length_q) * direction, a)


def _as_rows(x: Tensor, noise: Tensor) -> Tensor:
    """x, [n, *latent] or [*latent], expanded to the shape [n, *latent] of the noise."""
    fits = x.shape == noise.shape or x.shape == noise.shape[1:]
    if not fits or noise.ndim < 2:
        raise ValueError(
            f"noise is [n, *latent] and x the same or [*latent], not {list(noise.shape)} and {list(x.shape)}"
        )
    return x.expand_as(noise)


def _flat64(x: Tensor) -> Tensor:
    """Rows as float64 vectors [n, d]; on the CPU if the device (mps) has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64).flatten(1)


def _back(y: Tensor, x: Tensor) -> Tensor:
    return y.view(x.shape).to(x.device, x.dtype)
