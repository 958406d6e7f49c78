"""The particles of one pass, and their earlier states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.protocol.answers import Prediction
from genscale.protocol.particles import Candidate, Particles


@dataclass(frozen=True)
class ScoredState:
    """One particle (one row) at a scoring step, with its prediction and score, so that a run can continue from it."""

    particles: Particles
    prediction: Prediction
    total: float


@dataclass(frozen=True)
class Path:
    """A finished particle and its states at the scoring steps. root: id of the candidate that it began with."""

    states: tuple[ScoredState, ...]
    candidate: Candidate
    total: float
    root: int


@dataclass
class Pool:
    """The n particles of a pass, their weights and the scores behind them; all fields have the same rows.

    parents: index of the parent of each particle, 0 .. k - 1 [n]. log_w: log-weights, float64 [n].
    applied_potential: sum of the log-potentials applied so far [n]. rewards: scaled scores [n, scorings]. paths: states
    at earlier scoring steps. roots: id of the candidate that each lineage began with. slope: d score / d x
    [n, *latent] at the current states, if proposals follow the gradient.
    """

    particles: Particles
    parents: Tensor
    log_w: Tensor
    applied_potential: Tensor
    rewards: Tensor
    paths: list[tuple[ScoredState, ...]]
    roots: list[int]
    slope: Tensor | None = None

    def __len__(self) -> int:
        return len(self.particles)

    @property
    def failed(self) -> Tensor:
        """bool [n]: particles whose candidates failed. They have no offspring."""
        return ~self.rewards.isfinite().all(1)

    def continuing(self, families: bool) -> list[int]:
        """The rows that may continue: all as long as one of them (with `families`, of their parent's) did not fail."""
        failed, parents = self.failed.tolist(), self.parents.tolist()
        alive = {p if families else 0 for p, lost in zip(parents, failed, strict=True) if not lost}
        return [i for i, p in enumerate(parents) if (p if families else 0) in alive]

    def take(self, rows: Sequence[int]) -> Pool:
        i = torch.as_tensor(list(rows), dtype=torch.long)
        return Pool(
            self.particles[rows], _numbered(self.parents[i]), self.log_w[i], self.applied_potential[i], self.rewards[i],
            [self.paths[r] for r in rows], [self.roots[r] for r in rows],
            None if self.slope is None else self.slope[i.to(self.slope.device)],
        )  # fmt: skip

    def shorten(self, n: int) -> None:
        """Keep the first n rows: the others were not computed, because a budget ended."""
        if n == len(self.log_w):
            return
        self.parents, self.log_w, self.applied_potential = (
            self.parents[:n],
            self.log_w[:n],
            self.applied_potential[:n],
        )
        self.rewards, self.paths, self.roots = self.rewards[:n], self.paths[:n], self.roots[:n]
        if self.slope is not None:
            self.slope = self.slope[:n]
        if len(self.particles) > n:
            self.particles = self.particles[:n]


def _numbered(parents: Tensor) -> Tensor:
    """Indices of parents as 0 .. k - 1 without gaps, in the same order."""
    numbers: Tensor = torch.unique(parents, return_inverse=True)[1]
    return numbers
