"""Search over paths: re-noise promising, nearly clean samples, solve back, keep the best, repeat.

Ma et al. 2025 (arXiv 2501.09732, section 3.1, "Search over Paths"). Noise levels are times of the
rectified-flow interpolant (sigma / (alpha + sigma)), snapped to the pipeline's own grid; the forward
kernel is exact for any schedule.
Differences: survivors are scored by the clean estimate of the last model call (one step stale, no extra
evaluation); the solver's history is dropped at a re-noising, since it belongs to another trajectory. Schedulers that
cannot begin in the middle without it (linear multistep, PNDM's Runge-Kutta) give way to the ODE of the same levels.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from genscale.algorithms.budget_planning import within
from genscale.algorithms.option_checks import at_least
from genscale.algorithms.transition_kernels import outside
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.answers import Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate, Particles, draw
from genscale.protocol.queries import Query, Score, Solve

_CLEAN = 1e-9  # a time that counts as 0, after the rounding of the steps that led there


@dataclass(frozen=True)
class SearchOverPaths:
    """Branch partly denoised samples by re-noising them, and keep the best paths until they are clean.

    paths: N kept ("Paths-2" in the paper's tables is 2). branches: M re-noisings of each (not stated in the
    paper; 2 here). start: noise level in (0, 1) at which branching begins, 0.11; forward: how far a branch is
    taken back, 0.78; backward: how far it is solved again, 0.81, which must exceed forward (defaults as
    published and as in KAIST's baseline). A process of one step has no level to branch at: it is best of N.

    Cost in NFE: N f(0, s_0) + sum over rounds of N M f(r_i, s_i) + N f(s_last, T); f(a, b) are the
    evaluations of one candidate from step a to step b; the last term is 0 where the last round ends clean.
    Scores: N M a round (with M = 1 only where it ends clean), and N at the end where the last round did not.
    With a budget that allows more, the search starts again from fresh noise; with less, it drops rounds, then paths.
    """

    paths: int = 2
    branches: int = 2
    start: float = 0.11
    forward: float = 0.78
    backward: float = 0.81

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})
    size_option: ClassVar[str] = "paths"

    def __post_init__(self) -> None:
        at_least(self, paths=1, branches=1)
        if not 0 < self.start < 1 or self.forward <= 0 or self.start + self.forward >= 1:
            raise UsageError(
                f"start={self.start} and forward={self.forward} must be above 0 and their sum below 1."
            )
        if self.backward <= self.forward:
            raise UsageError(
                f"backward={self.backward} must exceed forward={self.forward}, or paths never become clean."
            )

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
        """From fresh noise to clean survivors; candidates count up from `first`. Returns the next number."""
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
                particles = particles[sorted(scores.ranking()[:paths])]
        particles = yield Solve(particles, None, kernel)
        yield Score(particles)
        return first

    def _begin(self, process: Process) -> int:
        """The step at which branching begins; never pure noise, which has nothing to branch."""
        return max(process.nearest(self.start), 1)

    def _rounds(self, process: Process) -> list[tuple[int, int]]:
        """(step to re-noise to, step to solve to) of each round; every round makes progress."""
        rounds, time, at = [], self.start, self._begin(process)
        while time > _CLEAN and at < process.steps:
            back = min(process.nearest(time + self.forward), at)
            time += self.forward - self.backward
            until = process.steps if time <= _CLEAN else max(process.nearest(time), at + 1)
            rounds.append((back, until))
            at = until
        return rounds

    def _plan(self, process: Process) -> tuple[int, list[tuple[int, int]]] | None:
        """The largest search that the budget still pays for: rounds are dropped from the last, then paths."""
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
