"""Clustering of clean estimates, and a selection of rows that trades high scores against covering many clusters.

The objective is that of ETS (Hooper et al. 2025, arXiv 2502.13575): the sum of the scores of the kept rows plus a bonus
for every cluster that they cover. There are two differences. ETS has another term for shared memory, which is left
out here. ETS uses softmax weights as scores, and this module uses the scores of the verifier. TTS-VAR (2025,
arXiv 2507.18537) keeps one row of each cluster, which is the limit of a large bonus; it keeps the row nearest to the
cluster's centre, and this module keeps the row with the best score.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from genscale.key import Key

RESTARTS = 4  # runs of k-means, of which the one with the smallest loss is used
ITERATIONS = 100
COLUMNS = (
    1 << 20
)  # entries of each latent that are converted to float64 at a time, to bound memory for videos
_SAME = (
    1e-9  # squared distances below this fraction of the mean squared distance to the mean point count as 0
)


def embedded(x: Tensor) -> Tensor:
    """Latents [n, *latent] as points [n, n] with the same pairwise distances, float64 on the CPU.

    The points are the coordinates of the rows along all principal components, so distances are exact. The papers embed
    the content of an image or a sentence (with DINOv2 or a sentence encoder). Distances between latents measure layout
    and colour instead. The latents are not pooled: a clean estimate in the middle of a run is a posterior mean, which
    is already smooth.
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

    Lloyd's algorithm (`scipy.cluster.vq.kmeans2`) runs from several k-means++ seedings (Arthur & Vassilvitskii 2007),
    and the run with the smallest loss is returned. If fewer than k points are distinct, there are fewer clusters.
    """
    points = points.double()
    found = [_lloyd(points, _seeds(points, k, key.fold(i))) for i in range(RESTARTS)]
    return min(found, key=lambda labels_and_loss: labels_and_loss[1])[0]


def _seeds(points: Tensor, k: int, key: Key) -> Tensor:
    """k-means++ seeds [<= k, d]. The first is uniform among the points. Each next point is drawn with probability
    proportional to its squared distance to the nearest seed."""
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
    """(labels [n], sum of squared distances to the centres) after Lloyd's algorithm from seeds [k, d]."""
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)  # keeps its centre
        centres, labels = kmeans2(points.numpy(), seeds.numpy(), iter=ITERATIONS, minit="matrix")
    loss = float((points - torch.from_numpy(centres)[labels]).square().sum())
    return torch.from_numpy(labels).long(), loss


def _square(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances [n, k] between points [n, d] and centres [k, d]."""
    return (points[:, None] - centres).square().sum(-1)


def covering(scores: Tensor, labels: Tensor, weight: float, keep: int) -> list[int]:
    """The `keep` rows, ascending, that maximise (sum of their scores) + weight * (number of clusters covered).

    scores, labels: [n]. With weight 0 these are the rows with the best scores. An optimal choice that keeps rows of a
    cluster can always include the best one of it. The bonus is therefore added to the score of that row, and the rows
    with the largest sums are optimal. Ties go to the first row.
    """
    worth, seen = scores.clone(), set[int]()
    for row in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if int(labels[row]) not in seen:
            worth[row] += weight
            seen.add(int(labels[row]))
    return sorted(torch.sort(worth, descending=True, stable=True).indices[:keep].tolist())
