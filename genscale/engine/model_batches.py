"""Answers to Solve and Denoise: which rows share a model call, and the step that follows it.

A batch begins with the rows that are furthest along the run, all at one step. Where the model takes a step for each row
(`Capacity.mixed`), rows of other steps fill the places that are left: first those of the prompts that have spent least,
so that all prompts end together, and of these the noisiest, which have the longest way. Then scores are asked for as
soon as the waiting rows do not fill a batch, since what is scored comes back with new rows; where a batch holds one
step only, that would tear apart the prompts that are at the same step. Which rows share a call decides nothing but
rounding: each row is stepped with the rows of its own query.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genscale.diffusion.kernels import Kernel
from genscale.engine.capacity import Capacity
from genscale.engine.estimates import Estimates
from genscale.engine.events import Denoised
from genscale.engine.search import Search
from genscale.errors import BudgetExhausted
from genscale.protocol.answers import Prediction
from genscale.protocol.batches import Batch, Output
from genscale.protocol.particles import Memory, Particles, arm_of


@dataclass
class ModelRows:
    """Rows of one Solve or Denoise that are at the same step.

    rows: their indices in the query. until: the step to reach; None for a Denoise (one evaluation, no step).
    begun: whether they were evaluated already. What has begun is finished, even when time runs out.
    """

    search: Search
    rows: list[int]
    particles: Particles
    until: int | None
    kernel: Kernel | None = None
    branch: str | None = None
    begun: bool = False

    @property
    def call(self) -> tuple[int, int, str, int]:
        """Rows for which this is equal go in one batch: (step, model call within the transition, guidance branch, minus
        the arm)."""
        arm = arm_of(self.particles.candidates[0])
        return self.particles.step, self.particles.inner, self.branch or "", -arm

    @property
    def price(self) -> int:
        """Evaluations that one row still takes."""
        return self.search.process.price(self.particles, self.until, self.kernel, self.branch)

    @property
    def required(self) -> bool:
        """Whether these rows go on when no time is left: they have begun, or lead to the first candidates of a prompt.

        A Denoise was checked against the time left when it was admitted, and is not checked again.
        """
        return self.begun or self.until is None or min(self.rows) < self.search.missing

    @property
    def committed(self) -> int:
        """Evaluations that these rows will take in any case."""
        return self.price * len(self.rows) if self.begun or self.until is None else 0

    @property
    def place(self) -> int:
        """The pipeline's step of the next model call."""
        return self.search.process.place(self.particles.step)

    @property
    def memory(self) -> Memory | None:
        """What the solver remembers of these rows."""
        return None if self.particles.inner else self.particles.memory

    def goes_with(self, other: ModelRows) -> bool:
        """Whether one model call can evaluate both: a pipeline's loop may ask its scheduler, which has one state."""
        return self.call == other.call and Memory.alike(self.memory, other.memory)

    def keep_caches(self, after: Sequence[Any]) -> None:
        """Note what the model's caches hold after a call, also on what the sampler has: it may step that itself."""
        asked = self.search.particles.caches if self.until is None else None
        for i, state in enumerate(after):
            self.particles.caches[i].after = state
            if asked is not None:
                asked[self.rows[i]].after = state

    def mixes_with(self, other: ModelRows) -> bool:
        """Whether one model call can evaluate both, though they are at different steps, if it takes a step for each
        row.

        Not between levels of the grid, nor for one branch of guidance; nor where a row costs more at one of the steps.
        """
        return self._on_grid and other._on_grid and self._kind == other._kind

    def turn(self, first: ModelRows) -> tuple[bool, int, int, int]:
        """Their turn in a batch of mixed steps that begins with `first`; the lowest come first."""
        others = not self.goes_with(first)
        return others, self.search.spent * others, self.particles.step * others, self.search.index * others

    @property
    def _on_grid(self) -> bool:
        process, step = self.search.process, self.particles.step
        between = process.places is not None and process.places[step].time is not None
        return not (between or self.particles.inner or self.branch)

    @property
    def _kind(self) -> tuple[int, int]:
        """(arm, NFE of one model call)."""
        evaluations = self.search.process.evaluations[self.particles.step]
        return arm_of(self.particles.candidates[0]), evaluations

    def split(self, n: int) -> tuple[ModelRows, ModelRows]:
        """The first n rows, and the others, as views."""
        return (
            replace(self, rows=self.rows[:n], particles=self.particles[:n]),
            replace(self, rows=self.rows[n:], particles=self.particles[n:]),
        )


class ModelBatches:
    """Every row that waits for the denoiser, and the batch that is being evaluated. estimates: shows some of them."""

    def __init__(self, capacity: Capacity, estimates: Estimates | None = None) -> None:
        self.estimates = estimates
        self.capacity, self.archive, self.ledger = capacity, capacity.archive, capacity.ledger
        self.waiting: list[ModelRows] = []
        self.evaluated: list[ModelRows] = []  # the rows of the open batch

    def evaluations_left(self) -> float:
        """Evaluations that fit into the time left beside those that are committed."""
        return self.capacity.evaluations_left(sum(part.committed for part in self.waiting))

    @property
    def mixed(self) -> bool:
        """Whether the open batch holds rows of different steps, or rows whose solvers remember different things."""
        return any(not part.goes_with(self.evaluated[0]) for part in self.evaluated)

    @property
    def short(self) -> bool:
        """Whether the waiting rows could share one batch of mixed steps and leave places in it."""
        if not self.capacity.mixed or not self.waiting:
            return False
        rows, first = sum(len(part.rows) for part in self.waiting), self.waiting[0]
        return rows < self.capacity.rows_in_a_call and all(part.mixes_with(first) for part in self.waiting)

    # ---------------------------------------------------------------- admission

    def admit(self, search: Search) -> None:
        """Queue the rows of a search's query; answer it now if the archive or the budget already decide the answer."""
        particles, until = search.particles, search.until
        if until == particles.step:
            search.send(particles)
            return
        rows = search.affordable()
        if rows == 0:
            search.throw(BudgetExhausted())
            return
        search.admit(rows)
        if until is None and not search.enough:
            rows = max(
                min(rows, search.missing), int(min(self.evaluations_left() / max(search.to_the_end, 1), rows))
            )
            search.forget(range(rows, len(particles)))
        todo = [i for i in range(rows) if not self._recall(search, i, until)]
        if todo and search.enough and search.price * (rows if until is None else 1) > self.evaluations_left():
            search.forget(todo)
            todo = []
        if todo:
            self.waiting.append(ModelRows(search, todo, particles[todo], until, search.kernel, search.branch))
        else:
            search.answer()

    def _recall(self, search: Search, row: int, until: int | None) -> bool:
        """Take a row's answer from the archive, if this run was resumed and has it. It is charged all the same."""
        particles = search.particles
        candidate, device = particles.candidates[row], particles.x.device
        found: Particles | Prediction | None
        known = self.archive.failed(search.index, candidate, particles.step)
        if known is not None and known.final and until is not None:  # it could not be evaluated
            self.capacity.take_failure(search, known)
            search.finish(row, replace(particles[[row]], step=until))
            search.spent += search.price
            return True
        process = search.process
        if process.origins is not None and process.origins.from_the_start:
            return False
        if process.remembers and until != process.steps:  # what the model's caches held is not in the archive
            return False
        if until is None:  # computed where it was before, so that it is the same bit for bit
            one = process.holding.beside_model(particles[row : row + 1])
            found = self.archive.predicted(search.index, one, process.predict, search.branch)
            found = None if found is None else process.holding.aside(found)
        else:
            found = self.archive.solved(search.index, candidate, until, device)
            found = None if found is None else search.process.arrived(found)
        if found is None:
            return False
        search.finish(row, found)
        search.spent += search.price
        return True

    def drop_late(self, left: float) -> bool:
        """Drop the rows that have not begun and cannot be done with `left` evaluations; whether there were any."""
        late = [part for part in self.waiting if not part.required and part.price > left]
        self.waiting = [part for part in self.waiting if part.required or part.price <= left]
        for part in late:
            part.search.forget(part.rows)
            if part.search.complete:
                part.search.answer()
        return bool(late)

    # ---------------------------------------------------------------- batches

    def next_batch(self, left: float, most: float = math.inf) -> Batch:
        """The rows that are furthest along the run, in the order of prompts and candidates, up to the batch size.

        With a budget of seconds no more rows begin than `left` evaluations allow. most: rows, where not all may share
        one call.
        """
        places, mixed = int(min(self.capacity.rows_in_a_call, most)), self.capacity.mixed
        first = max(self.waiting, key=lambda part: part.call)
        self.evaluated, rest = [], []
        waiting = sorted(self.waiting, key=lambda part: part.turn(first)) if mixed else self.waiting
        for part in waiting:
            joins = part.goes_with(first) or (mixed and part.mixes_with(first))
            n = len(part.rows) if joins else 0
            if not part.begun and part.until is not None and part.price * n > max(left, 0):
                n = max(int(left // part.price), 1 if part.required else 0)
            n = min(n, places)
            if n == 0:
                rest.append(part)
                continue
            if n < len(part.rows):
                part, tail = part.split(n)
                rest.append(tail)
            left -= 0 if part.begun else part.price * n
            part.begun = True
            self.evaluated.append(part)
            places -= n
        self.waiting = rest
        for part in rest:
            if part.begun:  # in a batch that was beside the model
                part.particles = part.search.process.holding.aside(part.particles)
        if places and not mixed:
            self.capacity.could_mix |= any(part.mixes_with(first) for part in rest)
        return self._as_batch()

    def again(self) -> Batch:
        """Another batch instead of the open one, after the batch size changed."""
        self.waiting = self.evaluated + self.waiting
        return self.next_batch(self.evaluations_left())

    def _as_batch(self) -> Batch:
        parts = self.evaluated
        for part in parts:
            part.particles = part.search.process.holding.beside_model(part.particles)
        inputs = [part.search.process.model_input(part.particles, part.kernel) for part in parts]
        for part in parts:
            if part.until is not None:
                part.search.process.expect(part.particles, part.kernel)
        first, time = parts[0], inputs[0][1]
        memories = [part.memory for part in parts]
        alike = not self.mixed
        return Batch(
            inputs[0][0] if len(parts) == 1 else torch.cat([x for x, _ in inputs]),
            first.place,
            tuple(part.search.index for part in parts for _ in part.rows),
            time,
            first.branch,
            memory=Memory.cat(memories) if alike else None,
            caches=tuple(cache.before for part in parts for cache in part.particles.caches),
            steps=None if alike else tuple(part.place for part in parts for _ in part.rows),
        )

    def absorb(self, output: Output) -> None:
        """Step the rows that were evaluated, and answer the queries that are complete."""
        parts, self.evaluated, at = self.evaluated, [], 0
        total = sum(len(part.rows) for part in parts)
        self.ledger.evaluations += output.evaluations
        self.ledger.skipped += output.skipped
        with self.ledger.clock("step"):
            for part in parts:
                n = len(part.rows)
                part.search.spent += output.evaluations * n // total
                part.keep_caches(output.caches[at : at + n])
                rate = None if output.rate is None else output.rate[at : at + n].detach()
                for i in range(n):
                    if (fault := output.faults.get(at + i)) is not None:
                        self.capacity.drop(part.search, part.particles.candidates[i], *fault, final=True)
                if self.estimates is not None and part.branch is None:
                    self.estimates.note(
                        part.search, part.particles, output.value[at : at + n], output.x[at : at + n]
                    )
                self._advance(part, output.value[at : at + n], output.x[at : at + n], rate)
                at += n
        self.capacity.on_event(Denoised(self.ledger.nfe, total))
        if self.estimates is not None:
            self.estimates.show()
        for search in {id(part.search): part.search for part in parts}.values():
            if search.complete:
                search.answer()

    def _advance(self, part: ModelRows, value: Tensor, x: Tensor, rate: Tensor | None) -> None:
        process, search = part.search.process, part.search
        if part.until is None:
            prediction = replace(process.predict(part.particles, value, x), rate=rate)
            search.failures.trace.note(part.particles.candidates, part.particles.step, value, prediction.x0)
            self.archive.add_predicted(search.index, part.particles, value, x, rate, part.branch)
            prediction = process.holding.aside(prediction)
            for i, row in enumerate(part.rows):
                search.finish(row, prediction, i)
            return
        preview = part.particles.step + 1 == part.until < process.steps
        before = part.particles
        part.particles = process.advance(before, value, x, preview, part.kernel)
        search.failures.trace.note(before.candidates, before.step, value, part.particles.x)
        if part.particles.step < part.until:
            self.waiting.append(part)
            return
        part.particles = process.arrived(part.particles)
        self.archive.add_solved(search.index, part.particles)
        for i, row in enumerate(part.rows):
            search.finish(row, part.particles, i)
