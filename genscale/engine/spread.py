"""An engine whose batches are evaluated, decoded and scored by workers.

All decisions are made here, in the process of the searches: the samplers, the solvers' steps, budgets, the archive.
Workers evaluate batches of the model, and turn latents into scores. Answers are taken in the order in which the work
was given out, so what is decided does not depend on which worker was faster. How rows are divided into batches does
depend on the number of workers, which changes results by rounding, as any batch size does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from genscale.engine.engine import Engine
from genscale.engine.judging import Judged, Unjudged
from genscale.engine.ledger import Ledger
from genscale.engine.model_batches import ModelRows
from genscale.engine.scoring import ScoreJob, Scoring, unjudged
from genscale.engine.search import Search
from genscale.engine.verifier_calls import Left, unlimited
from genscale.errors import UsageError
from genscale.protocol.batches import Batch, Output
from genscale.protocol.crew import Crew

LONGEST = 1e9  # seconds, in place of no limit: a message cannot hold a function
AHEAD = 2  # batches for each worker that are under way at once, so that none waits for the driver


@dataclass(frozen=True)
class Evaluate:
    """To be done by a worker: evaluate a batch; the answer is an Evaluated."""

    batch: Batch


@dataclass(frozen=True)
class Evaluated:
    """seconds: that the model took. told: what the loop told its scheduler beside the output, by name."""

    output: Output
    seconds: float
    told: dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """To be done by a worker: decode and score; the answer is a JudgedThere.

    seconds: for which a remote verifier may be waited for. shows: whether the images are sent back.
    """

    asked: Unjudged
    seconds: float
    shows: bool


@dataclass(frozen=True)
class JudgedThere:
    """ledger: what it took."""

    found: Judged
    ledger: Ledger


class SpreadEngine(Engine):
    """As Engine, but driven by `run_on` with workers, not by a pipeline's loop."""

    def run_on(self, crew: Crew, shows: bool, hear: Callable[[dict[str, Any]], None]) -> None:
        """Answer the queries of all searches with what the workers find.

        shows: whether images are sent here. hear: takes what each batch's loop told its scheduler, before the step.
        """
        scoring = self._scoring = SpreadScoring(self._scoring, crew, shows)
        model, under_way = self._model, deque[tuple[list[ModelRows], int]]()
        while True:
            self._check_halt()
            for search in self.searches:
                self._admit(search)
            left = model.evaluations_left()
            if model.drop_late(left):
                continue
            if not self.overlapping:
                self.capacity.archive.settle()
            if model.waiting and len(under_way) < AHEAD * crew.count:
                rows = sum(len(part.rows) for parts, _ in under_way for part in parts)
                batch = model.next_batch(left, self._share(rows, crew.count))
                under_way.append((model.evaluated, crew.submit(Evaluate(batch))))
            elif under_way:
                parts, number = under_way.popleft()
                found: Evaluated = crew.result(number)
                self.capacity.archive.settle()
                self.ledger.add_seconds("denoise", found.seconds)
                hear(found.told)
                model.evaluated = parts
                model.absorb(found.output.to(parts[0].particles.x.device))
            elif self._gradients.waiting:
                raise UsageError(
                    "the sampler asks for gradients, which are not sent between processes: search with "
                    "executor='local', or without gradients (gradient=none of das and svdd)."
                )
            elif not scoring.run(self.searches) and not (self._purse and self._purse.round()):
                return

    def _share(self, under_way: int, workers: int) -> int:
        """Rows for one batch, so that all workers get as many of those that wait and are under way."""
        waiting = sum(len(part.rows) for part in self._model.waiting)
        return max(1, -(-(waiting + under_way) // workers))


class SpreadScoring(Scoring):
    """Scores by workers: all that wait for scores are sent to them at once, and taken in their order."""

    def __init__(self, scoring: Scoring, crew: Crew, shows: bool) -> None:
        super().__init__(scoring.roles, scoring.judging.decode, scoring.capacity)
        self._crew, self._shows = crew, shows
        self._sent = deque[tuple[list[int], int]]()  # indices of jobs, number of the work
        self._first = 0  # index of the first job that is not answered yet
        self._left: Left = unlimited

    def run(self, searches: Sequence[Search]) -> bool:
        self._left = self.capacity.patience(searches)
        try:
            return super().run(searches)
        finally:
            while self._sent:  # time was over while a verifier was waited for
                self._crew.forget(self._sent.popleft()[1])

    def _next_fresh(self, jobs: Sequence[ScoreJob]) -> list[int]:
        if not self._sent:
            fresh = [i for i, job in enumerate(jobs) if job.known is None]
            size = max(1, min(self.capacity.decoded_together, -(-len(fresh) // self._crew.count)))
            for some in (fresh[start : start + size] for start in range(0, len(fresh), size)):
                asked = unjudged([jobs[i] for i in some])
                seconds = min(self._left(), LONGEST)
                self._sent.append((some, self._crew.submit(Judge(asked, seconds, self._shows))))
            self._first = 0
        return [i - self._first for i in self._sent[0][0]] if self._sent else []

    def _judged(self, batch: Sequence[ScoreJob], left: Left) -> Judged:
        some, number = self._sent.popleft()
        self._first = some[-1] + 1
        answer: JudgedThere = self._crew.result(number)
        self.ledger.add(answer.ledger)
        if (media := answer.found.media) is not None and isinstance(media.data, Tensor):
            answer.found.media = media.with_data(media.data.to(batch[0].latents.device))
        return answer.found
