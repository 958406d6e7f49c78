"""Gradient ascent on the initial noise z, to maximise r(G(z)) - reg (0.5 |z|^2 - (d - 1) log |z|).

G is the whole run of the model, or an approximation by a few of its calls. r is the combined score of the search
verifiers. Several starts are optimised in one batch, each with its own optimiser. This module is shared by reno,
carinox, ditto, ditto2, dno and dflow; their docstrings say how they differ from the papers.

If all model calls are differentiated, the clean estimate of the last call is a finished image. It is scored as a
candidate, which costs only a verifier call. After the last step, noises that were not evaluated yet are run to the end,
which costs a fraction of a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genscale.algorithms.ascent_options import AscentOptions
from genscale.algorithms.budget_planning import affordable, largest, within
from genscale.algorithms.leftover_budget import spend_leftover_budget
from genscale.algorithms.passes import Numbered
from genscale.diffusion.kernels import Ddim, Kernel
from genscale.errors import BudgetExhausted
from genscale.key import Key
from genscale.numerics.normality import measured
from genscale.numerics.optimisers import clipped, shell_gradient, shell_penalty
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import OWN, Candidate, Particles, draw
from genscale.protocol.queries import Gradient, Query, Score, Solve

Rows = Sequence[int]
WARM = 8  # plain candidates in a warm-up if only a time limit or a stop rule ends the search
SHARE = 0.25  # ratio of the step sizes of two successive trials
FAILS = 2  # steps without an improvement after which a start is given up


@dataclass(frozen=True)
class NoiseGradient(AscentOptions):
    """Gradient ascent on the noises of several starts."""

    def turn(self, climb: NoiseAscent, rows: Rows) -> Generator[Query, Any, tuple[Graded, Tensor]]:
        """The gradients and the objective [n] at the points of the given rows."""
        graded: Graded = yield climb.ask(rows)
        assert graded.scores is not None
        if climb.shows:
            yield from climb.finish_estimates(graded, rows)
        return graded, self.merit(graded.scores, climb.process)

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        first = 0
        while (climb := NoiseAscent.planned(self, process, key, first)) is not None:
            try:
                yield from climb.run()
            except BudgetExhausted:  # time is up, or a stop rule ended the search
                first = climb.next_id
                break
            first = climb.next_id
            if self.iterations is not None or not process.open_ended:
                break
        if self.iterations is None or first == 0:
            yield from spend_leftover_budget(process, key, first)

    def cost(self, process: Process) -> int | None:
        if self.tries or (self.iterations is None and process.open_ended):
            return None
        turns, n = self.iterations or self.PUBLISHED, self.starts
        return (1 + self.ends(process, n)) * process.nfe() + n * turns * self.turn_nfe(process)


class NoiseAscent(Numbered):
    """The ascent from n starts.

    roots, lead: the candidates of the starts and of the latest points. points, origins: noises [n, noises, *latent] of
    the latest points and of the starts. live: rows that are still optimised. runs: number of plain candidates of the
    warm-up, including the pipeline's own. known: whether the starts were scored in the warm-up. best: largest objective
    of each row so far. steps: the steps that the optimisers propose. fresh: rows whose last step was rejected, so that
    the gradient at their point is known. scale: the largest share of the next step that is tried. failed: number of
    successive steps without an improvement. lost: rows whose candidate or gradient is not finite.
    """

    def __init__(
        self, spec: NoiseGradient, process: Process, key: Key, first: int, n: int, runs: int
    ) -> None:
        super().__init__(first)
        self.spec, self.process, self.key = spec, process, key
        self.n, self.live = n, list(range(n))
        self.own, self.runs = first == 0, runs
        self.known = self.warm >= n
        self.optimisers, self.turns = [spec.optimiser() for _ in range(n)], 0
        self.roots, self.lead = list[Candidate](), list[Candidate]()
        self.points = self.origins = self.steps = torch.empty(0)
        self.best, self.fresh = [-math.inf] * n, [False] * n
        self.scale, self.failed, self.lost = [1.0] * n, [0] * n, set[int]()
        self.calls = spec.calls(process)
        self.rest = None if process.own_steps else Ddim(0.0)

    @property
    def warm(self) -> int:
        """The number of warm-up runs that can become starts. If injected noises are optimised too, the pipeline's own
        run is not one of them."""
        return self.runs - int(self.own and self.spec.kernel is not None)

    @property
    def shows(self) -> bool:
        """Whether the next gradients produce finished images that were not scored yet."""
        new = self.turns == 0 and not self.known if self.spec.tries else self.turns > 0 or not self.known
        return new and self.spec.whole(self.process)

    @staticmethod
    def planned(spec: NoiseGradient, process: Process, key: Key, first: int) -> NoiseAscent | None:
        """The ascent from the largest number of starts for which the budget pays for one gradient step and the runs to
        the end; None if it does not pay for one start."""
        own = int(first == 0)

        def allowed(runs: int, n: int) -> bool:
            shows = spec.whole(process) and runs - int(own and spec.kernel is not None) < n
            after = n * spec.tries if spec.tries else spec.ends(process, n)
            nfe = (runs + after) * process.nfe() + n * spec.turn_nfe(process)
            calls = process.calls(0, runs + after) + n * spec.turn_calls(process, shows)
            return within(process, nfe, calls)

        most, runs = affordable(process), own
        if process.open_ended and spec.iterations is None and spec.share > 0:
            runs = WARM if most is None else max(int(spec.share * most), own)
        n = max(largest(spec.starts, lambda n: allowed(runs, n)), 1)
        runs = max(largest(runs, lambda runs: allowed(runs, n)), own)
        if not allowed(runs, n):
            return None
        climb = NoiseAscent(spec, process, key, first, n, runs)
        return climb if climb.known else NoiseAscent(spec, process, key, first, n, own)

    def run(self) -> Generator[Query, Any, None]:
        yield from self._begin()
        limited = self.process.nfe_left is not None or self.process.calls_left is not None
        most = self.spec.iterations or (None if limited else self.spec.PUBLISHED)
        try:
            while (most is None or self.turns < most) and (rows := self._affordable_rows()):
                yield from (self._try(rows) if self.spec.tries else self._turn(rows))
        except BudgetExhausted:  # no time for a gradient, but perhaps for a plain run
            yield from self._end()
            raise
        yield from self._end()

    # ---------------------------------------------------------------- the starts

    def _begin(self) -> Generator[Query, Any, None]:
        """Run the pipeline's own candidate and the warm-up, and choose the starts."""
        drawn = [draw(self.key, self.number()) for _ in range(max(self.n, self.warm, self.own))]
        kernel, chosen = self.spec.kernel, list(range(self.n))
        if kernel is not None:
            if self.own:
                own = yield from self._run(self.process.start(drawn[:1]), self.rest)
                drawn = self._replaced(drawn, own)
            drawn = [self._start(c) for c in drawn]
        if self.warm:
            noise = None if kernel is None else torch.stack([self._noises(c)[0] for c in drawn[: self.warm]])
            scores = yield from self._run(self.process.start(drawn[: self.warm], noise), kernel or self.rest)
            if self.known:
                merits = self.spec.merit(scores, self.process)
                order = torch.argsort(merits, descending=True, stable=True).tolist()
                chosen = [i for i in order if math.isfinite(merits[i])][: self.n]
            elif kernel is None:
                drawn = self._replaced(drawn, scores)
        fresh = self.known or kernel is not None
        self.roots = [drawn[i] if fresh else self._start(drawn[i]) for i in chosen]
        self.n, self.live = len(self.roots), list(range(len(self.roots)))
        if not self.roots:  # all have failed
            return
        self.lead = list(self.roots)
        self.points = self.origins = self.steps = torch.stack([self._noises(c) for c in self.roots])

    def _replaced(self, drawn: Sequence[Candidate], scores: Scores) -> list[Candidate]:
        """The candidates, of which the first were scored, with fresh ones in place of those that failed."""
        lost = set(range(len(scores))) - set(scores.alive)
        return [draw(self.key, self.number()) if i in lost else c for i, c in enumerate(drawn)]

    def _start(self, candidate: Candidate) -> Candidate:
        """The start at the noise of a candidate. It is a new candidate, because the image that the differentiated model
        calls produce differs slightly from that of the plain run."""
        details = {"iteration": 0.0}
        if candidate.id != OWN:
            return replace(candidate, details=details)
        return Candidate(self.number(), "ascent", candidate.key, OWN, details=details)

    def _run(self, start: Particles, kernel: Kernel | None) -> Generator[Query, Any, Scores]:
        """Run plain candidates to the end, one at a time where the score of one can end the search."""
        size, parts = 1 if self.process.scores_end else len(start), list[Scores]()
        with suppress(BudgetExhausted):
            for i in range(0, len(start), size):
                finished = yield Solve(start[i : i + size], None, kernel)
                parts.append((yield Score(finished)))
        if not parts:
            raise BudgetExhausted
        return Scores.cat(parts)

    def _noises(self, candidate: Candidate) -> Tensor:
        """Noises [noises, *latent] of a start: the initial noise, then those of the transitions between model calls."""
        own = candidate.origin == "ascent"
        initial = self.process.noise(draw(self.key, OWN) if own else candidate)
        if self.spec.kernel is None:
            return initial[None]
        steps = (0, *self.calls)[:-1]
        return torch.stack([initial, *(self.process.injected(candidate, i) for i in steps)])

    # ---------------------------------------------------------------- gradient steps

    def _affordable_rows(self) -> list[int]:
        """The first live rows: as many as the budget pays a step for, with the runs to the end reserved."""
        process, spec = self.process, self.spec
        ends = 0 if spec.tries else spec.ends(process, self.n)
        each, calls, run = spec.turn_nfe(process), spec.turn_calls(process, self.shows), int(spec.tries > 0)

        def allowed(n: int) -> bool:
            asked = sum(not self.fresh[row] for row in self.live[:n])
            nfe = asked * each + (n * run + ends) * process.nfe()
            return within(process, nfe, asked * calls + process.calls(0, n * run + ends))

        return self.live[: largest(len(self.live), allowed)]

    def ask(self, rows: Rows, pull: Tensor | None = None) -> Gradient:
        """The query for the gradients at the points of the given rows."""
        points = self.points[list(rows)]
        particles = self.process.start([self.lead[i] for i in rows], points[:, 0])
        noises = None
        if self.spec.kernel is not None:
            noises = points[:, 1:].transpose(0, 1).to(particles.x.device)
        each = self.spec.each and pull is None
        return Gradient(particles, self.calls, self.spec.kernel, noises=noises, each=each, pull=pull)

    def _propose(self, rows: list[int]) -> Generator[Query, Any, list[int]]:
        """Compute the next step of the given rows. Returns the rows for which the budget sufficed."""
        graded, merits = yield from self.spec.turn(self, rows)
        rows = rows[: len(graded)]
        points, reg = self.points[rows], self.spec.reg
        failed = ~merits.isfinite() if graded.failed is None else graded.failed | ~merits.isfinite()
        lost = failed.tolist()  # these starts end here
        slope = self.spec.slope(graded, self.process) - reg * shell_gradient(points)
        slope = clipped(slope, getattr(self.spec, "clip", None))
        objective = merits - reg * shell_penalty(points)
        self.steps = self.steps.clone()
        for i, row in enumerate(rows):
            if lost[i]:
                self.lost.add(row)
                continue
            one = slice(i, i + 1)
            moved = self.optimisers[row].next(points[one], objective[one], slope[one])
            self.steps[row] = moved[0] - points[i]
            self.best[row] = max(self.best[row], float(merits[i]))
        return [row for row in rows if row not in self.lost]

    def _turn(self, rows: list[int]) -> Generator[Query, Any, None]:
        """Take every proposed step in full."""
        self.live = yield from self._propose(rows)
        self.turns += 1
        self.points = self.points.clone()
        self.points[self.live] += self.steps[self.live]
        for row in self.live:
            self.lead[row] = self._moved(row, self.points[row])

    def _try(self, rows: list[int]) -> Generator[Query, Any, None]:
        """Try several sizes of every step by plain runs, and move to the best. Rows for which the budget ends are
        dropped."""
        stale = [row for row in rows if not self.fresh[row]]
        answered = (yield from self._propose(stale)) if stale else []
        rows = [row for row in rows if self.fresh[row] or row in answered]
        self.turns += 1
        if not rows:
            self.live = []
            return
        shares = [(row, self.scale[row] * SHARE**j) for j in range(self.spec.tries) for row in rows]
        points = torch.stack([self.points[row] + share * self.steps[row] for row, share in shares])
        tried = [self._moved(row, point, share) for (row, share), point in zip(shares, points, strict=True)]
        scores = yield from self.spec.run(self.process, tried, points, self.rest)
        merits = self.spec.merit(scores, self.process).tolist()
        for row in rows:
            mine = [i for i in range(len(merits)) if shares[i][0] == row]
            self._move_to_best(row, [(merits[i], shares[i][1], tried[i], points[i]) for i in mine])
        self.live = [row for row in rows if self.failed[row] < FAILS]

    def _move_to_best(self, row: int, tried: list[tuple[float, float, Candidate, Tensor]]) -> None:
        """Move a row to its best trial, if that improves the objective."""
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
        """The candidate at the new point of a row. Its key depends on start, step and share only, not on the budget."""
        details = {"iteration": float(self.turns)} | ({"share": share} if self.spec.tries else {})
        found = measured(point, self.origins[row])
        return Candidate(
            self.number(), "ascent", self.roots[row].key, self.lead[row].id, details=details, measured=found
        )

    def finish_estimates(self, graded: Graded, rows: Rows) -> Generator[Query, Any, None]:
        """Score the finished images that the gradients produced, as candidates."""
        rows = list(rows)[: len(graded)]
        shown = self.process.start([self.lead[i] for i in rows], self.points[rows, 0])
        clean = Prediction(graded.x0, torch.zeros_like(graded.x0))
        yield Score((yield Solve(self.process.estimate(shown, clean, shown.candidates))))

    def _end(self) -> Generator[Query, Any, None]:
        """Run the latest points, which were not evaluated yet, to the end, in the order of the best starts."""
        if self.turns and not self.spec.tries:
            rows = sorted(set(range(self.n)) - self.lost, key=lambda row: -self.best[row])
            rows = rows[: self.spec.ends(self.process, self.n)]
            if not rows:
                return
            yield from self.spec.run(self.process, [self.lead[i] for i in rows], self.points[rows], self.rest)
