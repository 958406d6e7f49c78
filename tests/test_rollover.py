"""Rollover budget forcing on the bed, where every score is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import takewhile
from typing import Any

import pytest
import torch

from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.samplers.rollover import Rollover
from tests.analytic import Run, run

STEPS = 10
PLAIN = Rollover(chains=1, init=0.1, window=(0.0, 1.0), kernel="ddim(1)")  # the paper's, but for its chains


def tries(made: Run) -> Counter[int]:
    """Children judged at each level."""
    return Counter(e.step for e in made.archive.entries if not e.final and e.candidate.origin == "branch")


def first_pass(made: Run) -> list[Any]:
    """What was judged before the first chain ended."""
    return list(takewhile(lambda e: not e.final, made.archive.entries))


def rising(media: Any, prompts: Any) -> list[float]:
    """Likes everything better than what came before."""
    rising.count += len(prompts)  # type: ignore[attr-defined]
    first = rising.count - len(prompts)  # type: ignore[attr-defined]
    return [float(first + i) for i in range(len(prompts))]


def falling(media: Any, prompts: Any) -> list[float]:
    return [-v for v in rising(media, prompts)]


@pytest.fixture(autouse=True)
def start_anew() -> None:
    rising.count = 0  # type: ignore[attr-defined]


def test_a_chain_that_always_improves_takes_one_try_a_level_and_rolls_the_rest_over() -> None:
    """50 calls: 5 initial noises, then one call at each of 9 levels; what is saved begins further passes."""
    made = run(replace(PLAIN, most=float("inf")), steps=STEPS, budget=Budget(nfe=50), verifier=rising)
    first = [e for e in made.archive.entries if not e.final][: 5 + 9]
    assert [e.step for e in first] == [0] * 5 + list(range(1, STEPS))
    assert len(first_pass(made)) == 14
    again = [e for e in made.archive.entries if not e.final][14:]
    assert [e.step for e in again][:4] == [0, 0, 0, 1]  # a tenth of the 36 calls that are left


def test_a_chain_that_never_improves_spends_its_quota_everywhere() -> None:
    made = run(PLAIN, steps=STEPS, budget=Budget(nfe=59), verifier=falling)
    # 5 initial noises leave 54 calls: 6 at each of 9 levels, but one at the first, where all children are the same;
    # the 5 that it saved go to the next, as far as twice the quota.
    found = tries(made)
    assert found[1] == 1
    assert found[2] == 11
    assert [found[s] for s in range(3, STEPS)] == [6] * 7
    assert made.searches[0].spent == 59


def test_the_cap_keeps_savings_from_one_level() -> None:
    made = run(replace(PLAIN, most=1.0), steps=STEPS, budget=Budget(nfe=59), verifier=falling)
    assert max(tries(made).values()) == 6


def test_the_threshold_is_the_running_maximum() -> None:
    """Improving children are accepted at once: the last child of every level but the exhausted ones is a record."""
    made = run(PLAIN, steps=STEPS, budget=Budget(nfe=120), seed=3)
    entries = first_pass(made)
    start = max(e.total for e in made.archive.entries[:12] if e.step == 0)
    record, parent = start, None
    for level in range(1, STEPS):
        children = [e for e in entries if e.step == level]
        assert len({e.candidate.parent for e in children}) == 1
        assert parent is None or children[0].candidate.parent == parent
        assert all(e.total <= record + 1e-9 for e in children[:-1])
        best = max(children, key=lambda e: e.total)
        if children[-1].total > record:
            record, best = children[-1].total, children[-1]
        parent = best.candidate.id


@pytest.mark.parametrize("seed", range(6))
def test_the_best_estimate_ever_seen_takes_part(seed: int) -> None:
    """No preview was liked better than what comes out."""
    made = run(replace(PLAIN, chains=2), steps=STEPS, budget=Budget(nfe=100), seed=seed)
    previews = max(e.total for e in made.archive.entries if not e.final)
    assert made.winners[0].total >= previews - 1e-6
    assert made.winners[0].candidate.origin in ("estimate", "own", "prior")


def test_a_tolerance_of_the_whole_range_accepts_nothing_early() -> None:
    strict = run(replace(PLAIN, tolerance=1e6), steps=STEPS, budget=Budget(nfe=59))
    never = run(PLAIN, steps=STEPS, budget=Budget(nfe=59), verifier=falling)
    assert tries(strict) == tries(never)


def test_a_batch_is_tried_together_and_its_best_taken() -> None:
    sizes: list[int] = []

    def count(batch: Any, rows: Any) -> None:
        sizes.append(len(rows) if batch.step >= 2 else 3)

    sampler = replace(PLAIN, batch=3, most=float("inf"))
    made = run(sampler, steps=STEPS, budget=Budget(nfe=120), on_batch=count, verifier=rising)
    assert max(sizes) == 3
    first = first_pass(made)
    for level in range(2, STEPS - 1):
        children = [e for e in first if e.step == level]
        assert len(children) == 3  # the first batch improves, and its last one is liked best
        assert {e.candidate.parent for e in first if e.step == level + 1} == {children[-1].candidate.id}


def test_calls_that_reach_no_end_are_refused() -> None:
    with pytest.raises(UsageError, match="calls=4 do not suffice for the 10 steps of one chain"):
        run(Rollover(calls=4), steps=STEPS)


def test_chains_are_independent_and_share_the_calls() -> None:
    made = run(replace(PLAIN, chains=3), steps=STEPS, budget=Budget(nfe=150), verifier=falling)
    parents = [
        {e.candidate.parent for e in made.archive.entries if e.step == s and not e.final} for s in (1, 2, 9)
    ]
    assert [len(p) for p in parents] == [3, 3, 3]


def test_the_window_carries_noises_to_its_start() -> None:
    made = run(
        replace(PLAIN, window=(0.5, 0.8), init=0.6), steps=STEPS, budget=Budget(nfe=100), verifier=falling
    )
    assert min(e.step for e in made.archive.entries) == 5
    assert sum(e.step == 5 for e in made.archive.entries) == 10  # 60 calls, 6 for each
    assert tries(made)[9] == 1
    assert tries(made)[7] > 1


def test_without_an_sde_all_goes_to_initial_noises() -> None:
    made = run(replace(PLAIN, kernel="ode"), steps=STEPS, budget=Budget(nfe=100))
    assert sum(e.step == 0 and not e.final for e in made.archive.entries) == 91
    assert set(tries(made).values()) == {1}
    # ... and the chain is the ODE from the best of them
    best = max((e for e in made.archive.entries if e.step == 0), key=lambda e: e.total)
    branch = next(e for e in made.archive.entries if e.step == 1)
    assert branch.candidate.parent == best.candidate.id


@pytest.mark.slow
def test_more_calls_are_better_on_average() -> None:
    means = [
        torch.tensor(
            [run(PLAIN, steps=STEPS, budget=Budget(nfe=n), seed=s).winners[0].total for s in range(12)]
        ).mean()
        for n in (20, 100, 400)
    ]
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize(
    "options",
    [{"chains": 0}, {"batch": 0}, {"calls": 0}, {"init": 1.0}, {"init": -0.1}, {"tolerance": -1.0}, {"most": 0.5},
     {"levels": "vp"}, {"window": (0.6, 0.3)}, {"window": (0.1,)}, {"kernel": "glass(2)"}, {"kernel": "own"},
     {"kernel": "ddim(-1)"}],
)  # fmt: skip
def test_rollover_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Rollover(**options)
