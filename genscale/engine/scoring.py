"""Answers to Score: decode candidates, ask the verifiers, and enter the scores into the archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.engine.archive import Entry
from genscale.engine.capacity import Capacity
from genscale.engine.events import Scored
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles
from genscale.errors import BudgetExhausted
from genscale.media import Media
from genscale.protocol.answers import Scores
from genscale.protocol.batches import Decode
from genscale.protocol.particles import OWN
from genscale.protocol.queries import Score


@dataclass
class ScoreJob:
    """One row of a Score query; known: its entry, if the archive has it."""

    search: Search
    row: int
    known: Entry | None

    @property
    def label(self) -> str:
        return self.search.label(self.row)

    @property
    def final(self) -> bool:
        """Whether its latents are clean."""
        return self.search.particles.step == self.search.process.steps

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


class Scoring:
    """Decodes and scores for all searches; all that wait for scores are served together."""

    def __init__(self, roles: Roles, decode: Decode, capacity: Capacity) -> None:
        self.roles, self.decode, self.capacity = roles, decode, capacity
        self.archive, self.ledger, self.on_event = capacity.archive, capacity.ledger, capacity.on_event

    def run(self, searches: Sequence[Search]) -> bool:
        """Answer every Score that waits; False if none does."""
        waiting = [s for s in searches if isinstance(s.query, Score)]
        jobs: list[ScoreJob] = []
        for search in waiting:
            n = search.affordable()
            if n == 0:
                search.throw(BudgetExhausted())
                continue
            search.entries = [None] * n
            jobs += [ScoreJob(search, row, self._recall(search, row)) for row in range(n)]
        while fresh := self._next_fresh(jobs):
            if self._score(jobs, fresh):
                jobs = jobs[fresh[-1] + 1 :]
        self._enter_known(jobs)
        for search in waiting:
            if search.entries:
                self._answer(search)
        return bool(waiting)

    def _next_fresh(self, jobs: Sequence[ScoreJob]) -> list[int]:
        """Indices of the next jobs without an entry, as many as are decoded together."""
        return [i for i, job in enumerate(jobs) if job.known is None][: self.capacity.decoded_together]

    def _recall(self, search: Search, row: int) -> Entry | None:
        particles = search.particles
        entry = self.archive.scored(search.index, particles.candidates[row], particles.step)
        if entry is not None:
            entry.x = particles.x[row]
        return entry

    def _score(self, jobs: Sequence[ScoreJob], fresh: Sequence[int]) -> bool:
        """Decode and score the fresh jobs in one batch; False if memory ran out and fewer must be tried.

        Known entries between them are entered too, so that entries keep the order of the jobs, which decides ties.
        """
        batch = [jobs[i] for i in fresh]
        try:
            media = self._decoded(batch) if self.roles.judging else None
            scores = self._scores(batch, media)
        except torch.cuda.OutOfMemoryError as error:
            advice = "offloading, a smaller size, or a verifier on another device"
            self.capacity.shrink(len(batch), "decoding and scoring", advice, error)
            return False
        done = 0
        for k, (job, (raw, select)) in enumerate(zip(batch, scores, strict=True)):
            self._enter_known(jobs[done : fresh[k]])
            done = fresh[k] + 1
            entry, own_media = self._entry(job, raw, select), None if media is None else media[k : k + 1]
            if own_media is not None:
                self._score_held_out(job, entry, own_media)
            self._enter(job, entry, fresh=True, media=own_media)
        return True

    def _decoded(self, batch: Sequence[ScoreJob]) -> Media:
        with self.ledger.clock("decode"):
            latents = torch.stack([job.latents for job in batch])
            media = self.decode(latents, tuple(job.search.index for job in batch))
        self.ledger.decodes += len(batch)
        return media

    def _scores(
        self, batch: Sequence[ScoreJob], media: Media | None
    ) -> list[tuple[Tensor, dict[str, float]]]:
        """For each job the raw scores [search verifiers], and those of the select verifiers if it is final.

        Without any verifier nothing is decoded (media is None), and all candidates are equal.
        """
        if media is None:
            return [(torch.zeros(0, dtype=torch.float64), {}) for _ in batch]
        texts, labels = [job.search.prompt for job in batch], [job.label for job in batch]
        raw = self.roles.search.score(media, texts, labels, self.ledger)
        select: list[dict[str, float]] = [{} for _ in batch]
        final = [k for k, job in enumerate(batch) if job.final]
        if final and self.roles.select.members:
            some = [texts[k] for k in final], [labels[k] for k in final]
            rows = self.roles.select.score(Media(media.pixels[final]), *some, self.ledger)
            for k, row in zip(final, rows, strict=True):
                select[k] = self.roles.select.named(row)
        return list(zip(raw, select, strict=True))

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
            x=particles.x[job.row],
        )

    def _score_held_out(self, job: ScoreJob, entry: Entry, media: Media) -> None:
        """Held-out scores of the pipeline's own image, and of every candidate that may become the best."""
        verifiers, search = self.roles.held_out, job.search
        if verifiers.members and entry.final and (entry.candidate.id == OWN or search.may_lead(entry)):
            scores = verifiers.score(media, [search.prompt], [job.label], self.ledger)
            entry.held_out = verifiers.named(scores[0])

    def _enter_known(self, jobs: Sequence[ScoreJob]) -> None:
        """Enter what a resumed run scored before."""
        for job in jobs:
            assert job.known is not None
            self._enter(job, job.known, fresh=False)

    def _enter(self, job: ScoreJob, entry: Entry, fresh: bool, media: Media | None = None) -> None:
        search = job.search
        search.entries[job.row] = entry
        search.calls += search.calls_a_score
        self.archive.add_score(entry, fresh)
        if entry.final:
            search.add_final(entry)
        self.on_event(Scored(entry, search.best(), media))

    def _answer(self, search: Search) -> None:
        """Send the scores. If a stop rule ends the search here, later queries find the budget exhausted."""
        verifiers, entries = self.roles.search, [e for e in search.entries if e is not None]
        raw = torch.tensor([[e.scores[n] for n in verifiers.names] for e in entries], dtype=torch.float64)
        search.check_stop_rules()
        search.send(Scores(raw.reshape(len(entries), len(verifiers.names)), verifiers.combine))
