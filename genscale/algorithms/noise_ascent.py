"""Gradient ascent on the noise that a sample starts from: up r(G(z)) - reg (0.5 |z|^2 - (d - 1) log |z|).

G is the whole run of the model, or a few of its calls as a stand-in; r is what the search verifiers say together.
Several starts go up side by side, in one batch, with a state of their own each. What is common to reno, carinox, ditto,
ditto2, dno and dflow, which say what is published and what differs.

What a turn of gradients passes on its way, the clean estimate of its last call, is a finished image where all calls
were unrolled: it is scored as one, for nothing but a verifier call. After the last turn the noises that were never
evaluated are carried to the end by a plain run, which costs a fraction of a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.budget_planning import affordable, largest, within
from genscale.algorithms.leftover_budget import remainder
from genscale.diffusion.kernels import Ddim, Kernel
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.numerics.normality import measured
from genscale.numerics.optimisers import Optimiser, clipped, shell_gradient, shell_penalty
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import OWN, Candidate, Particles, draw
from genscale.protocol.queries import Gradient, Query, Score, Solve

Rows = Sequence[int]
WARM = 8  # plain candidates of a warm-up where only time or a stop rule ends the search
SHARE = 0.25  # of one trial of the one before it
FAILS = 2  # turns without a better trial, after which a start is given up


@dataclass(frozen=True)
class NoiseGradient:
    """Steps up the reward from several noises.

    iterations: gradients of each start. None is as many as the budget pays for; without a budget of NFE or verifier
    calls the published number, and then again from fresh noises while there is time.
    starts: noises that go up side by side, the pipeline's own and fresh ones; fewer where the budget pays for fewer.
    warmup: share of such a budget that is spent on plain candidates first, of which the best are the starts; they stay
    in the pool (8 where only time or a stop rule ends the search, none where nothing does). Ours, 0.7: the first step
    from a good noise is worth more than many from a poor one. 0 is published.
    trials: plain runs at so many shares of each step, 1, 1/4, 1/16, ..., of which the best is gone to if it is better;
    shares follow what was best before, a start is given up after 2 turns without one, and others begin. Ours, 3: a
    run costs a fourth of a gradient, and rewards are rugged. 0, published, takes every step as it is.
    reg: weight of the norm penalty.
    """

    iterations: int | None = None
    starts: int = 1
    warmup: float = 0.7
    trials: int = 3
    reg: float = 0.01

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule", "gradient"})
    size_option: ClassVar[str] = "starts"
    PUBLISHED: ClassVar[int] = 50
    each: ClassVar[bool] = False  # ask for every verifier's gradient by itself
    kernel: ClassVar[Ddim | None] = None  # of the transitions whose noises are optimised, too

    def __post_init__(self) -> None:
        for name in ("iterations", "starts", "opt_steps", "finals", "batch", "history"):
            value = getattr(self, name, None)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} must be at least 1.")
        if self.trials < 0:
            raise UsageError(f"trials={self.trials} must be 0 or more.")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup={self.warmup} must be a share of the budget in [0, 1).")
        for name in ("reg", "lr", "clip", "momentum", "mu", "first"):
            value = getattr(self, name, None)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{name}={value} must be a number of 0 or more.")

    # ---------------------------------------------------------------- what presets differ in

    @property
    def tries(self) -> int:
        return self.trials

    @property
    def share(self) -> float:
        """Of the budget, for the warm-up."""
        return self.warmup

    def optimiser(self) -> Optimiser:
        """At its start."""
        raise NotImplementedError

    def merit(self, scores: Scores, process: Process) -> Tensor:
        """What is climbed, float64 [n]."""
        return scores.total

    def slope(self, graded: Graded, process: Process) -> Tensor:
        """Its gradient [n, noises, *latent]."""
        return of_points(graded.gradient, graded.noises, process)

    def turn(self, climb: NoiseAscent, rows: Rows) -> Generator[Query, Any, tuple[Graded, Tensor]]:
        """The gradients at the points of these rows, and the merits there."""
        graded: Graded = yield climb.ask(rows)
        assert graded.scores is not None
        if climb.shows:
            yield from climb.finish_estimates(graded, rows)
        return graded, self.merit(graded.scores, climb.process)

    def turn_nfe(self, process: Process) -> int:
        """NFE of one row of a turn."""
        return process.gradient_nfe(0, self.calls(process), each=self.each)

    def turn_calls(self, process: Process, shows: bool) -> int:
        """Verifier calls of one row of a turn, that shows a finished image or none."""
        return process.calls(1, int(shows))

    def ends(self, process: Process, starts: int) -> int:
        """Of so many starts, how many are carried to the end after the last turn."""
        return starts

    def run(
        self, process: Process, candidates: Sequence[Candidate], points: Tensor, rest: Kernel | None
    ) -> Generator[Query, Any, Scores]:
        """Carry points [n, noises, *latent] to the end, and score them; only the first, where the budget ends."""
        finished = yield Solve(process.start(candidates, points[:, 0]), None, rest)
        scores: Scores = yield Score(finished)
        return scores

    # ---------------------------------------------------------------- the search

    def grid(self, process: Process) -> Process:
        return process.regridded()

    def calls(self, process: Process) -> tuple[int, ...]:
        """Model calls of a gradient after that at pure noise."""
        steps, some = process.model_steps, getattr(self, "opt_steps", None)
        k = steps if some is None else min(some, steps)
        return tuple(i * steps // k for i in range(1, k))

    def whole(self, process: Process) -> bool:
        """Whether what a gradient passes is the finished image."""
        return len(self.calls(process)) + 1 == process.model_steps

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        first = 0
        while (climb := NoiseAscent.planned(self, process, key, first)) is not None:
            try:
                yield from climb.run()
            except BudgetExhausted:  # of time, or a rule ended it
                first = climb.next_id
                break
            first = climb.next_id
            if self.iterations is not None or not process.open_ended:
                break
        if self.iterations is None or first == 0:
            yield from remainder(process, key, first)

    def cost(self, process: Process) -> int | None:
        if self.tries or (self.iterations is None and process.open_ended):
            return None
        turns, n = self.iterations or self.PUBLISHED, self.starts
        return (1 + self.ends(process, n)) * process.nfe() + n * turns * self.turn_nfe(process)


class NoiseAscent:
    """Some starts on their way up.

    roots, lead: the candidates of the starts and of the latest points. points, origins: noises [n, noises, *latent] of
    the latest points and of the starts. live: the rows that still climb. runs: plain candidates that come first, the
    pipeline's own among them. known: whether the starts were finished with these. best: merit of each row's point, or
    the most it had. steps: what the optimisers propose. fresh: rows whose step was not tried yet. scale: the largest
    share of the step that is tried next. failed: turns in which no share was better.
    """

    def __init__(
        self, spec: NoiseGradient, process: Process, key: Key, first: int, n: int, runs: int
    ) -> None:
        self.spec, self.process, self.key, self.next_id = spec, process, key, first
        self.n, self.live = n, list(range(n))
        self.own, self.runs = first == 0, runs
        self.known = self.warm >= n
        self.optimisers, self.turns = [spec.optimiser() for _ in range(n)], 0
        self.roots, self.lead = list[Candidate](), list[Candidate]()
        self.points = self.origins = self.steps = torch.empty(0)
        self.best, self.fresh = [-math.inf] * n, [False] * n
        self.scale, self.failed = [1.0] * n, [0] * n
        self.calls = spec.calls(process)
        self.rest = None if process.own_steps else Ddim(0.0)

    @property
    def warm(self) -> int:
        """Runs that may become starts: injected noises make another image of the pipeline's own noise."""
        return self.runs - int(self.own and self.spec.kernel is not None)

    @property
    def shows(self) -> bool:
        """Whether the next turn passes finished images that are not known yet."""
        new = self.turns == 0 and not self.known if self.spec.tries else self.turns > 0 or not self.known
        return new and self.spec.whole(self.process)

    @staticmethod
    def planned(spec: NoiseGradient, process: Process, key: Key, first: int) -> NoiseAscent | None:
        """As many starts as one turn and its end are paid for; None if not even one is."""
        own = int(first == 0)

        def paid(runs: int, n: int) -> bool:
            shows = spec.whole(process) and runs - int(own and spec.kernel is not None) < n
            after = n * spec.tries if spec.tries else spec.ends(process, n)
            nfe = (runs + after) * process.nfe() + n * spec.turn_nfe(process)
            calls = process.calls(0, runs + after) + n * spec.turn_calls(process, shows)
            return within(process, nfe, calls)

        most, runs = affordable(process), own
        if process.open_ended and spec.iterations is None and spec.share > 0:
            runs = WARM if most is None else max(int(spec.share * most), own)
        n = max(largest(spec.starts, lambda n: paid(runs, n)), 1)
        runs = max(largest(runs, lambda runs: paid(runs, n)), own)
        if not paid(runs, n):
            return None
        climb = NoiseAscent(spec, process, key, first, n, runs)
        return climb if climb.known else NoiseAscent(spec, process, key, first, n, own)

    def run(self) -> Generator[Query, Any, None]:
        yield from self._begin()
        limited = self.process.nfe_left is not None or self.process.calls_left is not None
        most = self.spec.iterations or (None if limited else self.spec.PUBLISHED)
        try:
            while (most is None or self.turns < most) and (rows := self._paid()):
                yield from (self._try(rows) if self.spec.tries else self._turn(rows))
        except BudgetExhausted:  # of time: a plain run may still fit
            yield from self._end()
            raise
        yield from self._end()

    # ---------------------------------------------------------------- the starts

    def _begin(self) -> Generator[Query, Any, None]:
        """The pipeline's own candidate as it is, plain ones, and the starts."""
        drawn = [draw(self.key, self.number()) for _ in range(max(self.n, self.warm, self.own))]
        kernel, chosen = self.spec.kernel, list(range(self.n))
        if kernel is not None:
            if self.own:
                yield from self._run(self.process.start(drawn[:1]), self.rest)
            drawn = [self._start(c) for c in drawn]
        if self.warm:
            noise = None if kernel is None else torch.stack([self._noises(c)[0] for c in drawn[: self.warm]])
            scores = yield from self._run(self.process.start(drawn[: self.warm], noise), kernel or self.rest)
            if self.known:
                merits = self.spec.merit(scores, self.process)
                chosen = torch.argsort(merits, descending=True, stable=True).tolist()[: self.n]
        fresh = self.known or kernel is not None
        self.roots = [drawn[i] if fresh else self._start(drawn[i]) for i in chosen]
        self.n, self.live = len(self.roots), list(range(len(self.roots)))
        self.lead = list(self.roots)
        self.points = self.origins = self.steps = torch.stack([self._noises(c) for c in self.roots])

    def _start(self, candidate: Candidate) -> Candidate:
        """The start at a candidate's noise: what a gradient passes there is not quite the plain run's image."""
        details = {"iteration": 0.0}
        if candidate.id != OWN:
            return replace(candidate, details=details)
        return Candidate(self.number(), "ascent", candidate.key, OWN, details=details)

    def _run(self, start: Particles, kernel: Kernel | None) -> Generator[Query, Any, Scores]:
        finished = yield Solve(start, None, kernel)
        scores: Scores = yield Score(finished)
        return scores

    def _noises(self, candidate: Candidate) -> Tensor:
        """[noises, *latent] of a start: the initial one, then those of the transitions between a gradient's calls."""
        own = candidate.origin == "ascent"
        initial = self.process.noise(draw(self.key, OWN) if own else candidate)
        if self.spec.kernel is None:
            return initial[None]
        steps = (0, *self.calls)[:-1]
        return torch.stack([initial, *(self.process.injected(candidate, i) for i in steps)])

    def number(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    # ---------------------------------------------------------------- turns

    def _paid(self) -> list[int]:
        """The live rows that the budget pays a turn for, the first ones, beside the runs to the end."""
        process, spec = self.process, self.spec
        ends = 0 if spec.tries else spec.ends(process, self.n)
        each, calls, run = spec.turn_nfe(process), spec.turn_calls(process, self.shows), int(spec.tries > 0)

        def paid(n: int) -> bool:
            asked = sum(not self.fresh[row] for row in self.live[:n])
            nfe = asked * each + (n * run + ends) * process.nfe()
            return within(process, nfe, asked * calls + process.calls(0, n * run + ends))

        return self.live[: largest(len(self.live), paid)]

    def ask(self, rows: Rows, pull: Tensor | None = None) -> Gradient:
        """The question for the gradients at the points of these rows."""
        points = self.points[list(rows)]
        particles = self.process.start([self.lead[i] for i in rows], points[:, 0])
        noises = None
        if self.spec.kernel is not None:
            noises = points[:, 1:].transpose(0, 1).to(particles.x.device)
        each = self.spec.each and pull is None
        return Gradient(particles, self.calls, self.spec.kernel, noises=noises, each=each, pull=pull)

    def _propose(self, rows: list[int]) -> Generator[Query, Any, list[int]]:
        """Query at these rows' points what steps to take; which rows were answered."""
        graded, merits = yield from self.spec.turn(self, rows)
        rows = rows[: len(graded)]
        points, reg = self.points[rows], self.spec.reg
        slope = self.spec.slope(graded, self.process) - reg * shell_gradient(points)
        slope = clipped(slope, getattr(self.spec, "clip", None))
        objective = merits - reg * shell_penalty(points)
        self.steps = self.steps.clone()
        for i, row in enumerate(rows):
            one = slice(i, i + 1)
            moved = self.optimisers[row].next(points[one], objective[one], slope[one])
            self.steps[row] = moved[0] - points[i]
            self.best[row] = max(self.best[row], float(merits[i]))
        return rows

    def _turn(self, rows: list[int]) -> Generator[Query, Any, None]:
        """Take every step as it is."""
        self.live = yield from self._propose(rows)
        self.turns += 1
        self.points = self.points.clone()
        self.points[self.live] += self.steps[self.live]
        for row in self.live:
            self.lead[row] = self._moved(row, self.points[row])

    def _try(self, rows: list[int]) -> Generator[Query, Any, None]:
        """Run shares of every step, and go where it is best; rows that the budget does not reach for end."""
        stale = [row for row in rows if not self.fresh[row]]
        answered = (yield from self._propose(stale)) if stale else []
        rows = [row for row in rows if self.fresh[row] or row in answered]
        self.turns += 1
        shares = [(row, self.scale[row] * SHARE**j) for j in range(self.spec.tries) for row in rows]
        points = torch.stack([self.points[row] + share * self.steps[row] for row, share in shares])
        tried = [self._moved(row, point, share) for (row, share), point in zip(shares, points, strict=True)]
        scores = yield from self.spec.run(self.process, tried, points, self.rest)
        merits = self.spec.merit(scores, self.process).tolist()
        for row in rows:
            mine = [i for i in range(len(merits)) if shares[i][0] == row]
            self._go(row, [(merits[i], shares[i][1], tried[i], points[i]) for i in mine])
        self.live = [row for row in rows if self.failed[row] < FAILS]

    def _go(self, row: int, tried: list[tuple[float, float, Candidate, Tensor]]) -> None:
        """To the best of what was tried, if it is better."""
        merit, share, lead, point = max(tried, key=lambda one: one[0], default=(-math.inf, 0.0, None, None))
        better = lead is not None and point is not None and merit > self.best[row]
        self.fresh[row], self.failed[row] = not better, 0 if better else self.failed[row] + 1
        if better and lead is not None and point is not None:
            self.scale[row] = share / SHARE
            self.lead[row], self.best[row] = lead, merit
            self.points = torch.cat([self.points[:row], point[None], self.points[row + 1 :]])
        else:
            self.scale[row] *= SHARE**self.spec.tries

    def _moved(self, row: int, point: Tensor, share: float = 1.0) -> Candidate:
        """The recipe of a row's new point: start, turn and share decide it, whatever the budget is."""
        details = {"iteration": float(self.turns)} | ({"share": share} if self.spec.tries else {})
        found = measured(point, self.origins[row])
        return Candidate(
            self.number(), "ascent", self.roots[row].key, self.lead[row].id, details=details, measured=found
        )

    def finish_estimates(self, graded: Graded, rows: Rows) -> Generator[Query, Any, None]:
        """The images that the gradients passed, as candidates."""
        rows = list(rows)[: len(graded)]
        shown = self.process.start([self.lead[i] for i in rows], self.points[rows, 0])
        clean = Prediction(graded.x0, torch.zeros_like(graded.x0))
        yield Score((yield Solve(self.process.estimate(shown, clean, shown.candidates))))

    def _end(self) -> Generator[Query, Any, None]:
        """Carry the points that no gradient was asked at to the end; those of the best starts first."""
        if self.turns and not self.spec.tries:
            rows = sorted(range(self.n), key=lambda row: -self.best[row])
            rows = rows[: self.spec.ends(self.process, self.n)]
            yield from self.spec.run(self.process, [self.lead[i] for i in rows], self.points[rows], self.rest)


def of_points(gradient: Tensor, noises: Tensor | None, process: Process) -> Tensor:
    """Gradients by latents [n, *latent] and by injected noises [transitions, n, *latent], as of points, on the CPU."""
    initial = process.to_noise(gradient)[:, None]
    return initial if noises is None else torch.cat([initial, noises.transpose(0, 1).cpu().float()], 1)
