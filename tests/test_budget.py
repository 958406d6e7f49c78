"""Budgets: what is read, what is refused, and that no sampler ever spends more."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import genscale.engine.archive
from genscale.algorithms.tree_search import TreeSearch
from genscale.engine.budget import Budget
from genscale.engine.plan import plan
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.protocol.queries import BACKWARD
from genscale.samplers.accept_reject import AcceptReject
from genscale.samplers.dfs import Dfs
from genscale.samplers.rollover import Rollover
from tests.analytic import (
    CLIMBERS,
    SAMPLERS,
    asks_for_gradients,
    first_coordinate,
    parts_for,
    process_of,
    run,
)
from tests.quick import quick, third

# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("480nfe", Budget(nfe=480)),
        ("480 nfe", Budget(nfe=480)),
        ("1_000NFE", Budget(nfe=1000)),
        ("60s", Budget(seconds=60)),
        (".5s", Budget(seconds=0.5)),
        ("1e3s", Budget(seconds=1000)),
        ("2min", Budget(seconds=120)),
        ("1.5m", Budget(seconds=90)),
        ("32calls", Budget(verifier_calls=32)),
        ("1call", Budget(verifier_calls=1)),
        ("target=0.35", Budget(target=0.35)),
        ("target = -1e-3", Budget(target=-0.001)),
        ("target=1e+2", Budget(target=100)),
        ("480nfe,60s", Budget(nfe=480, seconds=60)),
        (" 480 nfe, 60 s, 32 calls, target = 1 ", Budget(480, 60, 32, 1)),
        ("480nfe 60s", Budget(nfe=480, seconds=60)),
        ("16images", Budget(images=16)),
        ("16 images", Budget(images=16)),
        ("1image", Budget(images=1)),
        ("images=8", Budget(images=8)),
        ("image = 8", Budget(images=8)),
        ("4videos", Budget(images=4)),
        ("16images,60s", Budget(images=16, seconds=60)),
        ("480nfe, 16 images", Budget(nfe=480, images=16)),
    ],
)
def test_what_is_read(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "480", "nfe", "-3nfe", "4.5nfe", "_nfe", "1.2.3s", "60 parsecs", "nan s",
                                  "target=nan", "target=e", "target=", "3nfe,", ",", "none", "480nfe60s"])  # fmt: skip
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*; write 480nfe, 60s, 32calls, target=0\.35"):
        Budget.parse(text)


def test_a_bare_number_is_told_what_it_could_mean() -> None:
    for text in ("8", "60s,8"):
        with pytest.raises(UsageError, match=r"'8' without its unit \(8images: .* 8nfe: .* 8s: seconds"):
            Budget.parse(text)
    for number in (8, np.int64(8)):
        with pytest.raises(UsageError, match="8images"):
            Budget.of(number)
    with pytest.raises(UsageError, match=r"2\.5images"):
        Budget.of(2.5)


def test_what_is_a_budget() -> None:
    budget = Budget(nfe=3)
    assert Budget.of(budget) is budget
    assert Budget.of(None) == Budget()
    assert Budget.of("3nfe") == budget


def test_images_become_nfe_where_the_cost_of_one_is_known() -> None:
    assert Budget(images=16, seconds=5).resolved(20) == Budget(nfe=320, images=16, seconds=5)
    assert Budget(nfe=100, images=16).resolved(20) == Budget(nfe=100, images=16)
    assert Budget(nfe=400, images=16).resolved(20) == Budget(nfe=320, images=16)
    assert Budget(nfe=400).resolved(20) == Budget(nfe=400)
    again = Budget(images=16).resolved(20)
    assert again.resolved(20) == again == Budget.parse(str(again))


@pytest.mark.parametrize("text", ["0images", "0nfe", "0s", "0.0s", "0calls", "480nfe,0s"])
def test_nothing_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError, match="allows nothing"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["60s,2min", "3nfe,4nfe", "target=1,target=1", "3images,images=4"])
def test_a_limit_is_said_once(text: str) -> None:
    with pytest.raises(UsageError, match="twice"):
        Budget.parse(text)


@pytest.mark.parametrize(
    "limits",
    [{"images": 0}, {"images": 1.5},
     {"nfe": 0}, {"nfe": -1}, {"nfe": 2.5}, {"verifier_calls": 1.5}, {"seconds": 0}, {"seconds": float("inf")},
     {"seconds": float("nan")}, {"target": float("nan")}, {"target": float("inf")}],
)  # fmt: skip
def test_bad_limits_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(limits.values()))} {next(iter(limits))}"):
        Budget(**limits)


def test_counts_may_be_numpy_integers() -> None:
    assert Budget(nfe=np.int64(3)).nfe == 3


def test_what_is_printed_loses_nothing() -> None:
    rng = random.Random(0)
    for _ in range(300):
        budget = Budget(
            rng.choice((None, rng.randrange(1, 10**9))),
            rng.choice((None, 1e6, 60.0, 10 ** rng.uniform(-7, 20))),
            rng.choice((None, rng.randrange(1, 10**9))),
            rng.choice((None, 0.0, -1.0, rng.gauss(0, 1), rng.gauss(0, 1e20), 1e-9)),
            rng.choice((None, rng.randrange(1, 10**9))),
        )
        if budget != Budget():
            assert Budget.parse(str(budget)) == budget
    assert str(Budget()) == "none"


# ---------------------------------------------------------------- spending


def two(media: Any, prompts: Any) -> torch.Tensor:
    return -media.pixels[:, 1, 0, 0].double()


ROLES = {
    "one verifier": Roles(VerifierSet((WeightedVerifier("a", first_coordinate),))),
    "two by rank": Roles(
        VerifierSet((WeightedVerifier("a", first_coordinate), WeightedVerifier("b", two)), "rank")
    ),
    "another selects": Roles(
        VerifierSet((WeightedVerifier("a", first_coordinate),)), VerifierSet((WeightedVerifier("b", two),))
    ),
    "two select, one reports": Roles(
        VerifierSet((WeightedVerifier("a", first_coordinate),)),
        VerifierSet((WeightedVerifier("b", two), WeightedVerifier("a", first_coordinate))),
        VerifierSet((WeightedVerifier("c", two),)),
    ),
}


# What these spend follows the scores: they say so by a cost of None even without a budget.
SCORES_DECIDE = {
    n
    for n, s in SAMPLERS.items()
    if isinstance(s, Rollover | TreeSearch | Dfs | AcceptReject) or getattr(s, "tries", 0)
}


def random_run(rng: random.Random, pointwise: bool = False) -> tuple[dict[str, Any], Roles]:
    steps = rng.choice((1, 2, 3, 5, 6))
    guided = tuple(rng.choice((1, 2)) for _ in range(steps)) if rng.random() < 0.5 else rng.choice((1, 2, 3))
    roles = ROLES[rng.choice(list(ROLES))]
    if pointwise:
        roles = replace(roles, search=replace(roles.search, ensemble="weighted"))
    one = sum((guided,) * steps if isinstance(guided, int) else guided)
    nfe = rng.choice((one, one + 1, rng.randrange(1, one + 1), rng.randrange(1, 12 * one)))
    calls = rng.choice((roles.calls, roles.calls + 1, rng.randrange(1, 20 * roles.calls)))
    kind = rng.choice(("nfe", "calls", "both"))
    budget = Budget(nfe=None if kind == "calls" else nfe, verifier_calls=None if kind == "nfe" else calls)
    settings = {
        "steps": steps, "guided": guided, "budget": budget, "prompts": rng.choice((1, 1, 2, 3)),
        "batch_size": rng.choice((1, 2, 5, 64)), "seed": rng.randrange(1000),
    }  # fmt: skip
    return settings, roles


@pytest.mark.parametrize("name", quick(SAMPLERS, list(SAMPLERS)[::6]))  # CI has all of them
def test_never_one_over_and_always_a_winner(name: str) -> None:
    rng, wins, seen = random.Random(name), 0, {"poor": 0, "spent all": 0}
    for _ in range(100):  # of 9 ways to use the samplers: over 200 for each of them
        gradients = asks_for_gradients(name)
        settings, roles = random_run(rng, gradients)
        budget, counts = settings["budget"], []
        made = run(SAMPLERS[name], roles=roles, on_batch=lambda batch, rows, counts=counts: counts.append(
            (batch.step, bool(batch.branch), [p for p, _ in rows])), **settings)  # fmt: skip
        parts = parts_for(SAMPLERS[name], settings["steps"], settings["guided"])
        for search in made.searches:
            # counted by the model itself, not by the engine:
            evaluations = sum(
                (1 if branch else parts["evaluations"][step]) * rows.count(search.index)
                for step, branch, rows in counts
            )
            finals = sum(e.final for e in made.archive.entries if e.prompt == search.index)
            previews = sum(not e.final for e in made.archive.entries if e.prompt == search.index)
            calls = roles.calls * finals + len(roles.search.members) * previews
            if gradients:  # of which rows they were, only the ledger below can tell
                evaluations, calls = max(evaluations, search.spent), max(calls, search.calls)
            assert evaluations == search.spent <= (budget.nfe or evaluations)
            assert calls == search.calls <= (budget.verifier_calls or calls)
            assert finals == search.finished
            enough = (budget.nfe or 10**9) >= search.process.nfe() and (
                budget.verifier_calls or 10**9
            ) >= roles.calls
            assert (search.best() is not None) == enough
            wins += enough
            seen["poor"] += not enough
            seen["spent all"] += search.spent == budget.nfe or search.calls == budget.verifier_calls
        planned = plan(SAMPLERS[name], parts, budget, roles, settings["prompts"])
        for search in made.searches if name not in SCORES_DECIDE else ():
            assert (planned.nfe, planned.verifier_calls) == (search.spent, search.calls), settings
            assert planned.candidates == search.finished
        counted = sum(made.ledger.verifier_calls.get(n, 0) for n in ("a", "b"))
        assert counted == sum(s.calls for s in made.searches)
        assert made.ledger.nfe == sum(s.spent for s in made.searches)
        assert gradients or made.ledger.backwards == 0
        extra = made.ledger.decodes - len(made.archive.entries)  # of gradients, which are no entries
        assert extra >= 0 if gradients else extra == 0
    assert wins > 50  # the budgets tried are neither all too large ...
    assert all(seen.values())  # ... nor all too small


@pytest.mark.parametrize("name", sorted(n for n in SCORES_DECIDE if isinstance(SAMPLERS[n], Rollover)))
def test_where_scores_decide_the_calls_are_a_limit(name: str) -> None:
    sampler = SAMPLERS[name]
    for seed in range(5):
        search = run(sampler, seed=seed, guided=2).searches[0]
        assert sampler.cost(search.process) is None
        assert 2 * (sampler.calls - search.process.steps) < search.spent <= 2 * sampler.calls


COSTED = [n for n in SAMPLERS if n not in SCORES_DECIDE]


@pytest.mark.parametrize("name", quick(COSTED, COSTED[::6]))
def test_cost_is_what_is_spent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(name)
    if name in CLIMBERS:  # 50 iterations and more are no different
        monkeypatch.setattr(type(SAMPLERS[name]), "PUBLISHED", 3)
    for _ in range(12):
        settings, roles = random_run(rng, asks_for_gradients(name))
        sampler, _ = SAMPLERS[name], settings.pop("budget")
        made = run(sampler, roles=roles, **settings)
        for search in made.searches:
            assert sampler.cost(search.process) == search.spent
        planned = plan(sampler, parts_for(sampler, settings["steps"], settings["guided"]), Budget(), roles, 1)
        assert planned.cost == planned.nfe == made.searches[0].spent
        assert planned.verifier_calls == made.searches[0].calls
        # A budget that just pays for all of it changes nothing where the sampler's own fields say how many.
        exact = Budget(nfe=planned.nfe, verifier_calls=planned.verifier_calls)
        again = run(sampler, roles=roles, budget=exact, **settings)
        if sampler.cost(again.searches[0].process) is not None:
            assert [s.spent for s in again.searches] == [planned.nfe] * len(again.searches)


@pytest.mark.parametrize("name", third(SAMPLERS))
def test_samplers_go_on_while_the_budget_lasts(name: str) -> None:
    sampler = SAMPLERS[name]
    for budget in (Budget(nfe=400), Budget(verifier_calls=80)):
        search = run(sampler, budget=budget).searches[0]
        # nothing said how many: less than one sample may be left, unless one was good enough
        if sampler.cost(search.process) is None and search.accepted is None:
            assert search.nfe_left is None or search.nfe_left < search.process.nfe()
            assert search.calls_left is None or search.calls_left < search.roles.calls


@pytest.mark.parametrize("name", third(SAMPLERS))
def test_a_budget_of_images_is_equal_compute_for_every_sampler(name: str) -> None:
    """So many images of the pipeline alone: the same search as with that many NFE, and never more."""
    rng, sampler = random.Random(name), SAMPLERS[name]
    for images in (1, rng.randrange(2, 12)):
        steps, guided = rng.choice((3, 5)), rng.choice((1, 2))
        one = sum(parts_for(sampler, steps, guided)["evaluations"])
        settings: dict[str, Any] = {"steps": steps, "guided": guided, "prompts": 2}
        made = run(sampler, budget=Budget(images=images), **settings)
        same = run(sampler, budget=Budget(nfe=images * one), **settings)
        for search, other in zip(made.searches, same.searches, strict=True):
            assert search.spent == other.spent <= images * one
            assert search.best() is not None
            assert [e.candidate for e in search.finals] == [e.candidate for e in other.finals]
            assert search.budget == Budget(nfe=images * one, images=images)
        roles = ROLES["one verifier"]
        planned = plan(sampler, parts_for(sampler, steps, guided), Budget(images=images), roles, 1)
        assert planned.budget == Budget(nfe=images * one, images=images)


def test_best_of_n_finishes_just_so_many_images() -> None:
    for images in (1, 5, 16):
        sampler = replace(SAMPLERS["best_of_n"], candidates=None)
        search = run(sampler, budget=Budget(images=images), guided=2).searches[0]
        assert search.finished == images
        assert search.spent == images * search.process.nfe()


def test_a_budget_that_nothing_counts_does_not_go_on_for_ever() -> None:
    """Verifier calls without verifiers limit nothing, so the sampler's own numbers hold."""
    for sampler in (s for n, s in SAMPLERS.items() if n not in SCORES_DECIDE and not asks_for_gradients(n)):
        search = run(sampler, roles=Roles(), budget=Budget(verifier_calls=5)).searches[0]
        assert search.spent == sampler.cost(search.process)
        assert plan(sampler, parts_for(sampler), Budget(verifier_calls=5), Roles(), 1).nfe == search.spent


def test_a_plan_knows_what_it_cannot_know() -> None:
    open_ended, counted = SAMPLERS["best_of_n until the budget ends"], SAMPLERS["best_of_n"]
    roles = ROLES["one verifier"]
    assert plan(open_ended, process_of(), Budget(seconds=9), roles, 1).nfe is None
    assert plan(open_ended, process_of(), Budget(seconds=9), roles, 1).cost is None
    assert plan(open_ended, process_of(), Budget(seconds=9, nfe=20), roles, 1).nfe == 18
    assert plan(counted, process_of(), Budget(seconds=9), roles, 1).nfe == 48


# ---------------------------------------------------------------- seconds and targets


class Clock:
    """A clock that only the work moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(genscale.engine.archive.time, "monotonic", lambda: self.now)

    def work(self, per_row: float, per_batch: float = 0.0) -> Any:
        def on_batch(batch: Any, rows: Any) -> None:
            back = (BACKWARD + batch.checkpoint) if batch.grad else 0  # as it is charged
            self.now += per_row * len(rows) * (1 + back) + per_batch

        return on_batch


@pytest.mark.parametrize("prompts", quick([1, 3], [3]))
@pytest.mark.parametrize("batch_size", quick([1, 4, 64], [4]))
@pytest.mark.parametrize("seconds", quick([0.5, 6, 17, 61, 200], [17]))
@pytest.mark.parametrize("name", third(SAMPLERS))
def test_seconds(
    monkeypatch: pytest.MonkeyPatch, name: str, seconds: float, batch_size: int, prompts: int
) -> None:
    """A row takes a second a step: known after the first row, so that nothing is late but the first candidates."""
    clock = Clock(monkeypatch)
    made = run(
        SAMPLERS[name], budget=Budget(seconds=seconds), on_batch=clock.work(1.0), batch_size=batch_size,
        prompts=prompts,
    )  # fmt: skip
    took = clock.now - 1000
    assert all(w is not None for w in made.winners)
    first = max(s.finals[0].seconds for s in made.searches)
    assert took <= max(seconds, first + 1e-6)
    if seconds >= 61 and SAMPLERS[name].cost(made.searches[0].process) is None:
        assert took > seconds - 6 * 3  # what is left is less than the next round's smallest piece of work


def test_the_first_row_goes_alone_to_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, sizes = Clock(monkeypatch), []
    count = clock.work(1.0)

    def on_batch(batch: Any, rows: Any) -> None:
        sizes.append(len(rows))
        count(batch, rows)

    sampler = SAMPLERS["best_of_n"]
    run(sampler, budget=Budget(seconds=1e6), on_batch=on_batch, batch_size=64)
    assert sizes == [1] * 6 + [7] * 6
    sizes.clear()
    run(sampler, on_batch=on_batch, batch_size=64)
    assert sizes == [8] * 6


def test_seconds_and_nfe_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = replace(SAMPLERS["best_of_n"], candidates=None)
    for budget, finished in ((Budget(nfe=30, seconds=1000), 5), (Budget(nfe=3000, seconds=31), 5)):
        clock = Clock(monkeypatch)
        assert (
            run(sampler, budget=budget, on_batch=clock.work(1.0), batch_size=1).searches[0].finished
            == finished
        )


@pytest.mark.parametrize("name", third(SAMPLERS))
def test_a_target_ends_a_search(name: str) -> None:
    whole = run(SAMPLERS[name], batch_size=1)
    finals, target = whole.searches[0].finals, 0.0
    made = run(SAMPLERS[name], batch_size=1, budget=Budget(target=target))
    search = made.searches[0]
    reached = [e.total >= target for e in finals]
    assert (search.best().total >= target) == any(reached)
    assert [e.candidate for e in search.finals] == [e.candidate for e in finals[: len(search.finals)]]
    if any(reached):
        rounds = len(search.finals)
        assert reached.index(True) < rounds
        assert search.spent <= whole.searches[0].spent
    else:
        assert search.spent == whole.searches[0].spent


def test_a_target_saves_what_comes_after_it() -> None:
    sampler = replace(SAMPLERS["best_of_n"], candidates=64, wave=1)
    totals = [e.total for e in run(sampler).searches[0].finals]
    target = sorted(totals)[-3]
    search = run(sampler, budget=Budget(target=target)).searches[0]
    assert search.finished == 1 + next(i for i, t in enumerate(totals) if t >= target) < 64
    assert run(sampler, budget=Budget(target=max(totals) + 1)).searches[0].finished == 64


def test_a_target_of_ranks_is_refused() -> None:
    with pytest.raises(UsageError, match="target"):
        run(SAMPLERS["best_of_n"], roles=ROLES["two by rank"], budget=Budget(target=1.0))
