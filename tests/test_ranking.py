"""Finished candidates in order: kept up as they come, the same as sorting them all."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from genscale.engine.archive import Entry
from genscale.engine.budget import Budget
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.protocol.particles import OWN, Candidate


def judge(media: Any, prompts: Any) -> list[float]:
    return [0.0] * len(prompts)


def search(keep: int, ensemble: str) -> Search:
    roles = Roles(
        VerifierSet((WeightedVerifier("judge", judge, 1.0),), ensemble),
        VerifierSet((), "weighted"),
        VerifierSet((), "weighted"),
    )
    return Search(0, "a star", None, None, Budget(), roles, keep)  # type: ignore[arg-type]


def entry(i: int, score: float) -> Entry:
    candidate = Candidate(OWN if i == 3 else i + 10, "prior", (i,))
    scores = {"judge": score}
    return Entry(0, candidate, 8, True, scores, None, x=torch.zeros(1))


@pytest.mark.parametrize("ensemble", ["weighted", "rank"])
@pytest.mark.parametrize("keep", [1, 3])
def test_ranking_is_the_stable_sort(keep: int, ensemble: str) -> None:
    numbers = random.Random(keep)
    made, entries = search(keep, ensemble), []
    for i in range(40):
        entries.append(entry(i, float(numbers.randrange(6))))  # many are equal: the first one stays ahead
        made.add_final(entries[-1])
        expected = sorted(entries, key=lambda e: -e.scores["judge"])
        assert [id(e) for e in made.ranking()] == [id(e) for e in expected]
        assert made.best() is expected[0]
        held = {id(e) for e in entries if e.x is not None}
        if ensemble == "weighted":
            assert held == {id(e) for e in [*expected[:keep], *entries[3:4]]}
        else:  # a rank may rise later
            assert len(held) == len(entries)
