"""Clusters of a pool, and whom to keep of it so that good ones of several kinds go on.

The objective is that of ETS (Hooper et al. 2025, arXiv 2502.13575): scores plus a bonus for every cluster that the
chosen ones cover. Its term for shared memory has no meaning here, and its scores are softmax weights, here the
verifier's own. TTS-VAR (2025, arXiv 2507.18537) keeps one of each cluster, which is the limit of a large bonus (but it
takes the one nearest to the centre, here it is the best).
"""

from __future__ import annotations

import torch
from torch import Tensor

from genscale.key import Key

RESTARTS = 4  # of k-means, of which the tightest counts
ITERATIONS = 100
COLUMNS = 1 << 20  # of latents (videos have many) in float64 at a time
_SAME = 1e-9  # a squared distance that is only rounding, as a share of the mean one to the centre of all


def embedded(x: Tensor) -> Tensor:
    """Latents [n, *latent] as points [n, n] with the same distances between them, float64 on the CPU.

    These are all principal components of the pool, so nothing is lost; nothing is understood either: where the papers
    embed what an image or a sentence means (DINOv2, a sentence encoder), distances of latents see where which colour
    is. Pooling is not needed: a clean estimate in the middle of a run is a mean over the ways to go on, so smooth.
    """
    gram = torch.zeros(len(x), len(x), dtype=torch.float64)
    flat = x.detach().flatten(1).cpu()
    for start in range(0, flat.shape[1], COLUMNS):
        part = flat[:, start : start + COLUMNS]
        gap = part.double() - part.double().mean(0)
        gram += gap @ gap.T
    values, vectors = torch.linalg.eigh(gram)
    points: Tensor = vectors * values.clamp(min=0).sqrt()
    return points


def kmeans(points: Tensor, k: int, key: Key) -> Tensor:
    """Labels [n] of points [n, d]: Lloyd's algorithm from seeds of k-means++ (Arthur & Vassilvitskii 2007), the best of
    some restarts. Where fewer than k points differ, there are fewer clusters."""
    points = points.double()
    found = [_lloyd(points, _seeds(points, k, key.fold(i))) for i in range(RESTARTS)]
    return min(found, key=lambda labels_and_loss: labels_and_loss[1])[0]


def _seeds(points: Tensor, k: int, key: Key) -> Tensor:
    """The first uniformly, each next in proportion to its squared distance to the nearest one so far."""
    u = key.uniform(k)
    chosen = [int(u[0] * len(points))]
    nothing = _SAME * float((points - points.mean(0)).square().sum(1).mean())
    gap = _square(points, points[chosen])[:, 0]
    for j in range(1, k):
        gap = torch.where(gap > nothing, gap, 0.0)
        if not gap.any():
            break
        sums = gap.cumsum(0)
        chosen.append(min(int(torch.searchsorted(sums, u[j] * sums[-1], right=True)), len(points) - 1))
        gap = torch.minimum(gap, _square(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def _lloyd(points: Tensor, centres: Tensor) -> tuple[Tensor, float]:
    """(labels, sum of squared distances to the centres)."""
    labels = torch.full((len(points),), -1)
    for _ in range(ITERATIONS):
        nearest = _square(points, centres).argmin(1)
        if torch.equal(nearest, labels):
            break
        labels = nearest
        means = [points[labels == j].mean(0) for j in range(len(centres))]
        centres = torch.stack([c if m.isnan().any() else m for m, c in zip(means, centres, strict=True)])
    return labels, float((points - centres[labels]).square().sum())


def _square(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances [n, k]."""
    return (points[:, None] - centres).square().sum(-1)


def covering(scores: Tensor, labels: Tensor, weight: float, keep: int) -> list[int]:
    """The rows, in their order, that maximise sum of scores + weight * clusters covered; without weight the best.

    The greedy choice is the optimum: who is kept of a cluster may as well be its best, so the bonus is the best one's
    own, and what remains is a sum. Among equals the first.
    """
    worth, seen = scores.clone(), set[int]()
    for row in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if int(labels[row]) not in seen:
            worth[row] += weight
            seen.add(int(labels[row]))
    return sorted(torch.sort(worth, descending=True, stable=True).indices[:keep].tolist())
