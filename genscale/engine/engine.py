"""The engine: runs the searches of many prompts against one model and its verifiers, under a budget.

`Engine.run` is a generator: it yields batches for the model and is sent their outputs. So it can be driven by a
pipeline's own loop (`genscale.pipelines.serve`) or by a plain one (`genscale.engine.drive`).

A search waits with one query at a time. Who answers it:
    Solve, Denoise   model_batches.ModelBatches
    Gradient         gradient_batches.GradientBatches
    Score            scoring.Scoring
    Ask              pool.Purse, where prompts share a budget
What fits into memory and time is one `capacity.Capacity` for all three.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from torch import Tensor

from genscale.engine.archive import Archive
from genscale.engine.budget import Budget
from genscale.engine.capacity import Capacity
from genscale.engine.estimates import Estimates, Picture
from genscale.engine.events import Event
from genscale.engine.gradient_batches import GradientBatches
from genscale.engine.holding import HOST
from genscale.engine.ledger import Ledger
from genscale.engine.model_batches import ModelBatches
from genscale.engine.pool import Purse
from genscale.engine.scoring import Scoring
from genscale.engine.search import Search
from genscale.engine.unfinished import UnfinishedScoring, finish_unfinished
from genscale.engine.verifier_roles import Roles
from genscale.protocol.batches import Batch, Decode, Output
from genscale.protocol.particles import Candidate
from genscale.protocol.queries import Denoise, Gradient, Solve


class Engine:
    """Answers the queries of `searches` until all of them have ended.

    batch_size: latents (rows) in one model call, at most; halved when memory runs out.
    decode_batch: latents decoded and scored together, at most; None is batch_size.
    purse: of the searches, if they share a budget.
    overlapping: whether what a batch gave may still be on its way to the disk while the next batch is evaluated; a
        killed run then repeats two batches instead of one. None: where the latents are not on the CPU, since only there
        the host has time meanwhile.
    picture: how clean estimates are shown while nothing else is; None: they are not.
    halt: asked before every batch, may be answered by another thread. After its first True nothing new begins, and as
        soon as every prompt has as many candidates, finished or dropped, as the call returns, `run` raises
        KeyboardInterrupt, as after Ctrl-C.
    """

    def __init__(
        self,
        searches: Sequence[Search],
        roles: Roles,
        decode: Decode,
        *,
        budget: Budget,
        archive: Archive,
        ledger: Ledger,
        batch_size: int,
        decode_batch: int | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
        halt: Callable[[], bool] = lambda: False,
        purse: Purse | None = None,
        overlapping: bool | None = None,
        picture: Picture | None = None,
    ) -> None:
        self._purse = purse
        estimates = None if picture is None else Estimates(picture, on_event)
        on_event = on_event if estimates is None else estimates.event
        self.searches, self.roles, self.ledger, self.halt = list(searches), roles, ledger, halt
        self.capacity = Capacity(budget, archive, ledger, batch_size, decode_batch, on_event)
        self._model = ModelBatches(self.capacity, estimates)
        self._gradients = GradientBatches(roles.search, decode, self.capacity)
        self._scoring = Scoring(roles, decode, self.capacity)
        devices = {search.process.prior.own.device.type for search in self.searches}
        self.overlapping = devices != {"cpu"} if overlapping is None else overlapping
        for search in self.searches:
            search.time_left = self.capacity.evaluations_left

    def run(self) -> Generator[Batch, Output, None]:
        """Yield batches and be sent their outputs; ends when every search has ended."""
        while True:
            self._check_halt()
            for search in self.searches:
                self._admit(search)
            left = self._model.evaluations_left()
            if self._model.drop_late(left):
                continue
            if not self.overlapping:
                self.capacity.archive.settle()
            if self._model.short and self._scoring.run(self.searches):
                continue
            if self._model.waiting:
                output = yield self._model.next_batch(left)
                self.capacity.archive.settle()
                self._model.absorb(output)
            elif self._gradients.waiting:
                yield from self._gradients.run()
            elif not self._scoring.run(self.searches) and not (self._purse and self._purse.round()):
                return

    def finish_unfinished(self, decode: Decode, left: Tensor | None = None) -> None:
        """End all searches after an interrupt inside the pipeline's loop: what is under way is scored as it is.

        decode: of unfinished candidates. left: [n, *latent], what the loop made of the open batch's latents; None:
        nothing.
        """
        scoring = UnfinishedScoring(self.roles, decode, self.capacity)
        finish_unfinished(self.searches, self._model, scoring, left)

    def halve(self, rows: int) -> Batch | None:
        """After memory ran out on a batch of `rows`: a smaller batch instead of it, or None if it was one row."""
        if rows <= 1:
            return None
        self.capacity.halve(rows)
        return self._gradients.again() if self._gradients.under_way else self._model.again()

    def one_by_one(self) -> Batch:
        """Another batch instead of the open one, of one latent, as all that follow."""
        self.capacity.batch_size = 1
        return self._gradients.again() if self._gradients.under_way else self._model.again()

    def interrupted(self) -> str:
        """An interrupt ends the search with the best so far. KeyboardInterrupt: a prompt has no candidate yet."""
        if not all(search.finals or search.dropped for search in self.searches):
            raise KeyboardInterrupt
        for search in self.searches:
            search.process.prior.noise.forget()
        return "interrupted"

    @property
    def batch_size(self) -> int:
        """Rows in one model call, at most."""
        return self.capacity.batch_size

    @property
    def on_host(self) -> bool:
        """Whether what belongs to rows waits in the memory of the host."""
        return self.searches[0].process.hold == HOST

    @property
    def could_mix(self) -> bool:
        """Whether a model call had places left that rows of other steps would have filled."""
        return self.capacity.could_mix

    def mix_steps(self, allowed: bool) -> Batch | None:
        """Whether one model call may hold rows of different steps; another batch in place of an open one that does."""
        self.capacity.mixed = allowed
        return None if allowed or not self._model.mixed else self._model.again()

    @property
    def evaluated(self) -> list[tuple[int, Candidate]]:
        """(prompt index, candidate) of each row of the open batch."""
        if (group := self._gradients.under_way) is not None:
            return [(s.index, s.particles.candidates[row]) for s, row in group.jobs]
        return [(part.search.index, c) for part in self._model.evaluated for c in part.particles.candidates]

    def _check_halt(self) -> None:
        """Raise KeyboardInterrupt if the user asked to stop and every prompt has its results."""
        capacity = self.capacity
        capacity.halted = capacity.halted or self.halt()
        ended = all(s.query is None for s in self.searches)
        if capacity.halted and not ended and all(s.enough for s in self.searches):
            raise KeyboardInterrupt

    def _admit(self, search: Search) -> None:
        """Queue the search's query. One that is answered at once is followed by the next one."""
        while isinstance(search.query, Solve | Denoise | Gradient) and not search.admitted:
            answering = self._gradients if isinstance(search.query, Gradient) else self._model
            answering.admit(search)
