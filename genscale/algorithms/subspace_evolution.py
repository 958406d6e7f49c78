"""Evolution strategies on a few random directions of the noise, which a few hundred candidates are enough to optimise.

A strategy gets scores and returns points z in R^k. A point stands for noise in the span of a base noise and k random
directions, with the norm of the base. This follows the rotations of "evolutionary alignment" (2025, arXiv 2506.00299).
Drawing new directions through the best noise is our addition, with which larger budgets continue to improve the result.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from genscale.algorithms.budget_planning import rounds_of
from genscale.algorithms.option_checks import check_options
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.answers import Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import OWN, Candidate, draw
from genscale.protocol.queries import Query, Score, Solve


@dataclass(frozen=True)
class Subspace:
    """Noise that varies around a base in a few directions.

    base: [*latent]. directions: [k, *latent], orthonormal and orthogonal to the base. share: fraction of the variance
    of the noise, in [0, 1], that lies in the directions if z is standard normal.
    """

    base: Tensor
    directions: Tensor
    share: float

    @staticmethod
    def through(base: Tensor, key: Key, dimensions: int, share: float) -> Subspace:
        """`dimensions` random directions, or as many as the latents have."""
        k = min(dimensions, base.numel() - 1)
        if k < 1:
            raise UsageError(f"latents of shape {list(base.shape)} leave no direction to search in.")
        drawn = torch.stack([key.fold(i).normal(tuple(base.shape)) for i in range(k)]).flatten(1)
        basis = torch.linalg.qr(torch.cat([base.flatten()[None], drawn]).T.float())[0]  # [d, 1 + k]
        return Subspace(base, basis[:, 1:].T.reshape(k, *base.shape), share)

    @property
    def dimensions(self) -> int:
        return self.directions.shape[0]

    def noise(self, z: Tensor) -> Tensor:
        """The noise [n, *latent] of points z [n, k]: sqrt(1 - share) base + sqrt(share) |base| / sqrt(k) z, rescaled to
        the norm of the base.

        A standard normal z has a norm of about sqrt(k), so its noise is at an angle of about acos(sqrt(1 - share)) to
        the base. For share 0 the result is exactly the base.
        """
        if self.share == 0:
            return self.base.expand(len(z), *self.base.shape)
        base = self.base.double().flatten()
        length = base.norm()
        across = z.double() @ self.directions.flatten(1).double() * (length / math.sqrt(self.dimensions))
        y = math.sqrt(1 - self.share) * base + math.sqrt(self.share) * across
        y = y * (length / y.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny))
        noise: Tensor = y.view(len(z), *self.base.shape).to(self.base.dtype)
        return noise


class Strategy(Protocol):
    """An evolution strategy on R^k that starts at the standard normal distribution."""

    def ask(self) -> Tensor:
        """The next generation [population, k], float64."""

    def tell(self, z: Tensor, totals: Tensor) -> None:
        """The scores [n] of points [n, k] of that generation, higher is better; without points that failed, n >= 1."""


@dataclass(frozen=True)
class SubspaceRun:
    """The fields and the search of all strategies: some generations in one basis, then a new basis around the best
    noise.

    population: candidates in a generation. None: 4 + floor(3 ln dimensions), as published. dimensions: number of random
    directions in a basis (our default). share: fraction of the variance of the noise, in [0, 1], that lies in the
    directions at first. 0 keeps the pipeline's own noise, 1 replaces it entirely; our default 0.5 is an angle of 45
    degrees. generations: number of generations in a basis, before a new basis is drawn around the best noise so far
    (our default). rounds: total number of generations. None: until the budget ends the search, 4 without a budget.
    """

    population: int | None = None
    dimensions: int = 16
    share: float = 0.5
    generations: int = 8
    rounds: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})
    size_option: ClassVar[str] = "population"

    def __post_init__(self) -> None:
        check_options(self, population=2, dimensions=1, generations=1, rounds=0)
        if not 0 <= self.share <= 1:
            raise UsageError(f"share={self.share} must be between 0 and 1.")

    @property
    def size(self) -> int:
        """Number of candidates in a generation."""
        return 4 + int(3 * math.log(self.dimensions)) if self.population is None else self.population

    def strategy(self, dimensions: int, population: int, key: Key) -> Strategy:
        """A new strategy; each preset defines its own."""
        raise NotImplementedError

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        lead = draw(key, OWN)
        noise = process.noise(lead)
        finished = yield Solve(process.start([lead]))
        best: Scores = yield Score(finished)
        rounds, done, basis, first = rounds_of(process, self.rounds), 0, 0, 1
        while rounds is None or done < rounds:
            if not best.alive:  # the base is the noise of a candidate that failed: take a fresh one
                noise = process.noise(draw(key.fold("fresh base", basis), OWN + 1))
            space = Subspace.through(noise, key.fold("basis", basis), self.dimensions, self.share)
            mind = self.strategy(space.dimensions, self.size, key.fold("strategy", basis))
            base = lead.id if best.alive else None
            for _ in range(self.generations):
                if done == rounds:
                    return
                z = mind.ask()
                candidates = [self._point(key, first + i, base, basis, done, z[i]) for i in range(len(z))]
                scores, seen = yield from self._judge(process, candidates, space.noise(z), best)
                if alive := scores.alive:
                    mind.tell(z[alive], scores.total[alive])
                winner = seen.best() - 1  # the best so far is row 0, so it wins ties
                if winner >= 0:
                    lead, noise, best = (
                        candidates[winner],
                        space.noise(z)[winner],
                        scores[winner : winner + 1],
                    )
                first, done = first + len(z), done + 1
            basis += 1

    def _judge(
        self, process: Process, candidates: list[Candidate], noise: Tensor, best: Scores
    ) -> Generator[Query, Any, tuple[Scores, Scores]]:
        """The scores of all candidates, and the same with the best so far before them.

        A strategy learns from whole generations, so rows that a time limit left unscored are queried again.
        """
        parts: list[Scores] = []
        done = 0
        while done < len(candidates):
            finished = yield Solve(process.start(candidates[done:], noise[done:]))
            parts.append((yield Score(finished)))
            done += len(parts[-1])
        return Scores.cat(parts), Scores.cat([best, *parts])

    def _point(self, key: Key, i: int, base: int | None, basis: int, generation: int, z: Tensor) -> Candidate:
        """A candidate whose noise is point z of a basis around its parent's noise; the key of the search determines the
        directions."""
        where = {f"z{j}": float(v) for j, v in enumerate(z)}
        details = {"basis": basis, "generation": generation, "share": self.share, **where}
        return Candidate(i, "neighbour", key.fold("candidate", i).path, base, details=details)

    def cost(self, process: Process) -> int | None:
        rounds = rounds_of(process, self.rounds)
        return None if rounds is None else (1 + rounds * self.size) * process.nfe()
