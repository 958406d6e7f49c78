"""Pickles and copies of a search result.

A live result can decode its latents: it refers to the pipeline, to samplers that wait in the middle of their code, and
to verifiers. A deep copy shares these. A pickle has none of them: it holds candidates, scores, costs and kept latents.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.results.run_description import RunDescription


def pickled_state(result: dict[str, Any]) -> dict[str, Any]:
    """The fields of a SearchOutcome as a pickle holds them."""
    describe = result["describe"]
    return result | {
        "searches": tuple(map(_ended, result["searches"])),
        "decode": NotPickled("pipeline"),
        "describe": None if describe is None else Described(describe()),
    }


def deep_copied(result: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """The fields of a deep copy of a SearchOutcome, which shares what decodes, steps and scores."""
    drafts = result["drafts"]
    shared: list[Any] = [result["decode"], result["describe"]]
    shared += [] if drafts is None else [drafts.decode, drafts.describe]
    for search in (*result["searches"], *(() if drafts is None else drafts.searches)):
        shared += [search.generator, search.process, search.roles, search.rules]
    memo |= {id(part): part for part in shared}
    return {name: copy.deepcopy(value, memo) for name, value in result.items()}


@dataclass(frozen=True)
class NotPickled:
    """In place of what a pickle does not hold."""

    what: str

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise UsageError(
            f"this search result was pickled, and a pickle does not hold the {self.what}: decode, save or go on with "
            "the result that the search returned; `result.save(folder)` and genscale.load_result keep its images."
        )

    def step(self, *args: Any, **kwargs: Any) -> NoReturn:
        self()


@dataclass(frozen=True)
class Described:
    """What the search was asked for, once said."""

    description: RunDescription

    def __call__(self) -> RunDescription:
        return self.description


def _ended(search: Search) -> Search:
    """A search without its sampler's code and its verifiers; its process has no scheduler and no budget left."""
    process = replace(
        search.process,
        solver=NotPickled("scheduler"),
        own_draw=NotPickled("generator"),
        left=_nothing_left,
        time=_no_time,
        of_branch=NotPickled("pipeline"),
    )
    nothing: Any = iter(())
    roles = _without_verifiers(search.roles)
    ended = replace(
        search,
        generator=nothing,
        process=process,
        roles=roles,
        query=None,
        entries=[],
        _answers=None,
        time_left=_no_time,
    )
    ended.ranks = search.ranks.by(roles)
    return ended


def _without_verifiers(roles: Roles) -> Roles:
    return roles.each(lambda s: VerifierSet(_named(s.members), s.ensemble, s.columns))


def _named(members: Sequence[WeightedVerifier]) -> tuple[WeightedVerifier, ...]:
    return tuple(WeightedVerifier(m.name, NotPickled(f"verifier '{m.name}'"), m.weight) for m in members)


def _nothing_left() -> tuple[int | None, int | None]:
    return 0, 0


def _no_time() -> float:
    return 0.0
