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
    """A finished particle and its states at the scoring steps."""

    states: tuple[ScoredState, ...]
    candidate: Candidate
    total: float


@dataclass
class Pool:
    """The n particles of a pass, their weights and the scores behind them; all fields have the same rows.

    parents: index of the parent of each particle, 0 .. k - 1 [n]. log_w: log-weights, float64 [n].
    applied_potential: sum of the log-potentials applied so far [n]. rewards: scaled scores [n, scorings]. paths: states
    at earlier scoring steps. slope: d score / d x [n, *latent] at the current states, if proposals follow the gradient.
    """

    particles: Particles
    parents: Tensor
    log_w: Tensor
    applied_potential: Tensor
    rewards: Tensor
    paths: list[tuple[ScoredState, ...]]
    slope: Tensor | None = None

    def __len__(self) -> int:
        return len(self.particles)

    def take(self, rows: Sequence[int]) -> Pool:
        i = torch.as_tensor(list(rows), dtype=torch.long)
        return Pool(
            self.particles[rows], self.parents[i], self.log_w[i], self.applied_potential[i], self.rewards[i],
            [self.paths[r] for r in rows], None if self.slope is None else self.slope[i.to(self.slope.device)],
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
        self.rewards, self.paths = self.rewards[:n], self.paths[:n]
        if self.slope is not None:
            self.slope = self.slope[:n]
        if len(self.particles) > n:
            self.particles = self.particles[:n]
