"""How different the members of a set are, by embeddings of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def mean_pairwise_distance(embeddings: Tensor) -> float:
    """Mean of 1 - cosine over all pairs of n embeddings [n, d]: in [0, 2], 0 where all point the same way.

    ValueError: fewer than two.
    """
    cosines, n = _cosines(embeddings), len(embeddings)
    if n < 2:
        raise ValueError(f"a distance needs at least two embeddings, not {n}")
    return float(1 - (cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1)))


def vendi_score(embeddings: Tensor) -> float:
    """The effective number of different members among n embeddings [n, d]: in [1, n].

    The exponential of the Shannon entropy of the eigenvalues of K / n (Friedman & Dieng 2023, arXiv 2210.02410,
    definition 3.1), with the cosine as the kernel K, whose diagonal is 1. It is 1 where all are equal and n where all
    are orthogonal. ValueError: there is none.
    """
    n = len(embeddings)
    if n < 1:
        raise ValueError("a Vendi score needs at least one embedding")
    shares = torch.linalg.eigvalsh(_cosines(embeddings) / n).clamp(min=0)
    shares = shares[shares > 0]
    return min(max(math.exp(-float((shares * shares.log()).sum())), 1.0), float(n))


def _cosines(embeddings: Tensor) -> Tensor:
    unit = F.normalize(embeddings.detach().cpu().double(), dim=-1)
    return unit @ unit.T
