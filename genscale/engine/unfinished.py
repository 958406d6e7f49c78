"""What an interrupt in the middle of a run leaves: the latents under way, scored as they are."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from genscale.engine.archive import Entry
from genscale.engine.model_batches import ModelBatches
from genscale.engine.scoring import ScoreJob, Scoring
from genscale.engine.search import Search
from genscale.errors import BudgetExhausted
from genscale.media import Media
from genscale.protocol.particles import Particles, cat
from genscale.protocol.population import Population
from genscale.protocol.queries import Ask, Query, Score

REACHED = "draft"
"""Among an unfinished candidate's details, by the name that users read there: the step its latents had reached."""


def is_unfinished(entry: Entry) -> bool:
    return REACHED in entry.candidate.details


class UnfinishedScoring(Scoring):
    """Scores unfinished candidates as results. The archive does not get them: a resumed run finishes them."""

    def _recall(self, search: Search, row: int) -> Entry | None:
        return None

    def _enter(self, job: ScoreJob, entry: Entry, fresh: bool, media: Media | None = None) -> None:
        super()._enter(job, entry, False, media)


def finish_unfinished(
    searches: Sequence[Search], model: ModelBatches, scoring: Scoring, left: Tensor | None = None
) -> None:
    """End every search with the latents under way as further candidates, after those that were finished.

    left: [n, *latent], what the pipeline's loop made of the open batch's latents; None: the batch's own. Of a prompt
    whose candidates have all not begun, the initial latents of one of them are taken.
    """
    for search in searches:
        while isinstance(search.query, Ask):  # nothing is under way; it may still finish what it keeps
            search.throw(BudgetExhausted())
        if search.query is None:
            continue
        found = _under_way(search, model, left)
        begun = [p for p in found if p.step > 0]
        chosen = begun or ([] if search.finals else [found[0][:1]])
        ended = _ended()
        next(ended)
        if chosen:
            rows = cat([_as_result(p, search.process.steps) for p in chosen])
            if search.process.origins is not None:
                search.process.origins.meet(rows, scored=True)
            search.continue_with(ended, Score(rows))
        else:
            search.continue_with(ended, None)
    scoring.run(searches)


def _under_way(search: Search, model: ModelBatches, left: Tensor | None) -> list[Particles]:
    """The rows of the search's query: those of the open batch first, then those that wait or have arrived."""
    found, at = [], 0
    for part in model.evaluated:
        n = len(part.rows)
        if part.search is search:
            x = part.particles.x if left is None else left[at : at + n].to(part.particles.x.dtype)
            found.append(replace(part.particles, x=x))
        at += n
    found += [part.particles for part in model.waiting if part.search is search]
    found = [search.process.holding.aside(p) for p in found]
    return (found + search.arrived) or [search.particles]


def _as_result(particles: Particles, steps: int) -> Particles:
    if particles.step == steps:
        return replace(particles, memory=None, x0=None)
    candidates = tuple(
        replace(c, details={**c.details, REACHED: float(particles.step)}) for c in particles.candidates
    )
    return Particles(particles.x, steps, candidates)


def _ended() -> Generator[Query, Any, Population | None]:
    """In place of a sampler that is not asked any more."""
    yield  # type: ignore[misc]
    return None
