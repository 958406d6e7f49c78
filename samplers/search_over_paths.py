"""Search over paths: re-noise promising, nearly clean samples, solve back, keep the best, repeat.

Ma et al. 2025 (arXiv 2501.09732, section 3.1, "Search over Paths"). Noise levels are times of the rectified-flow
interpolant (sigma / (alpha + sigma)), rounded to the pipeline's own grid. The forward kernel is exact for any schedule.

Differences: survivors are scored by the clean estimate of the last model call, which is one step old but costs no extra
evaluation. The solver's history is dropped at a re-noising, because it belongs to another trajectory. Schedulers that
cannot begin in the middle of a run without their history (linear multistep, PNDM's Runge-Kutta) are replaced by the ODE
on the same levels.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from genscale.algorithms.budget_planning import within
from genscale.algorithms.option_checks import check_options
from genscale.algorithms.transition_kernels import outside
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.answers import Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate, Particles, draw
from genscale.protocol.queries import Query, Score, Solve

_CLEAN = 1e-9  # times up to this count as 0, because of rounding errors


@dataclass(frozen=True)
class SearchOverPaths:
    """Branch partly denoised samples by re-noising them, and keep the best paths until they are clean.

    paths: N, the number of paths that are kept. 2 by default, "Paths-2" in the paper's tables.
    branches: M, the number of re-noisings of each path. 2 by default; the paper does not state it.
    start: noise level in (0, 1) at which branching begins. 0.11 by default, as published and as in KAIST's baseline.
    forward: how far a branch is re-noised, as a difference of noise levels. 0.78 by default, as published and as in
        KAIST's baseline.
    backward: how far a branch is then solved, which must exceed `forward`. 0.81 by default, as published and as in
        KAIST's baseline.

    A process of one step has no level to branch at, so the search is best of N there.

    Cost in NFE: N f(0, s_0) + sum over rounds of N M f(r_i, s_i) + N f(s_last, T); f(a, b) are the evaluations of one
    candidate from step a to step b; the last term is 0 where the last round ends clean. Scores: N M a round (with M = 1
    only where it ends clean), and N at the end where the last round did not. With a budget that allows more, the search
    starts again from fresh noise; with less, it drops rounds, then paths.
    """

    paths: int = 2
    branches: int = 2
    start: float = 0.11
    forward: float = 0.78
    backward: float = 0.81

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})
    size_option: ClassVar[str] = "paths"

    def __post_init__(self) -> None:
        check_options(self, paths=1, branches=1)
        if not 0 < self.start < 1 or self.forward <= 0 or self.start + self.forward >= 1:
            raise UsageError(
                f"start={self.start} and forward={self.forward} must be above 0 and their sum below 1."
            )
        if self.backward <= self.forward:
            raise UsageError(
                f"backward={self.backward} must exceed forward={self.forward}, or paths never become clean."
            )
        if self.backward > 1:
            raise UsageError(f"backward={self.backward} must be a part of the run, at most 1.")

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        first, again = 0, True
        while again:
            plan = self._plan(process)
            if plan is None:
                return
            first = yield from self._one_pass(process, key, first, *plan)
            again = process.open_ended

    def _one_pass(
        self, process: Process, key: Key, first: int, paths: int, rounds: list[tuple[int, int]]
    ) -> Generator[Query, Any, int]:
        """One pass from fresh noise to clean survivors. Numbers candidates from `first` and returns the next number."""
        steps, kernel = process.steps, outside(process, "own", branched=bool(rounds))
        start = self._begin(process) if rounds else steps
        particles: Particles = process.start([draw(key, first + i) for i in range(paths)])
        first += paths
        particles = yield Solve(particles, start, kernel)
        for back, until in rounds:
            parents = [i for i in range(len(particles)) for _ in range(self.branches)]
            children = [
                Candidate(i, "renoised", key.fold("candidate", i).path, particles.candidates[parent].id)
                for i, parent in enumerate(parents, first)
            ]
            first += len(children)
            particles = yield Solve(process.renoise(particles[parents], back, children), until, kernel)
            if until < steps and self.branches > 1:
                scores: Scores = yield Score(particles)
                if not (ranking := scores.ranking()):  # all failed
                    return first
                particles = particles[sorted(ranking[:paths])]
        particles = yield Solve(particles, None, kernel)
        yield Score(particles)
        return first

    def _begin(self, process: Process) -> int:
        """The step at which branching begins. It is never step 0, since at pure noise there is nothing to branch."""
        return max(process.nearest(self.start), 1)

    def _rounds(self, process: Process) -> list[tuple[int, int]]:
        """For each round, the step to re-noise to and the step to solve to. Every round makes progress."""
        rounds, time, at = [], self.start, self._begin(process)
        while time > _CLEAN and at < process.steps:
            back = min(process.nearest(time + self.forward), at)
            time += self.forward - self.backward
            until = process.steps if time <= _CLEAN else max(process.nearest(time), at + 1)
            rounds.append((back, until))
            at = until
        return rounds

    def _plan(self, process: Process) -> tuple[int, list[tuple[int, int]]] | None:
        """The largest search that the budget pays for. The last rounds are dropped first, then paths."""
        rounds = self._rounds(process)
        for paths in range(self.paths, 0, -1):
            for n in range(len(rounds), -1, -1):
                some = rounds[:n]
                if within(process, self._spend(process, paths, some), self._calls(process, paths, some)):
                    return paths, some
        return None

    def _spend(self, process: Process, paths: int, rounds: list[tuple[int, int]]) -> int:
        spent = paths * process.nfe(0, self._begin(process) if rounds else None)
        spent += sum(paths * self.branches * process.nfe(back, until) for back, until in rounds)
        return spent + (paths * process.nfe(rounds[-1][1]) if rounds else 0)

    def _calls(self, process: Process, paths: int, rounds: list[tuple[int, int]]) -> int:
        clean = bool(rounds) and rounds[-1][1] == process.steps
        previews = (len(rounds) - clean) * paths * self.branches if self.branches > 1 else 0
        return process.calls(previews, paths * (self.branches if clean else 1))

    def cost(self, process: Process) -> int | None:
        return None if process.open_ended else self._spend(process, self.paths, self._rounds(process))
