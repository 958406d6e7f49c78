"""Ids of candidate 0 in what a sampler yields and returns (see genscale.engine.own_path)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from genscale.engine.archive import Entry
from genscale.engine.process import PromptProcess
from genscale.protocol.particles import OWN, Candidate
from genscale.protocol.population import Population
from genscale.protocol.queries import Denoise, Gradient, Score, Solve

Moving = Solve | Denoise | Score | Gradient
"""Queries about particles."""


@dataclass
class OwnIds:
    """Gives candidate 0 a new id in the queries of one search, once it is not the pipeline's own result.

    scored_as: what it was scored as, if a finished candidate with id 0 was not the pipeline's own.
    """

    process: PromptProcess
    scored_as: Candidate | None = None

    def of_query(self, query: Moving) -> Moving:
        """The query; candidate 0 has a new id where it leaves, or has left, the pipeline's own path."""
        process, particles = self.process, self.process.own_path.checked(query.particles)
        if isinstance(query, Score) and particles.step == process.steps:
            pairs = zip(query.particles.candidates, particles.candidates, strict=True)
            self.scored_as = next((new for old, new in pairs if new.id != old.id), self.scored_as)
        if isinstance(query, Solve) and query.kernel is not None:
            until = process.steps if query.until is None else query.until
            if until > particles.step < process.model_steps:
                particles = process.off_path(particles, repr(query.kernel))
        return query if particles is query.particles else replace(query, particles=particles)

    def of_population(self, population: Population | None, finals: Sequence[Entry]) -> Population | None:
        """The population, with the candidates' ids as they were scored."""
        if population is None or self.scored_as is None or any(e.candidate.id == OWN for e in finals):
            return population
        named = tuple(self.scored_as if c.id == OWN else c for c in population.candidates)
        return replace(population, candidates=named)
