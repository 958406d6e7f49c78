"""Answers to Score: decode candidates, ask the verifiers, and enter the scores into the archive.

A candidate whose latents, pixels or scores are not finite is dropped: it gets a Failure instead of an Entry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor

from genscale.engine.archive import Entry
from genscale.engine.capacity import Capacity
from genscale.engine.events import Scored
from genscale.engine.failures import Failure
from genscale.engine.finite_numbers import finite_rows, kind_in, media_faults
from genscale.engine.judged_kinds import check_judges
from genscale.engine.search import Search
from genscale.engine.verifier_calls import Left
from genscale.engine.verifier_roles import Roles, VerifierSet
from genscale.errors import BudgetExhausted
from genscale.media import Media
from genscale.numerics.transfers import HostCopy, take_rows
from genscale.protocol.answers import Scores
from genscale.protocol.batches import Decode
from genscale.protocol.particles import OWN, Candidate
from genscale.protocol.queries import Score


@dataclass
class ScoreJob:
    """One row of a Score query; known: its entry or failure, if the archive has it."""

    search: Search
    row: int
    known: Entry | Failure | None

    @property
    def label(self) -> str:
        return self.search.label(self.row)

    @property
    def candidate(self) -> Candidate:
        return self.search.particles.candidates[self.row]

    @property
    def final(self) -> bool:
        """Whether its latents are clean."""
        return self.search.particles.step == self.search.process.steps

    @property
    def progress(self) -> float:
        """The share of its model calls that it has behind it; 1 at the end."""
        return self.search.particles.step / self.search.process.steps

    @property
    def latents(self) -> Tensor:
        """What is decoded [*latent]: the latents at the clean end of the process, elsewhere their clean estimate."""
        particles = self.search.particles
        if self.final:
            return particles.x[self.row]
        if particles.x0 is None:
            self.search.process.schedule  # noqa: B018  raises the UsageError where noise levels cannot be read
            raise ValueError("particles before their first step have no clean estimate to score: Solve first")
        return particles.x0[self.row].to(particles.x.dtype)


@dataclass
class ScoreBatch:
    """Jobs that are decoded and scored together. The other fields are by index of the job.

    faults: (where, what) of those that are dropped. decoded: those that are decoded, in the order of `media`.
    raw: scores of the search verifiers [verifiers]. select: of the select verifiers, by name.
    """

    jobs: list[ScoreJob]
    faults: dict[int, tuple[str, str]] = field(default_factory=dict)
    decoded: list[int] = field(default_factory=list)
    media: Media | None = None
    raw: dict[int, Tensor] = field(default_factory=dict)
    select: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def alive(self) -> list[int]:
        return [k for k in range(len(self.jobs)) if k not in self.faults]

    def images(self, some: Sequence[int]) -> Media | None:
        """Those of some jobs; None if nothing is decoded."""
        if self.media is None or list(some) == self.decoded:
            return self.media
        places = [self.decoded.index(k) for k in some]
        return self.media[places[0] : places[0] + 1] if len(places) == 1 else self.media.rows(places)


class Scoring:
    """Decodes and scores for all searches; all that wait for scores are served together."""

    def __init__(self, roles: Roles, decode: Decode, capacity: Capacity) -> None:
        self.roles, self.decode, self.capacity = roles, decode, capacity
        self.archive, self.ledger, self.on_event = capacity.archive, capacity.ledger, capacity.on_event

    def run(self, searches: Sequence[Search]) -> bool:
        """Answer every Score that waits; False if none does."""
        waiting = [s for s in searches if isinstance(s.query, Score)]
        jobs, asked = list[ScoreJob](), list[Search]()
        for search in waiting:
            n = search.affordable()
            if n == 0:
                search.throw(BudgetExhausted())
                continue
            asked.append(search)
            search.entries = [None] * n
            jobs += [ScoreJob(search, row, self._recall(search, row)) for row in range(n)]
        try:
            while fresh := self._next_fresh(jobs):
                if self._score(jobs, fresh, searches):
                    jobs = jobs[fresh[-1] + 1 :]
            self._enter_known(jobs)
        except BudgetExhausted:  # time was over while a verifier was waited for
            for search in asked:
                search.entries = list(takewhile(lambda e: e is not None, search.entries))
        for search in asked:
            self._answer(search)
        return bool(waiting)

    def _next_fresh(self, jobs: Sequence[ScoreJob]) -> list[int]:
        """Indices of the next jobs without an entry, as many as are decoded together."""
        return [i for i, job in enumerate(jobs) if job.known is None][: self.capacity.decoded_together]

    def _recall(self, search: Search, row: int) -> Entry | Failure | None:
        particles = search.particles
        candidate, step = particles.candidates[row], particles.step
        known = search.failures.of(candidate) or self.archive.failed(search.index, candidate, step)
        if known is not None:
            return known
        entry = self.archive.scored(search.index, candidate, step)
        if entry is not None and entry.final:
            entry.x = particles.x[row]
        return entry

    def _score(self, jobs: Sequence[ScoreJob], fresh: Sequence[int], searches: Sequence[Search]) -> bool:
        """Decode and score the fresh jobs in one batch; False if memory ran out and fewer must be tried.

        Known entries between them are entered too, so that entries keep the order of the jobs, which decides ties.
        """
        batch = ScoreBatch([jobs[i] for i in fresh])
        try:
            self._decode(batch)
            self._ask(batch, self.capacity.patience(searches))
        except torch.cuda.OutOfMemoryError as error:
            advice = "offloading, a smaller size, or a verifier on another device"
            self.capacity.shrink_decoding(len(fresh), "decoding and scoring", advice, error)
            return False
        done = 0
        for k, job in enumerate(batch.jobs):
            self._enter_known(jobs[done : fresh[k]])
            done = fresh[k] + 1
            if k in batch.faults:
                where, what = batch.faults[k]
                failure = self.capacity.drop(job.search, job.candidate, where, what, job.final)
                self._enter_failure(job, failure)
                continue
            entry, own_media = self._entry(job, batch.raw[k], batch.select.get(k, {})), batch.images([k])
            if own_media is not None:
                self._score_leader(job, entry, own_media)
            self._enter(job, entry, fresh=True, media=own_media)
        return True

    def _decode(self, batch: ScoreBatch) -> None:
        """Decode the jobs whose latents are finite, if there is a verifier.

        Whether they are is not waited for where that would leave the accelerator idle: all are decoded there, and those
        that are not finite are dropped afterwards.
        """
        waiting = torch.stack([job.latents for job in batch.jobs])
        latents = batch.jobs[0].search.process.holding.beside_model(waiting)
        finite = HostCopy(finite_rows(latents))
        if latents.device.type == "cpu" or not self.roles.judging:
            self._drop_latents(batch, latents, finite)
        rows = batch.alive
        if not self.roles.judging or not rows:
            return
        try:
            media = self._decoded(batch, latents, rows)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception:
            if not self._drop_latents(batch, latents, finite):
                raise
            rows = batch.alive  # those that are not finite may have been what failed
            if not rows:
                return
            media = self._decoded(batch, latents, rows)
        check_judges(self.roles, {media.kind})
        batch.decoded, batch.media = rows, media
        faults = {rows[i]: ("decoder", what) for i, what in media_faults(media).items()}
        self._drop_latents(batch, latents, finite)
        batch.faults |= {k: fault for k, fault in faults.items() if k not in batch.faults}
        self.ledger.decodes += sum(batch.faults.get(k, ("decoder",))[0] == "decoder" for k in rows)

    def _drop_latents(self, batch: ScoreBatch, latents: Tensor, finite: HostCopy) -> bool:
        """Drop the jobs whose latents are not finite, unless they are dropped already; whether there were any."""
        lost = [k for k, fine in enumerate(finite.get().tolist()) if not fine and k not in batch.faults]
        batch.faults |= {k: _of_latents(batch.jobs[k], latents[k]) for k in lost}
        return bool(lost)

    def _decoded(self, batch: ScoreBatch, latents: Tensor, rows: Sequence[int]) -> Media:
        with self.ledger.clock("decode"):
            return self.decode(take_rows(latents, rows), tuple(batch.jobs[k].search.index for k in rows))

    def _ask(self, batch: ScoreBatch, left: Left) -> None:
        """Ask the search verifiers about all jobs, and the select verifiers about the final ones.

        Without any verifier nothing is decoded, and all candidates are equal.
        """
        batch.raw = {k: torch.zeros(0, dtype=torch.float64) for k in batch.alive}
        for verifiers, final in ((self.roles.search, False), (self.roles.select, True)):
            rows = [k for k in batch.alive if batch.jobs[k].final or not final]
            media = batch.images(rows)
            if not rows or not verifiers.members or media is None:
                continue
            texts, labels = zip(
                *((batch.jobs[k].search.prompt, batch.jobs[k].label) for k in rows), strict=True
            )
            progress = None if final else [batch.jobs[k].progress for k in rows]
            scores = verifiers.raw_scores(media, texts, labels, self.ledger, left, progress)
            for k, raw in zip(rows, scores, strict=True):
                if (fault := verifiers.fault(raw)) is not None:
                    batch.faults[k] = fault
                elif final:
                    batch.select[k] = verifiers.named(raw)
                else:
                    batch.raw[k] = raw

    def _entry(self, job: ScoreJob, raw: Tensor, select: dict[str, float]) -> Entry:
        particles, verifiers = job.search.particles, self.roles.search
        return Entry(
            prompt=job.search.index,
            candidate=particles.candidates[job.row],
            step=particles.step,
            final=job.final,
            scores=verifiers.named(raw),
            total=float(verifiers.combine(raw[None])[0]) if verifiers.pointwise else None,
            select=select,
            nfe=job.search.spent,
            seconds=round(self.archive.seconds, 4),
            x=particles.x[job.row] if job.final else None,
        )

    def _score_leader(self, job: ScoreJob, entry: Entry, media: Media) -> None:
        """Held-out scores of the pipeline's own image, and of every candidate that may become the best; of these also
        the guard's."""
        if not entry.final:
            return
        leads = job.search.ranks.may_lead(entry)
        if leads or entry.candidate.id == OWN:
            entry.held_out = self._measured(self.roles.held_out, job, media)
        if leads:
            entry.guard = self._measured(self.roles.guard, job, media)

    def _measured(self, verifiers: VerifierSet, job: ScoreJob, media: Media) -> dict[str, float]:
        """Scores that drop no candidate: those that are not finite are left out."""
        if not verifiers.members:
            return {}
        [scores] = verifiers.raw_scores(media, [job.search.prompt], [job.label], self.ledger)
        return {name: score for name, score in verifiers.named(scores).items() if math.isfinite(score)}

    def _enter_known(self, jobs: Sequence[ScoreJob]) -> None:
        """Enter what a resumed run scored before, and the candidates that were dropped before."""
        for job in jobs:
            assert job.known is not None
            if isinstance(job.known, Failure):
                self.capacity.take_failure(job.search, job.known)
                self._enter_failure(job, job.known)
            else:
                self._enter(job, job.known, fresh=False)

    def _enter(self, job: ScoreJob, entry: Entry, fresh: bool, media: Media | None = None) -> None:
        search = job.search
        search.entries[job.row] = entry
        search.calls += search.calls_a_score
        search.failures.trace.forget(entry.candidate)
        self.archive.add_score(entry, fresh)
        if entry.final:
            search.add_final(entry)
        self.on_event(Scored(entry, search.best(), media))

    def _enter_failure(self, job: ScoreJob, failure: Failure) -> None:
        """It counts the verifier calls that were reserved for it, so that a search in which all fail ends."""
        job.search.entries[job.row] = failure
        job.search.calls += job.search.calls_a_score

    def _answer(self, search: Search) -> None:
        """Send the scores. If a stop rule ends the search here, later queries find the budget exhausted."""
        verifiers, entries = self.roles.search, search.entries
        if not entries:
            search.throw(BudgetExhausted())
            return
        raw = [[e.scores[n] if isinstance(e, Entry) else math.nan for n in verifiers.names] for e in entries]
        failed = [isinstance(e, Failure) for e in entries]
        search.check_stop_rules()
        search.send(
            Scores(
                torch.tensor(raw, dtype=torch.float64).reshape(len(entries), len(verifiers.names)),
                verifiers.combine,
                torch.tensor(failed) if any(failed) else None,
            )
        )


def _of_latents(job: ScoreJob, latents: Tensor) -> tuple[str, str]:
    """What made latents [*latent] that are not finite, and what they hold."""
    found, what = job.search.failures.trace.first(job.candidate), kind_in(latents)
    return ("latents", what) if found is None else (found[0], f"{what} at step {found[1]}")
