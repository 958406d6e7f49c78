"""How far a sampler's law is from the wanted one, and how sure that is.

A run gives draws; runs are independent, draws within one are not. So all estimates are U-statistics over pairs of
*runs*, and errors come from resampling runs: `counts` [b, runs] says how often each run is taken in b resamples. A
pair of a run with itself never counts, not even where it was drawn twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Law(Protocol):
    """What is wanted, as a kernel sees it."""

    def mean_kernel(self, x: Tensor, width: float) -> Tensor:
        """E k(x, Y) for every row of x [n, d]: [n]."""

    def own_kernel(self, width: float) -> float:
        """E k(Y, Y'), both of the law and independent."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """A law that is known by independent samples [n, d]."""

    x: Tensor

    def mean_kernel(self, x: Tensor, width: float) -> Tensor:
        return rbf(x, self.x, width).mean(1)

    def own_kernel(self, width: float) -> float:
        n = len(self.x)
        return float((rbf(self.x, self.x, width).sum() - n) / (n * (n - 1)))


def rbf(x: Tensor, y: Tensor, width: float) -> Tensor:
    """exp(-|x - y|^2 / (2 width^2)): [n, d], [m, d] -> float64 [n, m]."""
    return (-squared_distances(x, y) / (2 * width**2)).exp()


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").square()


def between(draws: Tensor, width: float) -> Tensor:
    """Mean kernel between the draws [runs, m, d] of every two runs: [runs, runs]."""
    runs, m, d = draws.shape
    flat = draws.reshape(-1, d)
    rows = [rbf(one, flat, width).view(m, runs, m).mean((0, 2)) for one in draws]
    return torch.stack(rows)


def pairs_mean(matrix: Tensor, counts: Tensor) -> Tensor:
    """Mean of a [runs, runs] matrix over pairs of different runs: counts [b, runs] -> [b]."""
    off = matrix - torch.diag(matrix.diagonal())
    ones = 1 - torch.eye(len(matrix), dtype=matrix.dtype)
    return ((counts @ off) * counts).sum(1) / ((counts @ ones) * counts).sum(1)


def runs_mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of one number a run: [b]."""
    return counts @ values / counts.sum(1)


def squared_mmd(draws: Tensor, law: Law, width: float, counts: Tensor) -> Tensor:
    """Unbiased squared MMD (Gretton et al. 2012, lemma 6) of the law of one draw of one run: [b]. May be below 0.

    draws: [runs, m, d], each drawn by its run's weights; m > 1 makes the estimate surer and estimates the same.
    """
    runs, m, d = draws.shape
    cross = law.mean_kernel(draws.reshape(-1, d), width).view(runs, m).mean(1)
    return pairs_mean(between(draws, width), counts) - 2 * runs_mean(cross, counts) + law.own_kernel(width)


def squared_mmd_of_one(x: Tensor, weights: Tensor, law: Law, width: float) -> float:
    """Squared MMD of one run's weighted population itself, as a discrete law: x [n, d], weights [n]."""
    keep = weights > 0
    x, w = x[keep], weights[keep]
    return float(w @ rbf(x, x, width) @ w - 2 * w @ law.mean_kernel(x, width)) + law.own_kernel(width)


def frechet(x: Tensor, real: Tensor, counts: Tensor) -> Tensor:
    """Frechet distance of Gaussians fitted to features x [n, d], resampled by counts [b, n], and real [m, d]: [b].

    It is biased upwards by about 1 / n; compare only at equal n.
    """
    x, real = x.double(), real.double()
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ x
    n = counts.sum(1)[:, None, None]
    cov = torch.einsum("bn,ni,nj->bij", share, x, x) - mean[:, :, None] * mean[:, None]
    cov = cov * n / (n - 1)
    wanted = torch.cov(real.T)
    value, vector = torch.linalg.eigh(wanted)
    root = (vector * value.clamp(min=0).sqrt()) @ vector.T
    both = torch.linalg.eigvalsh(root @ cov @ root).clamp(min=0).sqrt().sum(1)
    gap = (mean - real.mean(0)).square().sum(1)
    return gap + cov.diagonal(dim1=1, dim2=2).sum(1) + wanted.trace() - 2 * both


def resamples(groups: Sequence[int], b: int, seed: int = 0) -> Tensor:
    """Counts [1 + b, runs]: first every run once, then b bootstrap resamples, each within the groups of runs."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.as_tensor(groups)
    counts = torch.zeros(1 + b, len(labels), dtype=torch.float64)
    counts[0] = 1
    for group in labels.unique():
        rows = (labels == group).nonzero()[:, 0]
        taken = rows[torch.randint(len(rows), (b, len(rows)), generator=g)]
        counts[1:].scatter_add_(1, taken, torch.ones(taken.shape, dtype=torch.float64))
    return counts


def interval(values: Tensor) -> tuple[float, float]:
    """(estimate, half width of its 95 % interval) from [1 + b]: 1.96 standard deviations of the bootstrap."""
    return float(values[0]), float(1.96 * values[1:].std())
