"""One sampler at work on one prompt: its question, its budget, its finished candidates."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from genscale.diffusion.kernels import Kernel
from genscale.engine.archive import Entry
from genscale.engine.budget import Budget
from genscale.engine.gradient_checks import check_gradient
from genscale.engine.process import PromptProcess
from genscale.engine.stopping import Stop, Stopped, StopRule, Target, first_stop
from genscale.engine.verifier_roles import Roles
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.interfaces import Process, Sampler, SamplerHooks
from genscale.protocol.particles import OWN, Candidate, Particles, cat
from genscale.protocol.population import Population
from genscale.protocol.queries import Denoise, Gradient, Query, Score, Solve


@dataclass
class Search:
    """State of one prompt's search. The engine moves it on; samplers never see it.

    keep: how many of the best finished candidates keep their latents. spent: NFE. calls: verifier calls.
    finished: clean candidates scored. population: what the sampler returned, if it weighs its candidates.
    rules: what may end it, from the scores; stopped: the one that did. independent: whether the finished candidates
    are independent draws of the model.
    """

    index: int
    prompt: str
    process: PromptProcess
    generator: Generator[Query, Any, Population | None]
    budget: Budget
    roles: Roles
    keep: int = 1
    rules: tuple[StopRule, ...] = ()
    independent: bool = False
    stopped: Stopped | None = None
    spent: int = 0
    calls: int = 0
    finished: int = 0
    query: Query | None = None
    finals: list[Entry] = field(default_factory=list)
    entries: list[Entry | None] = field(default_factory=list)
    population: Population | None = None
    _ranked: list[tuple[float, Entry]] = field(default_factory=list)  # best first; where scores stand alone
    _checked: int = 0
    _answers: list[Particles | Prediction | Graded | None] | None = None
    _scored_as: Candidate | None = (
        None  # what the sampler scored as candidate 0, though it is not the pipeline's own
    )

    @staticmethod
    def open(
        index: int,
        prompt: str,
        sampler: Sampler,
        key: Key,
        budget: Budget,
        roles: Roles,
        *,
        keep: int = 1,
        stop: Stop | None = None,
        **process: Any,
    ) -> Search:
        """Start a sampler on a process made of the given parts; its first question is waiting."""

        def left() -> tuple[int | None, int | None]:
            return search.nfe_left, search.calls_left

        if budget.target is not None and not roles.judge.pointwise:
            raise UsageError(
                "a target score needs scores that stand alone, not ranks: use the weighted ensemble."
            )
        if stop is not None and not roles.judge.pointwise:
            raise UsageError(
                f"stop '{stop}' needs scores that stand alone, not ranks: use the weighted ensemble."
            )
        judges = (len(roles.search.members), roles.calls)
        calls = budget.verifier_calls if roles.calls else None  # without verifiers it ends nothing
        open_ended = any(v is not None for v in (budget.nfe, budget.images, budget.seconds, calls, stop))
        hooks = SamplerHooks.of(sampler)
        if "gradient" in hooks.needs:
            roles.search.check_differentiable()  # here, before anything is spent
        seen = PromptProcess(
            **process, open_ended=open_ended, left=left, judges=judges, prompt=prompt, verifiers=roles.search.names
        )  # fmt: skip
        budget = budget.resolved(seen.nfe())  # of the pipeline's own grid
        if hooks.grid is not None:
            seen = _regridded(hooks.grid(seen), sampler)
        rules = (() if budget.target is None else (Target(budget.target),)) + (stop.rules if stop else ())
        search = Search(
            index, prompt, seen, sampler.search(seen, key), budget, roles, keep, rules,
            hooks.independent,
        )  # fmt: skip
        search._move(lambda: next(search.generator))
        return search

    # ---------------------------------------------------------------- the sampler's side

    def send(self, answer: Particles | Prediction | Graded | Scores) -> None:
        if isinstance(answer, Particles):
            self.process.own_path.record(answer)
        self._move(lambda: self.generator.send(answer))

    def throw(self, error: BudgetExhausted) -> None:
        self._move(lambda: self.generator.throw(error))

    def _move(self, go: Callable[[], Query]) -> None:
        """A search computes without a graph, whatever the mode of who drives the engine."""
        try:
            with torch.no_grad():
                query = go()
            self._settle(query)
        except StopIteration as end:
            self.population = self._with_own_ids(end.value)
            self._settle(None)
        except BudgetExhausted:
            self._settle(None)

    def _settle(self, query: Query | None) -> None:
        if query is not None:
            _check(query, self.process)
            query = self._off_own_path(query)
        self.query, self._answers, self.entries = query, None, []

    def _off_own_path(self, query: Query) -> Query:
        """The query; candidate 0 has a new id where it leaves, or has left, the pipeline's own path."""
        process, particles = self.process, self.process.own_path.checked(query.particles)
        if isinstance(query, Score) and particles.step == process.steps:
            pairs = zip(query.particles.candidates, particles.candidates, strict=True)
            self._scored_as = next((new for old, new in pairs if new.id != old.id), self._scored_as)
        if isinstance(query, Solve) and query.kernel is not None:
            until = process.steps if query.until is None else query.until
            if until > particles.step < process.model_steps:
                particles = process.off_path(particles, repr(query.kernel))
        return query if particles is query.particles else replace(query, particles=particles)

    def _with_own_ids(self, population: Population | None) -> Population | None:
        """The population, which names candidates as they were scored."""
        if population is None or self._scored_as is None or any(e.candidate.id == OWN for e in self.finals):
            return population
        named = tuple(self._scored_as if c.id == OWN else c for c in population.candidates)
        return replace(population, candidates=named)

    # ---------------------------------------------------------------- the budget's side

    @property
    def nfe_left(self) -> int | None:
        return None if self.budget.nfe is None else max(0, self.budget.nfe - self.spent)

    @property
    def calls_left(self) -> int | None:
        if self.budget.verifier_calls is None or self.roles.calls == 0:
            return None
        return self.budget.verifier_calls - self.calls

    @property
    def until(self) -> int | None:
        """The step that the present question leads to; None if it leads to none."""
        if not isinstance(self.query, Solve):
            return None
        return self.process.steps if self.query.until is None else self.query.until

    @property
    def kernel(self) -> Kernel | None:
        """What the present question steps with; None is the pipeline's own scheduler."""
        return self.query.kernel if isinstance(self.query, Solve) else None

    @property
    def branch(self) -> str | None:
        """The branch of classifier-free guidance that the present question is about; None: all."""
        return self.query.branch if isinstance(self.query, Denoise) else None

    @property
    def price(self) -> int:
        """Evaluations that one row of the present Solve, Denoise or Gradient takes."""
        if isinstance(self.query, Gradient):
            query = self.query
            return self.process.gradient_nfe(self.particles.step, query.calls, query.through, query.each)
        return self.process.price(self.particles, self.until, self.kernel, self.branch)

    @property
    def to_the_end(self) -> int:
        """Evaluations that one row takes from the present step to the clean end."""
        return self.process.nfe(self.particles.step)

    @property
    def calls_a_score(self) -> int:
        """Verifier calls that one row of the present Score or Gradient takes."""
        if isinstance(self.query, Gradient):
            return self.process.calls(1, 0) if self.query.pull is None else 0
        return self.process.judges[self.particles.step == self.process.steps]

    def affordable(self) -> int:
        """How many rows of the present question may go. Those that will be finished must be judged, too; a
        Denoise goes whole or not at all. None once a rule has said stop."""
        if self.stopped is not None:
            return 0
        all_rows = rows = len(self.particles)
        if isinstance(self.query, Score):
            return self._judged(rows, self.calls_a_score)
        left = self.nfe_left
        if left is not None and self.price > 0:
            rows = min(rows, left // self.price)
        if isinstance(self.query, Gradient):
            return self._judged(rows, self.calls_a_score)
        if self.until == self.process.steps:
            rows = self._judged(rows, self.roles.calls)
        return rows if isinstance(self.query, Solve) or rows == all_rows else 0

    def _judged(self, rows: int, calls: int) -> int:
        left = self.calls_left
        return rows if left is None or calls == 0 else min(rows, left // calls)

    # ---------------------------------------------------------------- answers under way

    @property
    def admitted(self) -> bool:
        return self._answers is not None

    @property
    def complete(self) -> bool:
        return self._answers is not None and all(a is not None for a in self._answers)

    def admit(self, rows: int) -> None:
        self._answers = [None] * rows

    def finish(self, row: int, answer: Particles | Prediction | Graded) -> None:
        assert self._answers is not None
        self._answers[row] = answer

    def forget(self, rows: Sequence[int]) -> None:
        """Drop these rows and all after them from what will be answered (no time is left for them)."""
        assert self._answers is not None
        del self._answers[min(rows, default=len(self._answers)) :]

    def answer(self) -> None:
        """Give the sampler what it asked the model for."""
        answers, query = self._answers, self.query
        assert answers is not None
        if not answers:
            self.throw(BudgetExhausted())
        elif isinstance(query, Solve):
            self.send(cat([a for a in answers if isinstance(a, Particles)]))
        elif isinstance(query, Gradient):
            self.send(Graded.cat([a for a in answers if isinstance(a, Graded)]))
        else:
            parts = [a for a in answers if isinstance(a, Prediction)]
            self.send(Prediction.cat(parts))

    @property
    def particles(self) -> Particles:
        """The particles that the present question is about."""
        assert isinstance(self.query, Solve | Denoise | Score | Gradient)
        return self.query.particles

    def label(self, row: int) -> str:
        return f"candidate {self.particles.candidates[row].id} of '{self.prompt}'"

    # ---------------------------------------------------------------- the result

    def add_final(self, entry: Entry) -> None:
        self.finals.append(entry)
        self.finished += 1
        if not self.roles.judge.pointwise:  # a rank may rise later: then all keep their latents
            return
        [total] = self.totals([entry])
        at = bisect_right(self._ranked, -total, key=lambda ranked: -ranked[0])
        self._ranked.insert(at, (total, entry))
        for _, loser in self._ranked[self.keep : self.keep + 1] if at < self.keep else [(total, entry)]:
            if loser.candidate.id != OWN:  # the base is kept to be shown beside the best
                loser.x = None

    def check_stop_rules(self) -> None:
        """Ask the stop rules about the candidates that finished since the last call."""
        if self.rules and self.stopped is None and self._checked < len(self.finals):
            totals = self.totals(self.finals)
            self.stopped = first_stop(self.rules, totals, self._checked)
            self._checked = len(totals)

    def ranking(self) -> list[Entry]:
        """Finished candidates from best to worst; among equals the one finished first."""
        if self.roles.judge.pointwise:
            return [entry for _, entry in self._ranked]
        if not self.finals:
            return []
        totals = self.totals(self.finals)
        order = sorted(range(len(totals)), key=lambda i: -totals[i])
        return [self.finals[i] for i in order]

    def totals(self, entries: Sequence[Entry]) -> list[float]:
        judge = self.roles.judge
        raw = torch.tensor(
            [[(e.select or e.scores)[n] for n in judge.names] for e in entries], dtype=torch.float64
        ).reshape(len(entries), len(judge.names))
        return [float(t) for t in judge.combine(raw)]

    def best(self) -> Entry | None:
        if self._ranked:
            return self._ranked[0][1]
        ranking = self.ranking()
        return ranking[0] if ranking else None

    def may_lead(self, entry: Entry) -> bool:
        """Whether a new finished candidate is the best so far; by ranks, any may become it later."""
        best = self.best()
        if best is None or not self.roles.judge.pointwise:
            return True
        old, new = self.totals([best, entry])
        return new > old


def _regridded(process: Process, sampler: Sampler) -> PromptProcess:
    if not isinstance(process, PromptProcess):
        raise TypeError(f"{type(sampler).__name__}.grid must return process.regridded(...), not {process!r}")
    return process


def _check(query: Query, process: PromptProcess) -> None:
    """Mistakes in a sampler are told where they are made."""
    steps = process.steps
    if not isinstance(query, Solve | Denoise | Score | Gradient):
        raise TypeError(f"a sampler asks with Solve, Denoise, Score or Gradient, not {query!r}")
    step = query.particles.step
    if query.particles.inner and not (isinstance(query, Solve) and query.kernel is not None):
        raise ValueError(
            "particles within a transition of several model calls must be solved on by its kernel"
        )
    if isinstance(query, Solve) and query.until is not None and not step <= query.until <= steps:
        raise ValueError(f"particles at step {step} of {steps} cannot be solved to step {query.until}")
    if isinstance(query, Denoise) and step >= steps:
        raise ValueError("particles at the clean end have no model call left: Denoise before it")
    if isinstance(query, Gradient):
        check_gradient(query, process)
