"""Does noise still look like noise? Length, distance from where it began, and a test for structure.

An optimised noise can carry the image in itself, on the shell of the right length too: then the sample is no longer
one of the model's. DNO (Tang et al. 2025, arXiv 2405.18881, section 4) bounds mean and covariance of blocks of
the numbers by concentration inequalities; these are loose, so here the exact laws of the same two statistics are used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 4  # DNO's size of a block
FEWEST = 16  # blocks below which nothing is said


def p_value(z: Tensor) -> float | None:
    """How plausible numbers z [*latent] are as independent standard normal ones; None of too few.

    The least of the p-values of blocks along each axis, times their number (Bonferroni): so at most alpha of all true
    noises get one below alpha. Structure that is neither in the mean of such blocks nor in their covariance is not
    seen; blocks along an axis see what neighbours along it have in common.
    """
    axes = [i for i, n in enumerate(z.shape) if n > 1] or [0]
    values = [p for p in (block_p_value(z.movedim(axis, -1).flatten()) for axis in axes) if p is not None]
    return min(1.0, len(values) * min(values)) if values else None


def block_p_value(z: Tensor, block: int = BLOCK) -> float | None:
    """p-value of numbers z [d], cut into blocks in their order; uniform in [0, 1] of standard normal ones.

    Of m blocks x_i of k numbers, m |mean|^2 is chi-square with k degrees of freedom; the covariance about the mean, S,
    independent of it, is Wishart: n (tr S - log det S - k) with n = m - 1 is chi-square with k (k + 1) / 2, by
    Bartlett's correction of the likelihood ratio (Anderson 2003, section 10.8.4). Both by Fisher's method.
    """
    m, k = len(z) // block, block
    if m < FEWEST:
        return None
    x = z[: m * k].double().cpu().reshape(m, k)
    mean = x.mean(0)
    n = m - 1
    covariance = (x - mean).T @ (x - mean) / n
    sign, logdet = torch.linalg.slogdet(covariance)
    if float(sign) <= 0:  # blocks that are all alike, or in a plane
        return 0.0
    ratio = n * float(covariance.trace() - logdet - k)
    corrected = ratio * (1 - (2 * k**2 + 3 * k - 1) / (6 * n * (k + 1)))
    values = (_above(m * float(mean @ mean), k), _above(corrected, k * (k + 1) // 2))
    if min(values) <= 0:
        return 0.0
    return _above(-2 * sum(map(math.log, values)), 4)


def _above(statistic: float, freedom: int) -> float:
    """The chance of a chi-square number above this one."""
    half = torch.tensor([freedom / 2, max(statistic, 0.0) / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def measured(z: Tensor, start: Tensor) -> dict[str, float]:
    """What became of a noise [*latent] since its start: lengths and distance in units of the shell, sqrt(d)."""
    a, b = z.flatten().double(), start.flatten().double()
    shell = math.sqrt(a.numel())
    both = float(a.norm() * b.norm())
    found = {
        "length": float(a.norm()) / shell,
        "cosine": float(a @ b) / both if both else 0.0,
        "moved": float((a - b).norm()) / shell,
    }
    p = p_value(z)
    if p is not None:
        found["plausibility"] = p
    return {name: float(f"{value:.6g}") for name, value in found.items()}
