"""Depth-first search (DFS): one path at a time, which goes back to more noise where its preview is not good enough.

Zhang et al. 2025, "Inference-time Scaling of Diffusion Models through Classical Search" (arXiv 2505.23614, on global
search by DFS; settings as in the authors' code). The compute depends on the prompt: a path whose previews all pass
costs as much as a plain run.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from genscale.algorithms.backtracking import check_steps, renoised, step_back
from genscale.algorithms.budget_planning import CANDIDATES_WITHOUT_BUDGET, within
from genscale.algorithms.leftover_budget import spend_leftover_budget
from genscale.algorithms.option_checks import check_options
from genscale.algorithms.passes import Numbered
from genscale.diffusion.kernels import Kernel
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.protocol.answers import Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, draw
from genscale.protocol.queries import Ask, Query, Score, Solve


@dataclass(frozen=True)
class Dfs:
    """Depth-first search: send a path back by re-noising it where its preview is not good enough.

    threshold: a preview with a lower score is not good enough. A number in the unit of the scores, as in the paper, is
        what makes the compute depend on the prompt: easy prompts pass at once. "pool", the default, needs no number,
        since verifiers have different units, and does something else: the threshold at each check is a quantile of the
        scores that the first paths of the same prompt had there, so every prompt has the same share sent back, easy or
        not, and nothing is saved. Take a number wherever you know one, with a target score in the budget.
    quantile: the quantile that "pool" uses. 0.5 by default, so that the better half continues.
    pool_size: number of first paths from which the quantile is computed. 4 by default; these paths are never sent back.
    checks: fractions of the run at which the clean estimate of the state is scored. Every quarter by default, as in the
        authors' code.
    back: share of the run that a path is sent back by, at least. 0.25 by default, as published; a smaller share changes
        little in the image.
    backtracks: how often one path may be sent back. 4 by default. After that, its best state at the check continues to
        the end.
    paths: number of paths. None, the default, continues until the budget ends the search (16 paths without a budget).
        The paper has one path. Either one path or a target score in the budget lets easy prompts stop early, with some
        of the budget left.

    Differences: the transitions are those of the pipeline's scheduler, also where it is an ODE, since re-noising
    already makes paths differ. With threshold=-inf this is best_of_n.

    Cost in NFE: at least paths f(0, T), at most paths (f(0, T) + backtracks max f(s - back, s)), f(a, b) being the
    evaluations of one candidate from step a to step b and s the checks. Scores: one a path and one a check.
    """

    threshold: float | str = "pool"
    quantile: float = 0.5
    pool_size: int = 4
    checks: tuple[float, ...] = (0.25, 0.5, 0.75)
    back: float = 0.25
    backtracks: int = 4
    paths: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})
    previews_at: ClassVar[str] = "checks"
    asks: ClassVar[bool] = True
    size_option: ClassVar[str] = "paths"
    former_options: ClassVar[dict[str, str]] = {"pool": "pool_size"}

    def __post_init__(self) -> None:
        check_options(self, pool_size=1, backtracks=0, paths=1)
        if self.threshold != "pool" and (isinstance(self.threshold, str) or math.isnan(self.threshold)):
            raise UsageError(f"threshold={self.threshold} must be a score, or pool.")
        if not 0 <= self.quantile <= 1:
            raise UsageError(f"quantile={self.quantile} must be in [0, 1].")
        if list(self.checks) != sorted(set(self.checks)) or not all(0 < f < 1 for f in self.checks):
            raise UsageError(f"checks={self.checks} must be increasing fractions of the run in (0, 1).")
        if not 0 < self.back <= 1:
            raise UsageError(f"back={self.back} must be a share of the run in (0, 1].")

    # ---------------------------------------------------------------- the search

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        run = _Run(self, process, key)
        with suppress(BudgetExhausted):
            yield from run.go()
        if (
            self.paths is None or run.done == 0
        ):  # a given number of paths is enough, whatever is left of the budget
            with suppress(BudgetExhausted):
                yield from spend_leftover_budget(process, key, run.next_id)

    def cost(self, process: Process) -> int | None:
        """Not known in advance, unless no path can be sent back."""
        paths = self.count(process)
        never = self.backtracks == 0 or not self.steps(process)
        never |= self.threshold == -math.inf or (
            self.threshold == "pool" and (paths or math.inf) <= self.pool_size
        )
        return paths * process.nfe() if never and paths is not None else None

    def count(self, process: Process) -> int | None:
        """Number of paths. None means that the search continues until the budget ends it."""
        return CANDIDATES_WITHOUT_BUDGET if self.paths is None and not process.open_ended else self.paths

    def steps(self, process: Process) -> list[int]:
        """Steps at which paths are checked: one after each checked state, whose model call makes the preview."""
        return check_steps(process, self.checks)

    def target(self, process: Process, step: int) -> int:
        """The step that a path is sent back to from a check."""
        return step_back(process, step, self.back)


@dataclass
class PathState:
    """One row: a state that was checked, and the kernel that solves it (None for the pipeline's own scheduler)."""

    particles: Particles
    kernel: Kernel | None
    score: Scores

    @property
    def id(self) -> int:
        return self.particles.candidates[0].id


@dataclass
class Walk:
    """One path: its states at each check, and how often it may still be sent back."""

    left: int
    buffer: dict[int, list[PathState]] = field(default_factory=dict)

    def best(self, step: int) -> PathState | None:
        """The best state of a check; None if all have failed."""
        seen = self.buffer[step]
        ranking = Scores.cat([s.score for s in seen]).ranking()
        return seen[ranking[0]] if ranking else None

    def known(self, step: int, candidate: int) -> PathState | None:
        """The state of a candidate at this check, if it was computed before and then left for a better one."""
        return next((s for s in self.buffer.get(step, []) if s.id == candidate), None)


class _Run(Numbered):
    """All paths of one search. After `go`, next_id is the first unused candidate number."""

    def __init__(self, spec: Dfs, process: Process, key: Key) -> None:
        super().__init__()
        self.spec, self.process, self.key = spec, process, key
        self.steps = spec.steps(process)
        self.done = 0
        self.pooled: dict[int, Scores] = {}

    def go(self) -> Generator[Query, Any, None]:
        limit = self.spec.count(self.process)
        first = self.spec.pool_size if self.spec.threshold == "pool" else 0
        first = min(first, limit or first)
        while self.done < first and (n := (yield from self._granted(first - self.done, 0))):
            yield from self._pool(n)
        while (limit is None or self.done < limit) and (yield from self._granted(1, self.spec.backtracks)):
            yield from self._path()
            self.done += 1

    def _granted(self, paths: int, backtracks: int) -> Generator[Query, Any, int]:
        """Ask for so many paths, each sent back so often at most; how many there may be."""
        process, checks = self.process, len(self.steps)
        again = max((process.nfe(self.spec.target(process, s), s) for s in self.steps), default=0)
        nfe, scores = process.nfe() + backtracks * again, checks * (1 + backtracks)
        granted: int = yield Ask(nfe, process.calls(scores, 1), paths)
        return min(granted, self._affordable())

    def _affordable(self) -> int:
        """Number of paths, never sent back, that the budget pays for together with their checks."""
        process = self.process
        limits = (
            (process.nfe_left, process.nfe()),
            (process.calls_left, process.calls(len(self.steps), 1)),
        )
        return min((left // max(each, 1) for left, each in limits if left is not None), default=1 << 30)

    def _pool(self, n: int) -> Generator[Query, Any, None]:
        """The first paths, side by side. They are never sent back, and their previews set the threshold."""
        particles = self.process.start([draw(self.key, self.number()) for _ in range(n)])
        for step in self.steps:
            particles = yield Solve(particles, step)
            scores: Scores = yield Score(particles)
            before = self.pooled.get(step)
            self.pooled[step] = scores if before is None else Scores.cat([before, scores])
            particles = particles[: len(scores)]
        finished = yield Solve(particles)
        yield Score(finished)
        self.done += n

    def _path(self) -> Generator[Query, Any, None]:
        """One path, from fresh noise to the end."""
        walk, kernel = Walk(self.spec.backtracks), None
        particles = self.process.start([draw(self.key, self.number())])
        ahead = list(self.steps)
        while ahead:
            step = ahead.pop(0)
            state = yield from self._check(walk, particles, kernel, step)
            if not self._good(state, step):
                lost = not state.score.alive
                if self._may_go_back(walk, step, fresh=lost):
                    walk.left -= 1
                    back = 0 if lost else self.spec.target(self.process, step)
                    particles, kernel = self._fresh() if lost else self._renoised(state, back)
                    ahead = [s for s in self.steps if s > back]
                    continue
                if (best := walk.best(step)) is None:  # all attempts have failed
                    return
                state = best
            particles, kernel = state.particles, state.kernel
        finished = yield Solve(particles, None, kernel)
        yield Score(finished)

    def _check(
        self, walk: Walk, particles: Particles, kernel: Kernel | None, step: int
    ) -> Generator[Query, Any, PathState]:
        known = walk.known(step, particles.candidates[0].id)
        if known is not None:
            return known
        there = yield Solve(particles, step, kernel)
        scores: Scores = yield Score(there)
        state = PathState(there, kernel, scores)
        walk.buffer.setdefault(step, []).append(state)
        return state

    def _good(self, state: PathState, step: int) -> bool:
        if not state.score.alive:
            return False
        if self.spec.threshold != "pool":
            return float(state.score.total) >= float(self.spec.threshold)
        pool = self.pooled[step]
        # Combined in one pool, since scores made of ranks have a meaning only within one pool.
        *others, own = Scores.cat([pool[pool.alive], state.score]).total.tolist()
        if not others:
            return True
        return float(own) >= float(
            torch.quantile(torch.tensor(others, dtype=torch.float64), self.spec.quantile)
        )

    def _may_go_back(self, walk: Walk, step: int, fresh: bool = False) -> bool:
        """Whether a path may be sent back from a check (or begin afresh), and the budget lets it reach the end then."""
        process = self.process
        back = 0 if fresh else self.spec.target(process, step)
        checks = sum(s > back for s in self.steps)
        return walk.left > 0 and within(process, process.nfe(back), process.calls(checks, 1))

    def _fresh(self) -> tuple[Particles, Kernel | None]:
        """A new attempt from fresh noise, after a state that failed."""
        return self.process.start([draw(self.key, self.number())]), None

    def _renoised(self, state: PathState, back: int) -> tuple[Particles, Kernel | None]:
        """A new attempt by the forward process, and its kernel."""
        return renoised(self.process, self.key, state.particles, back, [self.number()])
