"""Answers to Score: decode candidates, ask the verifiers, and enter the scores into the archive.

A candidate whose latents, pixels or scores are not finite is dropped: it gets a Failure instead of an Entry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from genscale.engine.archive import Entry
from genscale.engine.capacity import Capacity
from genscale.engine.events import Scored
from genscale.engine.failures import Failure
from genscale.engine.judging import LATENTS, Judged, Judging, Unjudged
from genscale.engine.search import Search
from genscale.engine.verifier_calls import Left
from genscale.engine.verifier_roles import Roles, VerifierSet
from genscale.errors import BudgetExhausted
from genscale.media import Media
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

    def fault(self, where: str, what: str) -> tuple[str, str]:
        """Where it stopped being finite, if that was noted while its latents were made, and what it holds."""
        found = self.search.failures.trace.first(self.candidate) if where == LATENTS else None
        return (where, what) if found is None else (found[0], f"{what} at step {found[1]}")


class Scoring:
    """Decodes and scores for all searches; all that wait for scores are served together."""

    def __init__(self, roles: Roles, decode: Decode, capacity: Capacity) -> None:
        self.roles, self.capacity = roles, capacity
        self.judging = Judging(roles, decode, capacity.ledger)
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
        if entry is not None:
            entry.remember()
        if entry is not None and entry.final:
            entry.x = particles.x[row]
        return entry

    def _score(self, jobs: Sequence[ScoreJob], fresh: Sequence[int], searches: Sequence[Search]) -> bool:
        """Decode and score the fresh jobs in one batch; False if memory ran out and fewer must be tried.

        Known entries between them are entered too, so that entries keep the order of the jobs, which decides ties.
        """
        batch = [jobs[i] for i in fresh]
        try:
            found = self._judged(batch, self.capacity.patience(searches))
        except torch.cuda.OutOfMemoryError as error:
            advice = "offloading, a smaller size, or a verifier on another device"
            self.capacity.shrink_decoding(len(fresh), "decoding and scoring", advice, error)
            return False
        done = 0
        for k, job in enumerate(batch):
            self._enter_known(jobs[done : fresh[k]])
            done = fresh[k] + 1
            if k in found.faults:
                where, what = job.fault(*found.faults[k])
                failure = self.capacity.drop(job.search, job.candidate, where, what, job.final)
                self._enter_failure(job, failure)
                continue
            entry, own_media = self._entry(job, found, k), found.images([k])
            if own_media is not None:
                self._score_leader(job, entry, own_media)
            self._enter(job, entry, fresh=True, media=own_media)
        return True

    def _judged(self, batch: Sequence[ScoreJob], left: Left) -> Judged:
        """Decode and score the jobs together."""
        return self.judging(unjudged(batch), left)

    def _entry(self, job: ScoreJob, found: Judged, k: int) -> Entry:
        particles, verifiers, raw = job.search.particles, job.search.roles.search, found.raw[k]
        entry = Entry(
            prompt=job.search.index,
            candidate=particles.candidates[job.row],
            step=particles.step,
            final=job.final,
            scores=verifiers.named(raw),
            total=float(verifiers.combine(raw[None])[0]) if verifiers.pointwise else None,
            select=found.select.get(k, {}),
            nfe=job.search.spent,
            seconds=round(self.archive.seconds, 4),
            x=particles.x[job.row] if job.final else None,
            vectors=found.vectors.get(k, {}),
        )
        entry.remember()  # they may come from another process
        return entry

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
        verifiers, entries = search.roles.search, search.entries
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


def unjudged(jobs: Sequence[ScoreJob]) -> Unjudged:
    """What is to be decoded and scored, with its latents beside the model."""
    latents = torch.stack([job.latents for job in jobs])
    return Unjudged(
        jobs[0].search.process.holding.beside_model(latents),
        tuple(job.search.index for job in jobs),
        tuple(job.search.prompt for job in jobs),
        tuple(job.label for job in jobs),
        tuple(job.final for job in jobs),
        tuple(job.progress for job in jobs),
    )
