"""The shape of a tree of chunks: how many branches and survivors each depth has, and what of it a budget pays for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.plugins.limits import COUNT, shown


@dataclass(frozen=True)
class TreeShape:
    """For each depth (chunk of the video): children of each state, and states that stay."""

    branches: tuple[int, ...]
    survivors: tuple[int, ...]

    @staticmethod
    def of(chunks: Any, branches: Any, survivors: Any) -> TreeShape:
        """From what a user gives: numbers for all depths, or one for each.

        UsageError: they are no counts, not one for each chunk, or more states shall stay than there are.
        """
        if chunks is None:
            given = next((v for v in (branches, survivors) if _is_sequence(v)), None)
            if given is None:
                raise UsageError("the number of chunks is not known: give chunks=3, or branches=(4, 3, 2).")
            chunks = len(given)
        chunks = _count("chunks", chunks)
        wide = _each("branches", branches, chunks)
        kept = _each("survivors", survivors, chunks) if _is_sequence(survivors) else None
        shape = TreeShape(wide, (1,) * chunks)
        if kept is None:  # one number: as many as there are, where that is less
            most = _count("survivors", survivors)
            found: list[int] = []
            for depth in range(chunks - 1):
                found.append(min(most, TreeShape(wide, (*found, *[1] * chunks)).width(depth)))
            kept = (*found, 1)
        shape = TreeShape(wide, kept)
        for depth, count in enumerate(kept):
            if count > shape.width(depth):
                raise UsageError(
                    f"survivors={list(kept)} keeps {count} states of chunk {depth + 1}, which has only "
                    f"{shape.width(depth)}: give at most as many as branches times the survivors before."
                )
        return shape

    @property
    def chunks(self) -> int:
        return len(self.branches)

    def parents(self, depth: int) -> int:
        """States that are continued at a depth."""
        return 1 if depth == 0 else self.survivors[depth - 1]

    def width(self, depth: int) -> int:
        """Candidates at a depth."""
        return self.branches[depth] * self.parents(depth)

    def chooses(self, depth: int) -> bool:
        """Whether candidates of a depth are dropped, so that scores are needed."""
        return self.width(depth) > self.survivors[depth]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _count(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or not COUNT.admits(value):
        raise UsageError(f"{name}={shown(value)} must be a whole number, {COUNT}.")
    return int(value)


def _each(name: str, value: Any, chunks: int) -> tuple[int, ...]:
    if not _is_sequence(value):
        return (_count(name, value),) * chunks
    if len(value) != chunks:
        raise UsageError(
            f"{name}={list(value)} has {len(value)} numbers for {chunks} chunks: give one for each."
        )
    return tuple(_count(name, number) for number in value)


@dataclass(frozen=True)
class Costs:
    """NFE of one chunk of the plain chain (each), and of the search at one state (search), for each depth."""

    each: tuple[int, ...]
    search: tuple[int, ...]


@dataclass(frozen=True)
class ChunkPlan:
    """nfe: of the whole tree, under its budget. plain_nfe: of one video without a search. candidates: of all depths."""

    nfe: int
    plain_nfe: int
    candidates: int


@dataclass(frozen=True)
class Spending:
    """What each depth may spend. limit: NFE of all chunks together; None: no limit."""

    shape: TreeShape
    costs: Costs
    limit: int | None

    @staticmethod
    def of(shape: TreeShape, costs: Costs, budget: Budget) -> Spending:
        """UsageError: the budget limits something else than NFE, or pays for no video of all chunks."""
        for name in ("seconds", "verifier_calls", "target", "probability"):
            if getattr(budget, name) is not None:
                raise UsageError(
                    f"a budget of {name} cannot be shared out over chunks: give NFE, such as 480nfe or 8videos."
                )
        plain = sum(costs.each)
        limit = budget.resolved(plain).nfe
        if limit is not None and limit < plain:
            raise UsageError(
                f"a budget of {limit}nfe is too small: one video of {shape.chunks} chunks takes {plain}."
            )
        return Spending(shape, costs, limit)

    def allowed(self, depth: int, spent: int, parents: int) -> list[int | None]:
        """NFE for the search at each of the states that go on, best first; None: no limit. Fewer states if it is tight.

        Where the rest of the budget pays for all that is left of the tree, each search has what it costs. Else each
        depth gets its part of the rest, in whole candidates, and no depth less than one.
        """
        costs, shape = self.costs, self.shape
        later = sum(shape.parents(d) * costs.search[d] for d in range(depth + 1, shape.chunks))
        wanted = parents * costs.search[depth]
        if self.limit is None:
            return [None] * parents
        if (
            wanted + later <= self.limit - spent
        ):  # a sampler may spend more than its plan where scores improve
            return [costs.search[depth]] * parents
        rest = self.limit - spent
        most = rest - sum(costs.each[depth + 1 :])
        each = costs.each[depth]
        candidates = max(1, min(rest * wanted // (wanted + later), most) // each)
        states = min(parents, candidates)
        shares = [candidates // states + (i < candidates % states) for i in range(states)]
        return [share * each for share in shares]

    def plan(self) -> ChunkPlan:
        """What is spent if every candidate finishes."""
        spent = candidates = 0
        states = 1
        for depth, (each, search) in enumerate(zip(self.costs.each, self.costs.search, strict=True)):
            shares = [
                search if nfe is None else min(nfe, search) for nfe in self.allowed(depth, spent, states)
            ]
            finished = sum(min(share // each, self.shape.branches[depth]) for share in shares)
            states = min(self.shape.survivors[depth], finished)
            spent, candidates = spent + sum(shares), candidates + finished
        return ChunkPlan(spent, sum(self.costs.each), candidates)
