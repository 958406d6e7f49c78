"""Noise-level guidance: move the initial noise towards the prompt before the run. It needs no reward."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from genscale.algorithms.budget_planning import cost_of, next_batch
from genscale.algorithms.leftover_budget import spend_leftover_budget
from genscale.algorithms.option_checks import check_options
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.answers import Prediction
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, branch, draw
from genscale.protocol.queries import Denoise, Query, Score, Solve


@dataclass(frozen=True)
class Nlg:
    """Noise-level guidance: move the initial noise towards the prompt before the run; uses no verifier.

    A move is z <- z - rate clip(eps_cond - eps_uncond), with a little fresh noise, projected back to the sphere of the
    noise. Its direction is the difference between the two branches of classifier-free guidance at the first model call
    (noise-level guidance, Mannering et al. 2025, arXiv 2509.13936). The defaults are those of the authors' code.

    candidates: number of noises that are moved and then run to the end. The best image is the result. None, the
        default, means as many as the budget pays for (1 without a budget).
    repeats: number of moves of each noise. 20 by default.
    rate: step size of a move. 1 by default.
    clip: limit of the absolute value of each entry of the move. 0.5 by default. That entries are limited, and not the
        norm, is our reading of the paper.
    jitter: variance of the noise that is added at each move. 0.001 by default.

    It needs a pipeline with both branches of guidance.

    Cost in NFE: N (2 repeats + f), f of one plain candidate.
    """

    candidates: int | None = None
    repeats: int = 20
    rate: float = 1.0
    clip: float = 0.5
    jitter: float = 0.001

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule", "branches"})
    asks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self, candidates=1, repeats=1)
        if not (0 < self.rate < math.inf and 0 < self.clip < math.inf and 0 <= self.jitter < 1):
            raise UsageError(
                f"rate={self.rate} and clip={self.clip} must be above 0, jitter={self.jitter} in [0, 1)."
            )

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        each, done = 1 + self.repeats, 0  # ids that a candidate takes, one for each of its noises
        while n := (yield from next_batch(process, self.candidates, done, self._price(process))):
            particles = yield from self._moved(process, key, done, n)
            finished = yield Solve(particles)
            yield Score(finished)
            done += n
        if self.candidates is None or not done:  # a plain candidate where the budget pays for no other
            yield from spend_leftover_budget(process, key, done * each)

    def _moved(self, process: Process, key: Key, done: int, n: int) -> Generator[Query, Any, Particles]:
        """The candidates after all moves. Each move makes new candidates, because a candidate stands for one noise."""
        ids = [(done + i) * (1 + self.repeats) for i in range(n)]
        at = [draw(key, i) for i in ids]
        noise = torch.stack([process.noise(c) for c in at])
        size = noise[0].numel() ** 0.5
        for move in range(1, self.repeats + 1):
            particles = process.start(at, noise)
            cond: Prediction = yield Denoise(particles, "cond")
            uncond: Prediction = yield Denoise(particles[: len(cond)], "uncond")
            at, noise = at[: len(uncond)], noise[: len(uncond)]  # fewer where time runs short
            pull = (cond.eps[: len(uncond)] - uncond.eps).clamp(-self.clip, self.clip)
            at = [branch(key, i + move, c, 0) for i, c in zip(ids, at, strict=False)]
            fresh = torch.stack([Key(c.key).fold("jitter").normal(tuple(noise.shape[1:])) for c in at])
            noise = noise - self.rate * pull.to(noise) + self.jitter**0.5 * fresh
            norms = noise.flatten(1).norm(dim=1).clamp(min=1e-12)
            noise = noise * (size / norms).view(-1, *[1] * (noise.ndim - 1))
        return process.start(at, noise)

    def _price(self, process: Process) -> int:
        return 2 * self.repeats * process.branch_nfe(0) + process.nfe()

    def cost(self, process: Process) -> int | None:
        return cost_of(process, self.candidates, self._price(process))
