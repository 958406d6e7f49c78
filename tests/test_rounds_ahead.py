"""zero_order with several rounds in flight: what each round knew when it was proposed."""

from __future__ import annotations

import pytest

from genscale.engine.budget import Budget
from genscale.samplers.zero_order import ZeroOrder
from tests.analytic import run

NEIGHBOURS = 3


def parents(ahead: int) -> tuple[list[int | None], list[float]]:
    """The parents of all neighbours, and the scores of all candidates, without restarts."""
    sampler = ZeroOrder(neighbours=NEIGHBOURS, patience=100, ahead=ahead)
    entries = run(sampler, budget=Budget(nfe=150), keep=25, batch_size=32).searches[0].finals
    assert [e.candidate.id for e in entries] == list(range(25))
    return [e.candidate.parent for e in entries[1:]], [float(e.total or 0.0) for e in entries]


def expected(scores: list[float], ahead: int) -> list[int | None]:
    """The best of all that were judged when a neighbour was proposed; of equals the first."""
    found: list[int | None] = []
    judged, rounds = 1, ahead - 1 or ahead  # the first query holds the pivot and one round less
    while len(found) + 1 < len(scores):
        known = 1 if not found else judged
        found += [max(range(known), key=lambda i: (scores[i], -i))] * (rounds * NEIGHBOURS)
        judged, rounds = len(found) + 1, ahead
    return found[: len(scores) - 1]


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_rounds_know_what_was_judged_before_they_were_proposed(ahead: int) -> None:
    found, scores = parents(ahead)
    assert found == expected(scores, ahead)
    assert len(set(found)) > 2  # progress, so that the rule below can fail
    assert found != expected(scores, ahead + 1)  # the broken twin: one more round in flight


def test_a_query_holds_all_rounds_in_flight() -> None:
    sampler = ZeroOrder(neighbours=NEIGHBOURS, ahead=3)
    batches = run(sampler, budget=Budget(nfe=150), batch_size=32).batches
    assert [len(b.prompts) for b in batches if b.step == 0] == [1 + 2 * NEIGHBOURS, 9, 9]
