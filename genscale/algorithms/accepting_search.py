"""Paths that are drawn until one is accepted, under given thresholds: the loop of accept_reject."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from genscale.algorithms.acceptance import Thresholds
from genscale.algorithms.backtracking import renoised, step_back
from genscale.algorithms.budget_planning import largest, within
from genscale.algorithms.passes import Numbered
from genscale.diffusion.kernels import Kernel
from genscale.errors import BudgetExhausted
from genscale.key import Key
from genscale.protocol.answers import Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, draw
from genscale.protocol.queries import Ask, Query, Score, Solve


@dataclass(frozen=True)
class Attempts:
    """wave: paths drawn together. paths: how many in all; None: until the budget ends. back: share of the run that a
    rejected path is sent back by; 1: fresh noise. backtracks: how often one path may be sent back."""

    wave: int
    paths: int | None
    back: float
    backtracks: int


@dataclass(frozen=True)
class Group:
    """Paths at one step. kernel: what steps them (None: the pipeline's own scheduler). left: how often they may still
    be sent back. checked: whether previews are scored."""

    particles: Particles
    kernel: Kernel | None
    left: int
    checked: bool = True


@dataclass(frozen=True)
class Rejected:
    """One path that was rejected at a preview of this score."""

    particles: Particles
    kernel: Kernel | None
    score: float


class AcceptingSearch(Numbered):
    """One search. `go` draws paths until as many are accepted as the call returns, and leaves as many finished.

    A path begins only if the budget pays for it to the end. So of the paths that were rejected the last one, at least,
    can always be finished. This gives one result; if the call returns more, the others come first, without checks.
    """

    # Paths without a budget, and paths rejected in a row before the best is finished (ours).
    MOST: ClassVar[int] = 64

    def __init__(self, process: Process, key: Key, thresholds: Thresholds, attempts: Attempts) -> None:
        super().__init__()
        self.process, self.key, self.thresholds, self.attempts = process, key, thresholds, attempts
        self.begun = self.in_vain = self.done = 0  # in_vain: since a candidate was finished
        self.spent = 0  # NFE
        self.accepted, self.wanted = 0, process.results
        self.sent_back: list[Group] = []
        self.rejected: list[Rejected] = []  # the best, and the last

    def go(self) -> Generator[Query, Any, None]:
        while self.accepted < self.wanted:
            group = None if self._must_finish else (yield from self._next())
            if group is not None:
                yield from self._follow(group)
            elif self.rejected and (self.in_vain >= self.MOST or self.missing > 0):
                yield from self._finish_best()
            else:
                return

    # ---------------------------------------------------------------- which paths are next

    @property
    def missing(self) -> int:
        """Candidates that must still be finished."""
        return self.wanted - self.done

    @property
    def limit(self) -> int | None:
        """Number of paths; None: until the budget ends the search."""
        given = self.attempts.paths
        return self.MOST if given is None and not self.process.open_ended else given

    @property
    def _must_finish(self) -> bool:
        """Whether the best rejected path has to be finished now: no time is left, or none passes."""
        if not self.rejected:
            return False
        late = self.missing > 0 and self.process.time_left < self.process.nfe()
        return late or self.in_vain >= self.MOST

    def _next(self) -> Generator[Query, Any, Group | None]:
        """The next paths: those that were sent back, else fresh ones. None: the budget or the limit allows none."""
        left = 1 << 30 if self.limit is None else self.limit - self.begun
        while self.sent_back:
            group = self.sent_back.pop()
            most = min(len(group.particles), left)
            if n := (yield from self._granted(group.particles.step, group.kernel, most)):
                return self._begin(Group(group.particles[:n], group.kernel, group.left))
        checked, most = self.missing <= 1, min(self.attempts.wave, left)
        most = most if checked else min(most, self.missing - 1)
        if n := (yield from self._granted(0, None, most, checked)):
            return self._begin(Group(self._fresh(n), None, self.attempts.backtracks, checked))
        if self.missing > 0 and self.rejected:
            return None
        # What is left of the verifier calls may pay for finished candidates, though not for their checks.
        most = most if self.missing > 0 else self._below_limit(0, None, most, 0)
        n = self._affordable(0, None, most, checked=False)
        return self._begin(Group(self._fresh(n), None, 0, checked=False)) if n > 0 else None

    def _granted(
        self, step: int, kernel: Kernel | None, most: int, checked: bool = True
    ) -> Generator[Query, Any, int]:
        """Ask for paths from a step to the end, and for keeping what finishing the best rejected one takes."""
        if most <= 0:
            return 0
        process, checks = self.process, self._checks_after(step) if checked else 0
        rest = [process.nfe(r.particles.step, None, r.kernel) for r in self.rejected]
        keep = max(rest, default=0) if self.missing > 0 else 0
        try:
            most = yield Ask(process.nfe(step, None, kernel), process.calls(checks, 1), most, keep)
        except BudgetExhausted:
            return 0
        return min(self._affordable(step, kernel, most, checked), self._below_limit(step, kernel, most, keep))

    def _below_limit(self, step: int, kernel: Kernel | None, most: int, keep: int) -> int:
        """How many paths from a step the thresholds' own limit of a prompt pays for; one always, if nothing was drawn.

        keep: NFE that finishing the best rejected path takes.
        """
        limit = self.thresholds.most
        if limit is None or not self.begun:
            return most if limit is None else min(most, max(1, int(limit) // self.process.nfe()))
        each = self.process.nfe(step, None, kernel)
        return min(most, max(0, int(limit) - self.spent - keep) // each)

    def _checks_after(self, step: int) -> int:
        return sum(s > step for s, _ in self.thresholds.rejects)

    def _fresh(self, n: int) -> Particles:
        return self.process.start([draw(self.key, self.number()) for _ in range(n)])

    def _begin(self, group: Group) -> Group:
        self.begun += len(group.particles)
        self.in_vain += len(group.particles)
        return group

    def _affordable(self, step: int, kernel: Kernel | None, most: int, checked: bool = True) -> int:
        """How many paths from a step the budget pays for, to the end and with all their checks."""
        process = self.process
        checks = self._checks_after(step) if checked else 0
        each = process.nfe(step, None, kernel)
        return largest(most, lambda n: within(process, n * each, process.calls(n * checks, n)))

    # ---------------------------------------------------------------- one group

    def _follow(self, group: Group) -> Generator[Query, Any, None]:
        """Step a group from check to check, without what is rejected there, and judge what reaches the end."""
        particles = group.particles
        rejects = self.thresholds.after(self.begun - len(particles))
        for step, least in rejects if group.checked else ():
            if step <= particles.step:
                continue
            particles = yield from self._solve(particles, step, group.kernel)
            scores: Scores = yield Score(particles)
            totals, alive = scores.total, torch.zeros(len(scores), dtype=torch.bool)
            alive[scores.alive] = True
            bad = (alive & (totals < least)).nonzero().flatten().tolist()
            good = (alive & (totals >= least)).nonzero().flatten().tolist()
            self._reject(particles, group, totals, bad)
            if not good:
                return
            particles = particles[good]
        yield from self._finish(particles, group.kernel)

    def _finish(self, particles: Particles, kernel: Kernel | None) -> Generator[Query, Any, None]:
        finished = yield from self._solve(particles, None, kernel)
        scores: Scores = yield Score(finished)
        if scores.alive:
            self.done += len(scores.alive)
            self.in_vain = 0
        self.accepted += int((scores.total[scores.alive] >= self.thresholds.accept).sum())

    def _solve(
        self, particles: Particles, stop: int | None, kernel: Kernel | None
    ) -> Generator[Query, Any, Particles]:
        self.spent += len(particles) * self.process.nfe(particles.step, stop, kernel)
        solved: Particles = yield Solve(particles, stop, kernel)
        return solved

    def _reject(self, particles: Particles, group: Group, totals: torch.Tensor, rows: list[int]) -> None:
        """Keep the best of the rejected paths and the last, and send the paths back where that is asked for."""
        for row in rows:
            one = Rejected(particles[[row]], group.kernel, float(totals[row]))
            best = max((*self.rejected[:1], one), key=lambda r: r.score)
            self.rejected = [best] if best is one else [best, one]
        if rows and self.attempts.back < 1 and group.left > 0:
            back = step_back(self.process, particles.step, self.attempts.back)
            if back > 0:  # else fresh noise is as good
                numbers = [self.number() for _ in rows]
                moved, kernel = renoised(self.process, self.key, particles[rows], back, numbers)
                self.sent_back.append(Group(moved, kernel, group.left - 1))

    def _finish_best(self) -> Generator[Query, Any, None]:
        """Finish the best rejected path, or the last where the budget does not pay for the best."""
        process, known = self.process, self.rejected
        self.rejected, self.in_vain = [], 0
        for one in known:
            step = one.particles.step
            if within(process, process.nfe(step, None, one.kernel), process.calls(0, 1)):
                yield from self._finish(one.particles, one.kernel)
                return
