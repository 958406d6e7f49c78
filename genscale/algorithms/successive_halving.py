"""Successive halving: at each rung of a run only the candidates with the better clean estimates continue.

Jamieson & Talwalkar 2016 (arXiv 1502.07943, algorithm 1); for generative models: speculative rejection (Sun et al.
2024, arXiv 2410.20290). Shared by best_of_n with `prune` and by successive_halving.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from genscale.algorithms.budget_planning import CANDIDATES_WITHOUT_BUDGET, largest, payable, within
from genscale.algorithms.preview_steps import check_fractions, steps_of
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, draw
from genscale.protocol.queries import Query, Score, Solve


@dataclass(frozen=True)
class Halving:
    """Pools of candidates that shrink during the run.

    candidates: size of a pool; None: as many as the budget pays for, 16 without a budget. rungs: increasing fractions
    of the run, in (0, 1), each the preview of the state there, which the next model call makes. survivors: share of the
    pool that continues from each rung.
    """

    candidates: int | None
    rungs: tuple[float, ...]
    survivors: float

    def check(self, sampler: str, option: str) -> None:
        """Raise UsageError for bad options. sampler, option: names of the sampler and of its option for the rungs."""
        if self.candidates is not None and self.candidates < 1:
            raise UsageError(f"{sampler} needs at least 1 candidate, not {self.candidates}.")
        check_fractions(option, self.rungs)
        if not 0 < self.survivors <= 1:
            raise UsageError(f"survivors={self.survivors} must be a share in (0, 1].")

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        """Run one pool. With a budget and without a number of candidates, run further pools until the budget ends."""
        done = 0
        while True:
            n = self._affordable(process)
            particles: Particles = process.start([draw(key, done + i) for i in range(n)])
            for step, survivors in self._plan(process, n):
                particles = yield Solve(particles, step)
                if step == process.steps:
                    yield Score(particles)
                    break
                scores = yield Score(particles)
                if not (ranking := scores.ranking()):  # all failed
                    break
                particles = particles[sorted(ranking[:survivors])]
            done += n
            if self.candidates is not None or not process.open_ended:
                return

    def cost(self, process: Process) -> int | None:
        """NFE without a budget; None if pools are run until the budget ends."""
        n = self.count(process)
        return None if n is None else self._spend(process, n)

    def count(self, process: Process) -> int | None:
        """The number of candidates to draw; None: until the budget ends the search."""
        if self.candidates is None and process.open_ended:
            return None
        return self.candidates or CANDIDATES_WITHOUT_BUDGET

    def _plan(self, process: Process, n: int) -> list[tuple[int, int]]:
        """(step, number that continues from there) for each step at which candidates are dropped, and for the end.

        A rung whose preview would be the image itself, or that of pure noise, is none or moved to the first step.
        """
        plan = []
        for step in steps_of(self.rungs, process, earliest=1):
            survivors = math.ceil(self.survivors * n)
            if survivors < n:
                plan.append((step, survivors))
            n = survivors
        return [*plan, (process.steps, n)]

    def _affordable(self, process: Process) -> int:
        """The largest pool whose whole pruned run the budget pays for, at most `candidates`; at least 1."""
        most = self.candidates
        if most is None:
            most = payable(process, process.nfe(0, 1), process.calls(1, 0))
        if most is None:
            most = CANDIDATES_WITHOUT_BUDGET
        return max(
            1, largest(most, lambda n: within(process, self._spend(process, n), self._calls(process, n)))
        )  # both costs are monotone in n

    def _spend(self, process: Process, n: int) -> int:
        spent, at = 0, 0
        for step, survivors in self._plan(process, n):
            spent, at, n = spent + n * process.nfe(at, step), step, survivors
        return spent

    def _calls(self, process: Process, n: int) -> int:
        pools = [n, *(survivors for _, survivors in self._plan(process, n))]  # the last two are the same
        return process.calls(sum(pools[:-2]), pools[-1])
