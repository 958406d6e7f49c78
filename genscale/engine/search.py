"""One sampler on one prompt: the query that it waits with, what it has spent, and its finished candidates."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from genscale.diffusion.kernels import Kernel
from genscale.engine.allowance import Allowance
from genscale.engine.answer_rows import Answer, AnswerRows
from genscale.engine.archive import Entry
from genscale.engine.budget import Budget
from genscale.engine.failures import HOPELESS, Failure, Failures
from genscale.engine.own_ids import OwnIds
from genscale.engine.process import PromptProcess
from genscale.engine.query_checks import check_grid, check_query
from genscale.engine.ranking import Ranking
from genscale.engine.search_rules import check_acceptance, search_rules, stop_of, target_of
from genscale.engine.stopping import Stop, Stopped, StopRule
from genscale.engine.verifier_roles import Roles
from genscale.errors import BudgetExhausted
from genscale.key import Key
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.interfaces import Sampler, SamplerHooks
from genscale.protocol.particles import Particles
from genscale.protocol.population import Population
from genscale.protocol.queries import Ask, Denoise, Gradient, Query, Score, Solve


@dataclass
class Search:
    """State of one prompt's search. The engine drives it; samplers never see it.

    query: what the sampler waits for; None when it has ended.
    keep: how many of the best finished candidates keep their latents. results: how many the call returns, so that no
        stop rule and no time limit ends the search with fewer.
    rules: stop rules, asked about the scores of finished candidates. stopped: the rule that ended the search.
    independent: whether the finished candidates are independent draws of the model.
    accepts: the search score from which on the sampler accepts a finished candidate; None if it accepts none.
    time_left: what `Process.time_left` says; the engine sets it.
    allowance: what it was granted from a budget that all prompts share; None: it has its own.
    spent: NFE. calls: verifier calls. finished: number of clean candidates scored.
    entries: scores of the rows of the present query. ranks: the finished candidates.
    failures: the candidates that were dropped.
    population: what the sampler returned, if it weights its candidates.
    """

    index: int
    prompt: str
    process: PromptProcess
    generator: Generator[Query, Any, Population | None]
    budget: Budget
    roles: Roles
    keep: int = 1
    results: int = 1
    rules: tuple[StopRule, ...] = ()
    independent: bool = False
    accepts: float | None = None
    time_left: Callable[[], float] = lambda: float("inf")
    allowance: Allowance | None = None
    stopped: Stopped | None = None
    spent: int = 0
    calls: int = 0
    finished: int = 0
    query: Query | None = None
    entries: list[Entry | Failure | None] = field(default_factory=list)
    failures: Failures = field(default_factory=Failures)
    population: Population | None = None
    ranks: Ranking = field(init=False)
    _checked: int = 0
    _answers: AnswerRows | None = None
    _own: OwnIds = field(init=False)

    def __post_init__(self) -> None:
        self.ranks, self._own = Ranking.of(self.roles, self.keep), OwnIds(self.process)

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
        results: int = 1,
        stop: Stop | None = None,
        pool: bool = False,
        **process: Any,
    ) -> Search:
        """Start a sampler, up to its first query. pool: the budget goes into a Purse. process: of its PromptProcess."""

        def left() -> tuple[int | None, int | None]:
            return search.nfe_left, search.calls_left

        roles = roles.for_prompt(prompt)
        rules = search_rules(budget, stop, roles.judge)
        judges = (len(roles.search.members), roles.calls)
        calls = budget.verifier_calls if roles.calls else None  # without verifiers this limit ends nothing
        open_ended = any(v is not None for v in (budget.nfe, budget.images, budget.seconds, calls, stop))
        hooks = SamplerHooks.of(sampler)
        if "gradient" in hooks.needs:
            roles.search.check_differentiable()  # here, before anything is spent
        seen = PromptProcess(
            **process, open_ended=open_ended, scores_end=bool(rules), results=results, left=left,
            target=target_of(budget, roles),
            time=lambda: search.time_left(), judges=judges, prompt=prompt, verifiers=roles.search.names,
            probability=roles.search.probability, calibration=roles.search.calibration,
        )  # fmt: skip
        budget = budget.resolved(seen.nfe())  # of the pipeline's own grid
        if hooks.grid is not None:
            seen = check_grid(hooks.grid(seen), sampler)
        search = Search(
            index, prompt, seen, sampler.search(seen, key), budget, roles, keep, results, rules,
            hooks.independent, allowance=Allowance() if pool else None,
        )  # fmt: skip
        search.accepts = hooks.accepts(seen)
        check_acceptance(search.accepts, roles.selection)
        search._move(lambda: next(search.generator))
        return search

    # ---------------------------------------------------------------- the sampler's side

    def send(self, answer: Particles | Prediction | Graded | Scores | int) -> None:
        if isinstance(answer, Particles):
            self.process.own_path.record(answer)
        self._move(lambda: self.generator.send(answer))

    def throw(self, error: BudgetExhausted) -> None:
        self._move(lambda: self.generator.throw(error))

    def _move(self, go: Callable[[], Query]) -> None:
        """Advance the sampler to its next query. It computes without gradients, whatever the mode of the caller."""
        self.query, self._answers, self.entries = None, None, []  # frees their latents
        try:
            with torch.no_grad():
                query = go()
                while isinstance(query, Ask) and self.allowance is None:
                    query = self.generator.send(query.most)
            self._settle(query)
        except StopIteration as end:
            self.population = self._own.of_population(end.value, self.finals)
            self._settle(None)
        except BudgetExhausted:
            self._settle(None)

    def _settle(self, query: Query | None) -> None:
        if query is not None:
            check_query(query, self.process)
            if not isinstance(query, Ask):
                query = self._own.of_query(query)
                if self.process.origins is not None:
                    self.process.origins.meet(query.particles, isinstance(query, Score))
        else:
            self.process.prior.noise.forget()
        self.query, self._answers, self.entries = query, None, []

    # ---------------------------------------------------------------- the budget's side

    @property
    def nfe_left(self) -> int | None:
        limit = self.budget.nfe
        granted = limit if limit is None or self.allowance is None else self.allowance.nfe
        return None if granted is None else max(0, granted - self.spent)

    @property
    def calls_left(self) -> int | None:
        if self.budget.verifier_calls is None or self.roles.calls == 0:
            return None
        limit = self.budget.verifier_calls if self.allowance is None else self.allowance.calls
        return limit - self.calls

    @property
    def until(self) -> int | None:
        """The step that the present query leads to; None if it is not a Solve."""
        if not isinstance(self.query, Solve):
            return None
        return self.process.steps if self.query.until is None else self.query.until

    @property
    def kernel(self) -> Kernel | None:
        """The kernel of the present query; None: the pipeline's own scheduler."""
        return self.query.kernel if isinstance(self.query, Solve) else None

    @property
    def branch(self) -> str | None:
        """The branch of classifier-free guidance that the present query asks for; None: the guided prediction."""
        return self.query.branch if isinstance(self.query, Denoise) else None

    @property
    def price(self) -> int:
        """NFE of one row of the present Solve, Denoise or Gradient."""
        if isinstance(self.query, Gradient):
            query = self.query
            return self.process.gradient_nfe(self.particles.step, query.calls, query.through, query.each)
        return self.process.price(self.particles, self.until, self.kernel, self.branch)

    @property
    def to_the_end(self) -> int:
        """NFE of one row from the present step to the clean end."""
        return self.process.nfe(self.particles.step)

    @property
    def calls_a_score(self) -> int:
        """Verifier calls of one row of the present Score or Gradient."""
        if isinstance(self.query, Gradient):
            return self.process.calls(1, 0) if self.query.pull is None else 0
        return self.process.judges[self.particles.step == self.process.steps]

    def affordable(self) -> int:
        """How many rows of the present query the budget pays for; 0 once a stop rule ended the search.

        Rows that are solved to the clean end must be paid with their scores. A Denoise is paid whole or not at all.
        """
        if self.ended_early:
            return 0
        all_rows = rows = len(self.particles)
        if isinstance(self.query, Score):
            return self._scored(rows, self.calls_a_score)
        left = self.nfe_left
        if left is not None and self.price > 0:
            rows = min(rows, left // self.price)
        if isinstance(self.query, Gradient):
            return self._scored(rows, self.calls_a_score)
        if self.until == self.process.steps:
            rows = self._scored(rows, self.roles.calls)
        return rows if isinstance(self.query, Solve) or rows == all_rows else 0

    def _scored(self, rows: int, calls: int) -> int:
        """How many of the rows can be scored, at so many verifier calls each."""
        left = self.calls_left
        return rows if left is None or calls == 0 else min(rows, left // calls)

    # ---------------------------------------------------------------- answers under way

    @property
    def admitted(self) -> bool:
        return self._answers is not None

    @property
    def complete(self) -> bool:
        return self._answers is not None and self._answers.complete

    def admit(self, rows: int) -> None:
        """Begin the answer of the present query, of so many rows."""
        self._answers = AnswerRows(rows)

    def finish(self, row: int, answer: Answer, at: int = 0) -> None:
        """Row `row` of the present query is row `at` of this answer."""
        assert self._answers is not None
        self._answers.put(row, answer, at)

    def forget(self, rows: Sequence[int]) -> None:
        """Drop these rows, and all after the first of them, from the answer: no time is left for them."""
        assert self._answers is not None
        self._answers.forget(rows)

    @property
    def arrived(self) -> list[Particles]:
        """The rows of a Solve that have reached its end, while others are under way."""
        parts = [] if self._answers is None else self._answers.parts()
        return [part for part in parts if isinstance(part, Particles)]

    def continue_with(self, generator: Generator[Query, Any, Population | None], query: Query | None) -> None:
        """Let another generator, which waits with `query`, go on in place of the sampler."""
        self.generator, self.query, self._answers, self.entries = generator, query, None, []

    def answer(self) -> None:
        """Send the sampler the complete answer of its Solve, Denoise or Gradient."""
        assert self._answers is not None
        whole = self._answers.joined()
        self.throw(BudgetExhausted()) if whole is None else self.send(whole)

    @property
    def particles(self) -> Particles:
        """The particles of the present query."""
        assert isinstance(self.query, Solve | Denoise | Score | Gradient)
        return self.query.particles

    def label(self, row: int) -> str:
        return f"candidate {self.particles.candidates[row].id} of '{self.prompt}'"

    @property
    def ended_early(self) -> bool:
        """Whether a stop rule has ended it, or nothing else could and they do not, because all candidates fail."""
        limited = any((self.budget.nfe, self.budget.verifier_calls, self.budget.seconds)) or not self.rules
        return self.stopped is not None or (not limited and self.failures.in_a_row >= HOPELESS)

    # ---------------------------------------------------------------- the result

    @property
    def dropped(self) -> list[Failure]:
        """Candidates that cannot win. A finished one can, though a gradient at it failed later."""
        return self.failures.but({e.candidate.id for e in self.finals})

    def add_final(self, entry: Entry) -> None:
        """Take in a finished candidate."""
        self.failures.in_a_row = 0
        self.finished += 1
        self.ranks.add(entry)
        if entry.x is not None:
            entry.x = entry.x.clone()  # a view would hold the latents of all rows that were scored together

    @property
    def missing(self) -> int:
        """How many candidates must still be finished, or dropped, for as many as the call returns."""
        dropped = len(self.dropped) if self.failures.all else 0
        return max(0, self.results - len(self.finals) - dropped)

    @property
    def enough(self) -> bool:
        return self.missing == 0

    def check_stop_rules(self) -> None:
        """Ask the stop rules about the candidates that finished since the last call, once there are enough."""
        if self.rules and self.stopped is None and max(self._checked, self.results - 1) < len(self.finals):
            self.stopped = stop_of(self.rules, self.ranks, max(self._checked, self.results - 1))
            self._checked = len(self.finals)

    @property
    def finals(self) -> list[Entry]:
        """Scores of all finished candidates, in order."""
        return self.ranks.entries

    def ranking(self) -> list[Entry]:
        """Finished candidates from best to worst; of equals the one that finished first comes first."""
        return self.ranks.order()

    def totals(self, entries: Sequence[Entry]) -> list[float]:
        """Combined scores of entries, by the verifiers that pick the winner."""
        return self.ranks.totals(entries)

    @property
    def accepted(self) -> Entry | None:
        """The first finished candidate that the sampler accepted; None if it accepted none."""
        return None if self.accepts is None else self.ranks.first(self.accepts)

    def best(self) -> Entry | None:
        """The best finished candidate; None before the first."""
        return self.ranks.best()
