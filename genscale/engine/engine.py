"""The engine: runs many samplers against one model and its verifiers, under a budget.

It is itself a generator: it yields batches for a model to evaluate and is sent the outputs, so that a
pipeline's own loop (pipelines/intercepted_call.py), an analytic model or a plain loop can drive it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genscale.diffusion.kernels import Kernel
from genscale.engine.archive import Archive, Entry
from genscale.engine.budget import Budget
from genscale.engine.events import BatchHalved, Denoised, Event, Scored
from genscale.engine.gradient_batches import Gradients
from genscale.engine.ledger import Ledger
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles
from genscale.errors import BudgetExhausted, UsageError
from genscale.media import Media
from genscale.protocol.answers import Prediction, Scores
from genscale.protocol.batches import Batch, Decode, Output
from genscale.protocol.particles import OWN, Particles
from genscale.protocol.queries import Denoise, Gradient, Score, Solve


@dataclass
class Flight:
    """Some rows of one question on their way through the model, all at one step. begun: not to be dropped."""

    search: Search
    rows: list[int]  # their places in the question
    particles: Particles
    until: int | None  # None: one evaluation, no step
    kernel: Kernel | None = None
    branch: str | None = None
    begun: bool = False

    @property
    def place(self) -> tuple[int, int, str]:
        """Rows of one place go in one batch: the step, the model call within its transition, the guidance branch."""
        return self.particles.step, self.particles.inner, self.branch or ""

    def split(self, n: int) -> tuple[Flight, Flight]:
        return (
            replace(self, rows=self.rows[:n], particles=self.particles[:n]),
            replace(self, rows=self.rows[n:], particles=self.particles[n:]),
        )


Job = tuple[Search, int, Entry | None]
"""A row of a Score question, and what is known of it already."""


class Engine:
    """Answers the questions of `searches` until all of them end.

    batch_size: latents (rows) in one model call at most; halved when memory runs out.
    decode_batch: latents decoded and judged at once at most; None is batch_size.
    halt: asked before every batch. From the first yes on nothing new is begun, and as soon as every prompt has a
        finished candidate `run` raises KeyboardInterrupt, as Ctrl-C does. Another thread may give the answer.
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
    ) -> None:
        self.searches = list(searches)
        self.roles = roles
        self.decode = decode
        self.budget = budget
        self.archive = archive
        self.ledger = ledger
        self.batch_size = batch_size
        self.decode_batch = decode_batch
        self.on_event = on_event
        self.halt = halt
        self._halted = False
        self._flights: list[Flight] = []
        self._batch: list[Flight] = []
        self._gradients = Gradients(self, decode, archive, ledger)

    # ---------------------------------------------------------------- the loop

    def run(self) -> Generator[Batch, Output, None]:
        """Yield batches, be sent outputs; ends when every search has ended."""
        while True:
            self._heed()
            for search in self.searches:
                self._admit(search)
            room = self.room()
            if self._drop_late(room):
                continue
            if self._flights:
                output = yield self._next_batch(room)
                self._absorb(output)
            elif self._gradients.waiting:
                yield from self._gradients.run()
            elif not self._score():
                return

    def _heed(self) -> None:
        """Look whether somebody asks for the end."""
        self._halted = self._halted or self.halt()
        over = all(s.ask is None for s in self.searches)
        if self._halted and not over and all(s.finals for s in self.searches):
            raise KeyboardInterrupt

    def halve(self, failed: int) -> Batch | None:
        """After memory ran out on `failed` rows: a smaller batch instead, or None if it was one row."""
        if failed <= 1:
            return None
        self.shrink(failed)
        if self._gradients.under_way:
            return self._gradients.again()
        self._flights = self._batch + self._flights
        return self._next_batch(self.room())

    def shrink(self, failed: int) -> None:
        self.batch_size = max(1, failed // 2)
        self.on_event(BatchHalved(self.batch_size))

    # ---------------------------------------------------------------- questions become flights

    def _admit(self, search: Search) -> None:
        """Turn a question into a flight; answer it at once where archive or budget already do."""
        while isinstance(search.ask, Solve | Denoise | Gradient) and not search.admitted:
            if isinstance(search.ask, Gradient):
                self._gradients.admit(search)
                continue
            particles, until = search.particles, search.until
            if until == particles.step:
                search.send(particles)
                continue
            rows = search.affordable()
            if rows == 0:
                search.throw(BudgetExhausted())
                continue
            search.admit(rows)
            if until is None and not search.finals:
                rows = max(1, int(min(self.room() / max(search.to_the_end, 1), rows)))
                search.forget(range(rows, len(particles)))
            todo = [i for i in range(rows) if not self._recall(search, i, until)]
            if todo and search.finals and search.price * (rows if until is None else 1) > self.room():
                search.forget(todo)
                todo = []
            if todo:
                self._flights.append(
                    Flight(search, todo, particles[todo], until, search.kernel, search.branch)
                )
            else:
                search.answer()

    def _recall(self, search: Search, row: int, until: int | None) -> bool:
        """Take a row from the archive of an earlier life of this run; it is charged all the same."""
        particles = search.particles
        candidate, device = particles.candidates[row], particles.x.device
        found: Particles | Prediction | None
        if until is None:
            found = self.archive.predicted(search.index, candidate, particles.step, search.branch, device)
        else:
            found = self.archive.solved(search.index, candidate, until, device)
        if found is None:
            return False
        search.finish(row, found)
        search.spent += search.price
        return True

    # ---------------------------------------------------------------- seconds

    def room(self) -> float:
        """Evaluations that fit into the time left beside those under way, by what they took so far."""
        if self._halted:
            return 0
        if self.budget.seconds is None:
            return math.inf
        left, took, done = self.budget.seconds - self.archive.seconds, self.archive.seconds, self._evaluations
        if left <= 0 or done == 0:
            return math.inf if left > 0 else 0
        if self.archive.earlier_evaluations == 0:  # an earlier life that left nothing to go by
            took -= self.archive.earlier_seconds
        each = took / done
        # A Denoise was checked as a whole when it was asked for, and will go through.
        under_way = sum(_price(f) * len(f.rows) for f in self._flights if f.begun or f.until is None)
        return left / max(each, 1e-12) - under_way

    @property
    def _evaluations(self) -> int:
        return self.ledger.nfe + self.archive.earlier_evaluations

    @property
    def blind(self) -> bool:
        """Whether time is short and nothing is known yet of how long a row takes: then the first goes alone."""
        return self.budget.seconds is not None and self._evaluations == 0

    def _drop_late(self, room: float) -> bool:
        """Drop what has not begun and would not be done in time; True if that changed anything."""
        late = [f for f in self._flights if not _needed(f) and _price(f) > room]
        self._flights = [f for f in self._flights if _needed(f) or _price(f) <= room]
        for flight in late:
            flight.search.forget(flight.rows)
            if flight.search.complete:
                flight.search.answer()
        return bool(late)

    # ---------------------------------------------------------------- batches

    def _next_batch(self, room: float) -> Batch:
        """The rows furthest along, then in the order of prompts and candidates, up to the batch size.

        With a budget of seconds no more rows begin than will be done in time; the very first goes alone,
        to learn how long one takes.
        """
        places = 1 if self.blind else self.batch_size
        place = max(f.place for f in self._flights)
        self._batch, rest = [], []
        for flight in self._flights:
            n = len(flight.rows) if flight.place == place else 0
            if not flight.begun and flight.until is not None and _price(flight) * n > max(room, 0):
                n = max(int(room // _price(flight)), 1 if _needed(flight) else 0)
            n = min(n, places)
            if n < len(flight.rows):
                flight, tail = flight.split(n)
                rest.append(tail)
            if n > 0:
                room -= 0 if flight.begun else _price(flight) * n
                flight.begun = True
                self._batch.append(flight)
                places -= n
        self._flights = rest
        return self._as_batch()

    def _as_batch(self) -> Batch:
        flights = self._batch
        asked = [f.search.process.query(f.particles, f.kernel) for f in flights]
        first, time = flights[0], asked[0][1]
        return Batch(
            asked[0][0] if len(flights) == 1 else torch.cat([x for x, _ in asked]),
            first.search.process.place(first.particles.step),
            tuple(f.search.index for f in flights for _ in f.rows),
            time,
            first.branch,
        )

    def _absorb(self, output: Output) -> None:
        """Step the rows that were evaluated and answer the questions that are complete."""
        flights, self._batch, at = self._batch, [], 0
        total = sum(len(f.rows) for f in flights)
        self.ledger.evaluations += output.evaluations
        with self.ledger.clock("step"):
            for flight in flights:
                n = len(flight.rows)
                flight.search.spent += output.evaluations * n // total
                rate = None if output.rate is None else output.rate[at : at + n].detach()
                self._advance(flight, output.value[at : at + n], output.x[at : at + n], rate)
                at += n
        self.on_event(Denoised(self.ledger.nfe, total))
        for search in {id(f.search): f.search for f in flights}.values():
            if search.complete:
                search.answer()

    def _advance(self, flight: Flight, value: Tensor, x: Tensor, rate: Tensor | None) -> None:
        process, search = flight.search.process, flight.search
        if flight.until is None:
            prediction = replace(process.predict(flight.particles, value, x), rate=rate)
            self.archive.add_predicted(search.index, flight.particles, prediction, flight.branch)
            for i, row in enumerate(flight.rows):
                search.finish(row, prediction[[i]])
            return
        preview = flight.particles.step + 1 == flight.until < process.steps
        flight.particles = process.advance(flight.particles, value, x, preview, flight.kernel)
        if flight.particles.step < flight.until:
            self._flights.append(flight)
            return
        self.archive.add_solved(search.index, flight.particles)
        for i, row in enumerate(flight.rows):
            search.finish(row, flight.particles[[i]])

    # ---------------------------------------------------------------- scores

    def _score(self) -> bool:
        """Decode and judge what the searches that wait for scores ask for; False if none does."""
        waiting = [s for s in self.searches if isinstance(s.ask, Score)]
        jobs: list[Job] = []
        for search in waiting:
            n = search.affordable()
            if n == 0:
                search.throw(BudgetExhausted())
                continue
            search.entries = [None] * n
            jobs += [(search, row, self._known_score(search, row)) for row in range(n)]
        while fresh := [i for i, (_, _, known) in enumerate(jobs) if known is None][: self._at_once()]:
            if self._judge(jobs, fresh):
                jobs = jobs[fresh[-1] + 1 :]
        self._take_over(jobs)
        for search in waiting:
            if search.entries:
                self._answer_scores(search)
        return bool(waiting)

    def _at_once(self) -> int:
        """Latents that may be decoded together."""
        return min(self.batch_size, self.decode_batch or self.batch_size)

    def _known_score(self, search: Search, row: int) -> Entry | None:
        particles = search.particles
        entry = self.archive.scored(search.index, particles.candidates[row], particles.step)
        if entry is not None:
            entry.x = particles.x[row]
        return entry

    def _take_over(self, jobs: Sequence[Job]) -> None:
        """Enter what is known already."""
        for search, row, known in jobs:
            assert known is not None
            self._enter(search, row, known, fresh=False)

    def _judge(self, jobs: Sequence[Job], fresh: Sequence[int]) -> bool:
        """Decode and score those of the jobs that are fresh in one batch; False if it had to be made smaller.

        Entries are made in the order of the jobs, with the known ones between them: the order decides among equals.
        """
        asked = [jobs[i][:2] for i in fresh]
        try:
            media = self._decoded(asked) if self.roles.judging else None
            scores = self._scores(asked, media)
        except torch.cuda.OutOfMemoryError as error:
            if len(asked) == 1:
                raise UsageError(
                    "decoding and judging one candidate does not fit into the accelerator's memory: use "
                    f"offloading, a smaller size, or a verifier on another device ({error})."
                ) from error
            self.shrink(len(asked))
            return False
        done = 0
        for k, ((search, row), (raw, select)) in enumerate(zip(asked, scores, strict=True)):
            self._take_over(jobs[done : fresh[k]])
            done = fresh[k] + 1
            entry = self._entry(search, row, raw, select)
            if media is not None:
                self._report(search, entry, media[k : k + 1], search.label(row))
            self._enter(search, row, entry, fresh=True, media=None if media is None else media[k : k + 1])
        return True

    def _decoded(self, jobs: list[tuple[Search, int]]) -> Media:
        with self.ledger.clock("decode"):
            latents = torch.stack([_clean(s)[row] for s, row in jobs])
            media = self.decode(latents, tuple(s.index for s, _ in jobs))
        self.ledger.decodes += len(jobs)
        return media

    def _scores(
        self, jobs: list[tuple[Search, int]], media: Media | None
    ) -> list[tuple[Tensor, dict[str, float]]]:
        """What the search verifiers say of each, and the select verifiers of those that are finished.

        Without any verifier nothing is decoded (media is None): all scores are equal.
        """
        if media is None:
            return [(torch.zeros(0, dtype=torch.float64), {}) for _ in jobs]
        texts = [s.prompt for s, _ in jobs]
        labels = [s.label(row) for s, row in jobs]
        raw = self.roles.search.score(media, texts, labels, self.ledger)
        select: list[dict[str, float]] = [{} for _ in jobs]
        final = [k for k, (s, _) in enumerate(jobs) if s.particles.step == s.process.steps]
        if final and self.roles.select.members:
            picked = Media(media.pixels[final])
            rows = self.roles.select.score(
                picked, [texts[k] for k in final], [labels[k] for k in final], self.ledger
            )
            for k, row in zip(final, rows, strict=True):
                select[k] = self.roles.select.named(row)
        return list(zip(raw, select, strict=True))

    def _entry(self, search: Search, row: int, raw: Tensor, select: dict[str, float]) -> Entry:
        particles, panel = search.particles, self.roles.search
        return Entry(
            prompt=search.index,
            candidate=particles.candidates[row],
            step=particles.step,
            final=particles.step == search.process.steps,
            scores=panel.named(raw),
            total=float(panel.combine(raw[None])[0]) if panel.pointwise else None,
            select=select,
            nfe=search.spent,
            seconds=round(self.archive.seconds, 4),
            x=particles.x[row],
        )

    def _report(self, search: Search, entry: Entry, media: Media, label: str) -> None:
        """Held-out scores of the pipeline's own image and of each that may become the best."""
        panel = self.roles.held_out
        if panel.members and entry.final and (entry.candidate.id == OWN or search.may_lead(entry)):
            entry.held_out = panel.named(panel.score(media, [search.prompt], [label], self.ledger)[0])

    def _enter(self, search: Search, row: int, entry: Entry, fresh: bool, media: Media | None = None) -> None:
        search.entries[row] = entry
        search.calls += search.calls_a_score
        self.archive.add_score(entry, fresh)
        if entry.final:
            search.add_final(entry)
        self.on_event(Scored(entry, search.best(), media))

    def _answer_scores(self, search: Search) -> None:
        """Of a search that a rule ends here, everything that is asked after this answer finds the budget exhausted."""
        panel, entries = self.roles.search, [e for e in search.entries if e is not None]
        raw = torch.tensor([[e.scores[n] for n in panel.names] for e in entries], dtype=torch.float64)
        search.look()
        search.send(Scores(raw.reshape(len(entries), len(panel.names)), panel.combine))


def _price(flight: Flight) -> int:
    """Evaluations that one row of it still takes."""
    return flight.search.process.price(flight.particles, flight.until, flight.kernel, flight.branch)


def _needed(flight: Flight) -> bool:
    """Whether it is carried on when time is up: it has begun, or leads to the prompt's first candidate.

    A Denoise is checked as a whole when it is asked for, and then goes through."""
    return flight.begun or flight.until is None or (not flight.search.finals and 0 in flight.rows)


def _clean(search: Search) -> Tensor:
    """What is decoded: the latents themselves at the end of the process, else their clean estimate."""
    particles = search.particles
    if particles.step == search.process.steps:
        return particles.x
    if particles.x0 is None:
        search.process.schedule  # noqa: B018  refuses in a sentence where noise levels cannot be read
        raise ValueError("particles before their first step have no clean estimate to score: Solve first")
    return particles.x0.to(particles.x.dtype)
