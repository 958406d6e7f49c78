"""Measures of how much an optimised noise still looks like Gaussian noise: norm, distance from its start, and a test.

Optimised noise can encode the image itself, even if its norm is plausible. The result is then no longer a sample of the
model. DNO (Tang et al. 2025, arXiv 2405.18881, section 4) bounds the mean and the covariance of blocks of entries by
concentration inequalities. These bounds are loose, so this module uses the distributions of the same two statistics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 4  # entries of a block, as in DNO
FEWEST = 16  # with fewer blocks there is no p-value


def p_value(z: Tensor) -> float | None:
    """p-value in [0, 1] of the hypothesis that the entries of z [*latent] are independent standard normal numbers.

    It is the smallest p-value of `block_p_value` along any axis, times the number of axes (Bonferroni correction), so
    at most a fraction alpha of true noises get a p-value below alpha. Blocks along an axis detect correlations of
    neighbours along it. Structure that changes neither the mean nor the covariance of the blocks is not detected.
    None: there are too few entries.
    """
    axes = [i for i, n in enumerate(z.shape) if n > 1] or [0]
    values = [p for p in (block_p_value(z.movedim(axis, -1).flatten()) for axis in axes) if p is not None]
    return min(1.0, len(values) * min(values)) if values else None


def block_p_value(z: Tensor, block: int = BLOCK) -> float | None:
    """p-value of z [d], cut into consecutive blocks of `block` entries; uniform in [0, 1] if z is standard normal.

    For m blocks x_i of k entries there are two independent statistics. m |mean|^2 is chi-square with k degrees of
    freedom. The covariance S about the mean is Wishart with n = m - 1, so n (tr S - log det S - k) is chi-square with
    k (k + 1) / 2 degrees of freedom after Bartlett's correction of the likelihood ratio (Anderson 2003, section
    10.8.4). Fisher's method combines the two p-values. None: there are fewer than FEWEST blocks.
    """
    m, k = len(z) // block, block
    if m < FEWEST:
        return None
    x = z[: m * k].double().cpu().reshape(m, k)
    mean = x.mean(0)
    n = m - 1
    covariance = (x - mean).T @ (x - mean) / n
    sign, logdet = torch.linalg.slogdet(covariance)
    if float(sign) <= 0:  # a singular covariance, such as that of equal blocks
        return 0.0
    ratio = n * float(covariance.trace() - logdet - k)
    corrected = ratio * (1 - (2 * k**2 + 3 * k - 1) / (6 * n * (k + 1)))
    values = (_above(m * float(mean @ mean), k), _above(corrected, k * (k + 1) // 2))
    if min(values) <= 0:
        return 0.0
    return _above(-2 * sum(map(math.log, values)), 4)


def _above(statistic: float, freedom: int) -> float:
    """P(X >= statistic) for a chi-square variable X with `freedom` degrees of freedom."""
    half = torch.tensor([freedom / 2, max(statistic, 0.0) / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def measured(z: Tensor, start: Tensor) -> dict[str, float]:
    """Measures of an optimised noise z [*latent] against the noise from which it started.

    length: |z| / sqrt(d). cosine: of the angle between the two. moved: distance of the two / sqrt(d). plausibility:
    `p_value` of z, left out if there is none.
    """
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
