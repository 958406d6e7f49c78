"""Pareto dominance: who is beaten in every respect, and how crowded those are who are not.

Fast non-dominated sorting and crowding distance of NSGA-II: Deb, Pratap, Agarwal, Meyarivan 2002, "A Fast and Elitist
Multiobjective Genetic Algorithm: NSGA-II", sections III-A and III-B. Higher is better here, and there lower.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dominates(points: Tensor) -> Tensor:
    """Whether i dominates j: bool [n, n] of points [n, k]. It is at least as good in all k, and better in one."""
    n = len(points)
    no_worse, better = torch.ones(n, n, dtype=torch.bool), torch.zeros(n, n, dtype=torch.bool)
    for column in points.T:
        no_worse &= column[:, None] >= column[None]
        better |= column[:, None] > column[None]
    return no_worse & better


def fronts(points: Tensor) -> Tensor:
    """The front of each point, [n] integers from 0: those that none dominates, then those that none of the rest
    dominates, and so on. O(n^2 k) time, O(n^2)
    memory."""
    beats = dominates(points)
    found = torch.full((len(points),), -1, dtype=torch.long)
    number = 0
    while (left := found < 0).any():
        found[left & ~beats[left].any(0)] = number
        number += 1
    return found


def crowding(points: Tensor) -> Tensor:
    """The crowding distance of each of the points [n, k] of one front: float64 [n], 0 or more.

    In each coordinate, the distance from the next lower to the next higher value over the whole range, summed; infinite
    at both ends. A coordinate in which all are equal adds nothing. Equal values have the same neighbours, so that the
    order of the points does not matter; in the paper it does.
    """
    found = torch.zeros(len(points), dtype=torch.float64)
    for column in points.double().T:
        values, place = torch.unique(column, return_inverse=True)
        if len(values) > 1:
            gaps = torch.full_like(values, torch.inf)
            gaps[1:-1] = (values[2:] - values[:-2]) / (values[-1] - values[0])
            found += gaps[place]
    return found
