"""How drafts are made again in full: the noise that each candidate of a search started from, and a sampler of these.

A candidate can be made again by the pipeline alone where its noise was drawn or given at step 0, and where nothing but
the pipeline's own scheduler moved it. Candidates that continue others in the middle of a run cannot.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from genscale.errors import BudgetExhausted
from genscale.key import Key
from genscale.protocol.interfaces import Process, Sampler
from genscale.protocol.particles import Candidate, Particles, cat, draw
from genscale.protocol.population import Population
from genscale.protocol.queries import Ask, Query, Score, Solve


@dataclass(frozen=True, eq=False)
class Recipe:
    """Where a candidate started. noise: [*latent], on the CPU; None: what its key draws."""

    candidate: Candidate
    noise: Tensor | None = None

    def start(self, process: Process) -> Particles:
        return process.start([self.candidate], None if self.noise is None else self.noise[None])


class Recipes:
    """The recipes of one search, by candidate."""

    def __init__(self) -> None:
        self._found: dict[int, Recipe] = {}

    def of(self, candidate: Candidate) -> Recipe | None:
        """None: the pipeline alone does not make this candidate."""
        found = self._found.get(candidate.id)
        return found if found is not None and found.candidate == candidate else None

    def add(self, recipe: Recipe) -> None:
        self._found[recipe.candidate.id] = recipe

    def remove(self, candidates: Iterable[Candidate]) -> None:
        """Something else than the pipeline's own scheduler moves them."""
        for candidate in candidates:
            self._found.pop(candidate.id, None)


@dataclass(frozen=True, eq=False)
class Noted:
    """A sampler that searches as another one does, and notes where its candidates start.

    recipes: of each search, by the path of its key; filled in as the searches run.
    """

    sampler: Sampler
    recipes: dict[tuple[int, ...], Recipes]

    def __getattr__(self, name: str) -> Any:  # the hooks of the sampler
        if name.startswith("__") or name in ("sampler", "recipes"):
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def search(self, process: Process, key: Key) -> Generator[Query, Any, Population | None]:
        noted = self.recipes[key.path] = Recipes()
        made = self.sampler.search(_NotedProcess(process, noted), key)  # type: ignore[arg-type]
        try:
            query = next(made)
            while True:
                if isinstance(query, Solve) and query.kernel is not None:
                    noted.remove(query.particles.candidates)
                try:
                    answer = yield query
                except BudgetExhausted as error:
                    query = made.throw(error)
                else:
                    query = made.send(answer)
        except StopIteration as end:
            found: Population | None = end.value
            return found


class _NotedProcess:
    """A process whose starts are noted, and what moves particles otherwise than its scheduler does."""

    def __init__(self, process: Process, recipes: Recipes) -> None:
        self._process, self._recipes = process, recipes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def start(self, candidates: Sequence[Candidate], noise: Tensor | None = None) -> Particles:
        made = self._process.start(candidates, noise)
        for i, candidate in enumerate(made.candidates):
            # A copy: a row of what the sampler made would keep all rows in memory.
            self._recipes.add(
                Recipe(candidate, None if noise is None else noise[i].detach().to("cpu", copy=True))
            )
        return made

    def move(self, particles: Particles, *how: Any) -> Particles:
        self._recipes.remove(particles.candidates)
        return self._process.move(particles, *how)

    def take(self, particles: Particles, *how: Any) -> Particles:
        self._recipes.remove(particles.candidates)
        return self._process.take(particles, *how)


@dataclass(frozen=True, eq=False)
class Commit:
    """A sampler that makes given candidates in full, with the pipeline's own scheduler.

    chosen: the recipes of each search, best draft first, by the path of its key. keep: how many candidates stand for
    them in a plan, which has no drafts. Cost in NFE: f(0, T) for each. Scores: one for each.
    """

    keep: int
    chosen: Mapping[tuple[int, ...], tuple[Recipe, ...]]

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        planned = tuple(Recipe(draw(key, i)) for i in range(self.keep))
        left = self.chosen.get(key.path, planned)
        while left:
            # One after the other where a score may end the search: the others would be made in vain.
            wave = yield Ask(process.nfe(), process.calls(0, 1), 1 if process.scores_end else len(left))
            some, left = left[:wave], left[wave:]
            finished = yield Solve(cat([recipe.start(process) for recipe in some]))
            yield Score(finished)

    def cost(self, process: Process) -> int:
        return self.keep * process.nfe()
