"""Clusters of clean estimates, and which rows to keep so that good ones of several clusters go on.

The objective is that of ETS (Hooper et al. 2025, arXiv 2502.13575): the scores plus a bonus for every cluster that the
kept rows cover. ETS also has a term for shared memory, which is left out, and uses softmax weights as scores; here they
are the verifier's own. TTS-VAR (2025, arXiv 2507.18537) keeps one row of each cluster, which is the limit of a large
bonus (it takes the row nearest to the centre; here it is the best one).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from genscale.key import Key

RESTARTS = 4  # of k-means; the smallest loss counts
ITERATIONS = 100
COLUMNS = 1 << 20  # latent entries converted to float64 at a time (videos have many)
_SAME = 1e-9  # squared distances below this share of the mean squared distance to the overall centre are round-off


def embedded(x: Tensor) -> Tensor:
    """Latents [n, *latent] as points [n, n] with the same distances between them, float64 on the CPU.

    These are all principal components of the rows, so nothing is lost. The papers embed the content of an image or a
    sentence (DINOv2, a sentence encoder); distances of latents measure layout and colour instead. No pooling is needed:
    a clean estimate in the middle of a run is a posterior mean, which is smooth.
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
    """Cluster labels, long [n], of points [n, d]; the same key gives the same labels.

    Lloyd's algorithm (`scipy.cluster.vq.kmeans2`) from several k-means++ seedings (Arthur & Vassilvitskii 2007), of
    which the one with the smallest loss counts. There are fewer than k clusters where fewer than k points differ.
    """
    points = points.double()
    found = [_lloyd(points, _seeds(points, k, key.fold(i))) for i in range(RESTARTS)]
    return min(found, key=lambda labels_and_loss: labels_and_loss[1])[0]


def _seeds(points: Tensor, k: int, key: Key) -> Tensor:
    """k-means++ seeds: the first uniform, each next one in proportion to its squared distance to the nearest seed."""
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


def _lloyd(points: Tensor, seeds: Tensor) -> tuple[Tensor, float]:
    """(labels, sum of squared distances to the centres)."""
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)  # its centre stays
        centres, labels = kmeans2(points.numpy(), seeds.numpy(), iter=ITERATIONS, minit="matrix")
    loss = float((points - torch.from_numpy(centres)[labels]).square().sum())
    return torch.from_numpy(labels).long(), loss


def _square(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances [n, k]."""
    return (points[:, None] - centres).square().sum(-1)


def covering(scores: Tensor, labels: Tensor, weight: float, keep: int) -> list[int]:
    """The `keep` rows, ascending, with the largest sum of scores + weight * clusters covered; weight 0: the best rows.

    The greedy choice is optimal: the row kept from a cluster can be its best one, so the bonus is added to that row's
    score, and the objective becomes a plain sum. Ties go to the first row.
    """
    worth, seen = scores.clone(), set[int]()
    for row in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if int(labels[row]) not in seen:
            worth[row] += weight
            seen.add(int(labels[row]))
    return sorted(torch.sort(worth, descending=True, stable=True).indices[:keep].tolist())
