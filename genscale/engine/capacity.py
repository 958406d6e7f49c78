"""How much may be evaluated next: what fits into the accelerator's memory and into the time left."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genscale.engine.archive import Archive
from genscale.engine.budget import Budget
from genscale.engine.events import BatchHalved, Dropped, Event
from genscale.engine.failures import Failure
from genscale.engine.ledger import Ledger
from genscale.engine.verifier_calls import Left, unlimited
from genscale.errors import UsageError
from genscale.protocol.particles import Candidate

if TYPE_CHECKING:
    from genscale.engine.search import Search


@dataclass
class Capacity:
    """The limits of a run, and the archive and ledger that they are compared with.

    batch_size: latents (rows) in one model call, at most; halved when memory runs out. decode_batch: latents decoded
    and scored together, at most; None is batch_size. halted: the user asked to stop, so no evaluation is left.
    mixed: whether one model call may hold rows of different steps; whoever evaluates the batches sets it. could_mix:
    a call had places left that rows of other steps would have filled.
    """

    budget: Budget
    archive: Archive
    ledger: Ledger
    batch_size: int
    decode_batch: int | None = None
    on_event: Callable[[Event], None] = lambda event: None
    halted: bool = False
    mixed: bool = False
    could_mix: bool = False

    @property
    def decoded_together(self) -> int:
        """Latents that may be decoded and scored in one batch."""
        return min(self.batch_size, self.decode_batch or self.batch_size)

    @property
    def rows_in_a_call(self) -> int:
        """Rows of the next model call, at most: one while the time that a row takes is not known."""
        return 1 if self.untimed else self.batch_size

    @property
    def untimed(self) -> bool:
        """Whether seconds are limited and nothing was evaluated yet, so that the time of one evaluation is unknown."""
        return self.budget.seconds is not None and self._evaluations == 0

    def evaluations_left(self, committed: int = 0) -> float:
        """Denoiser evaluations that fit into the time left, by the mean time of those so far; inf without a limit.

        committed: evaluations that will be made in any case; they are subtracted.
        """
        if self.halted:
            return 0
        if self.budget.seconds is None:
            return math.inf
        left, took = self.budget.seconds - self.archive.seconds, self.archive.seconds
        if left <= 0 or self._evaluations == 0:
            return math.inf if left > 0 else 0
        if self.archive.earlier_evaluations == 0:  # the resumed run counted no evaluations for its seconds
            took -= self.archive.earlier_seconds
        return left / max(took / self._evaluations, 1e-12) - committed

    def shrink(self, rows: int, what: str, advice: str, error: Exception) -> None:
        """After memory ran out on `rows` rows, halve the batch. UsageError, with `advice`, if it was one row."""
        if rows == 1:
            raise UsageError(
                f"{what} of one candidate does not fit into the accelerator's memory: use {advice} ({error})."
            ) from error
        self.halve(rows)

    def shrink_decoding(self, rows: int, what: str, advice: str, error: Exception) -> None:
        """The same for `rows` that were decoded and scored; the model's batch stays as it is."""
        if rows == 1:
            self.shrink(rows, what, advice, error)
        self.decode_batch = rows // 2
        self.on_event(BatchHalved(self.decode_batch, decoding=True))

    def patience(self, searches: Sequence[Search]) -> Left:
        """How long a verifier may be waited for: until the seconds are over, once every prompt has a candidate."""
        seconds = self.budget.seconds
        if seconds is None or not all(search.enough for search in searches):
            return unlimited
        return lambda: seconds - self.archive.seconds

    def drop(
        self, search: Search, candidate: Candidate, where: str, what: str, final: bool = False
    ) -> Failure:
        """Record that a candidate failed at the search's present step, and tell about it."""
        step, seconds = search.particles.step, round(self.archive.seconds, 4)
        failure = Failure(search.index, candidate, step, final, where, what, search.spent, seconds)
        self.archive.add_failure(failure)
        self.take_failure(search, failure)
        return failure

    def take_failure(self, search: Search, failure: Failure) -> None:
        """Drop its candidate from the search, if it is not dropped already."""
        if search.failures.of(failure.candidate) is None:
            search.failures.add(failure)
            self.on_event(Dropped(failure, failure.sentence(search.prompt)))

    def halve(self, rows: int) -> None:
        """Allow half of `rows` in a batch from now on."""
        self.batch_size = max(1, rows // 2)
        self.on_event(BatchHalved(self.batch_size))

    @property
    def _evaluations(self) -> int:
        return self.ledger.nfe + self.archive.earlier_evaluations
