"""Thresholds from a calibration: against brute force, closed forms, and prompts that were not calibrated on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from genscale.algorithms import acceptance
from genscale.algorithms.acceptance import (
    _ACCEPTS,
    _STRICTNESS,
    LEAST,
    Table,
    chosen,
    columns_at,
    informative,
)
from genscale.numerics.renewal import Paths, follow, outcome
from genscale.protocol.calibration import Calibration

F64 = torch.float64
COSTS = (4, 6, 8)


def world(prompts: int, candidates: int, seed: int, spread: float = 1.5) -> dict[str, Tensor]:
    """Prompts of different difficulty, whose candidates have a known P(right), and previews that know half of it."""
    g = torch.Generator().manual_seed(seed)
    ease = spread * torch.randn(prompts, 1, generator=g, dtype=F64) - 1.5
    logit = 2 * (ease + 1.5 * torch.randn(prompts, candidates, generator=g, dtype=F64))
    finals = torch.sigmoid(logit)
    noisy = 0.5 * logit + torch.randn(prompts, candidates, generator=g, dtype=F64)
    previews = torch.stack([torch.full_like(finals, 0.3), torch.sigmoid(0.8 * noisy), finals**1.1], -1)
    right = (torch.rand(prompts, candidates, generator=g, dtype=F64) < finals).double()
    return {"previews": previews, "finals": finals, "right": right}


def known(prompts: int = 60, candidates: int = 12, seed: int = 0, spread: float = 1.5) -> Calibration:
    made = world(prompts, candidates, seed, spread)
    return Calibration(
        (0.25, 0.5, 0.75),
        made["previews"].flatten(0, 1),
        made["finals"].flatten(),
        made["right"].flatten(),
        torch.arange(prompts).repeat_interleave(candidates),
        4,
    )


def table_of(calibration: Calibration, most: float = 256.0) -> Table:
    return Table(calibration, (2, 3), (1, 2), COSTS, most)


# ---------------------------------------------------------------- which previews


def test_a_preview_that_knows_nothing_is_not_looked_at() -> None:
    assert informative(known()) == (1, 2)


def test_a_step_takes_the_nearest_preview() -> None:
    assert columns_at(known(), {4: 0.5, 5: 0.625, 7: 0.875}, (1, 2)) == {4: 1, 5: 1, 7: 2}


# ---------------------------------------------------------------- the optimum


def by_brute_force(table: Table, p: float) -> float:
    """The least expected cost over all pairs of thresholds that are accurate, as those above them are."""
    costs = []
    for strictness in acceptance._STRICTNESS:
        limits = torch.tensor([min(1.0, strictness * (1 - c / 8)) for c in COSTS[:2]], dtype=F64)
        told = {a: table.judged(limits, a) for a in acceptance._ACCEPTS}
        enough = {a: o for a, o in told.items() if o.accepted >= LEAST}
        costs += [
            o.cost
            for a, o in enough.items()
            if o.careful >= p and all(above.accuracy >= p for b, above in enough.items() if b >= a)
        ]
    return min(costs)


@pytest.mark.parametrize("p", [0.8, 0.9])
def test_the_thresholds_spend_least_of_all_accurate_ones(p: float) -> None:
    table = table_of(known(30, 8))
    found = chosen(table, p)
    assert found is not None
    assert found.expected is not None
    assert found.expected.careful >= p
    assert found.expected.cost == pytest.approx(
        by_brute_force(table, p), rel=0.01
    )  # idle previews are left out


def discrete(kinds: Any, m: int = 1) -> Calibration:
    """One prompt, m times; kinds: (preview, P of the finished one, how many)."""
    rows = [(v, f) for v, f, n in kinds for _ in range(n)] * m
    each = torch.tensor(rows, dtype=F64)
    return Calibration(
        (0.5,), each[:, :1], each[:, 1], each[:, 1], torch.zeros(len(rows), dtype=torch.long), 4
    )


@pytest.mark.parametrize(
    ("kinds", "rejected"),
    [
        # Half of the paths show .05, and one in 20 of these is right: 7 NFE more bring .05.
        ([(0.05, 1.0, 5), (0.05, 0.0, 95), (0.9, 1.0, 90), (0.9, 0.0, 10)], (0.05,)),
        # All previews say the same: going back to noise costs as much as it saves.
        ([(0.5, 1.0, 50), (0.5, 0.0, 50)], ()),
        # .4 is rejected where .9 is common, and not where it is rare.
        ([(0.4, 1.0, 40), (0.4, 0.0, 60), (1.0, 1.0, 100)], (0.4,)),
        ([(0.4, 1.0, 360), (0.4, 0.0, 540), (1.0, 1.0, 10)], ()),
    ],
)
def test_a_discrete_law_has_its_closed_form_optimum(kinds: Any, rejected: Any) -> None:
    """E[NFE of a path] / P(accepted), for every set of previews that is rejected."""
    values = sorted({v for v, _, _ in kinds})
    total = sum(n for _, _, n in kinds)
    price = {}
    for count in range(len(values)):
        lost = tuple(values[:count])
        paid = sum(n * (1 if v in lost else 8) for v, _, n in kinds) / total
        price[lost] = paid / (sum(n for v, f, n in kinds if v not in lost and f == 1) / total)
    found = chosen(Table(discrete(kinds), (2,), (0,), (1, 8), 1e9), 0.9)
    assert found is not None
    assert found.expected is not None
    least = dict(found.rejects).get(2, 0.0)
    assert tuple(v for v in values if v < least) == min(price, key=lambda k: price[k]) == rejected
    assert found.expected.cost == pytest.approx(price[rejected], rel=3e-3)


def test_a_mean_cost_buys_as_much_accuracy_as_it_pays_for() -> None:
    table = table_of(known(40, 8))
    outcomes = []
    for wanted in (14.0, 60.0):
        found = chosen(table, mean_nfe=wanted)
        assert found is not None
        assert found.expected is not None
        assert found.expected.cost <= wanted
        outcomes.append(found.expected.overall)
    assert outcomes == sorted(outcomes)
    assert outcomes[0] < outcomes[-1]


def hopeless(share: float) -> Table:
    """A table with so many prompts that are never right; a prompt may spend 64 images."""
    made = known(40, 8)
    lost = made.prompts < 40 * share
    return table_of(
        replace(made, finals=torch.where(lost, 0.01, made.finals), right=torch.where(lost, 0.0, made.right)),
        64.0 * COSTS[-1],
    )


@pytest.mark.parametrize("wanted", [12.0, 20.0, 40.0])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_mean_cost_chooses_what_a_prompt_may_spend(share: float, wanted: float) -> None:
    """By brute force over all limits, and above what one fixed limit has, of which hopeless prompts use up the mean."""
    table = hopeless(share)

    def best(caps: tuple[float, ...]) -> float:
        judged = (
            table.outcome(table.paths(rejects, accept), accept, most)
            for rejects in map(table.rejects, _STRICTNESS)
            for accept in _ACCEPTS
            for most in caps
        )
        return max(o.overall for o in judged if o.cost <= wanted and o.accepted >= LEAST)

    found = chosen(table, mean_nfe=wanted)
    assert found is not None
    assert found.expected is not None
    assert found.expected.overall == pytest.approx(best(table.caps()), abs=5e-3)  # without idle previews
    assert found.expected.cost > 0.6 * wanted
    if share:
        assert found.expected.overall > best((table.most,)) + 0.02


def test_a_given_accept_is_kept() -> None:
    found = chosen(table_of(known()), 0.9, accept=0.5)
    assert found is not None
    assert found.accept == 0.5
    assert found.rejects
    within = chosen(table_of(known()), mean_nfe=30.0, accept=0.5)  # a target of the budget
    assert within is not None
    assert within.accept == 0.5


def test_few_accepted_candidates_choose_nothing() -> None:
    made = known(3, 4)
    assert chosen(table_of(made), 0.9) is None


def test_a_few_lucky_prompts_do_not_make_a_threshold() -> None:
    """9 prompts of which all are right show at most 10 of 11: .95 is not proven by them, .9 is."""
    rows = torch.tensor([[0.5, 0.6]] * 36, dtype=F64)
    made = Calibration((0.5,), rows[:, :1], rows[:, 1], torch.ones(36), torch.arange(36) // 4, 4)
    table = Table(made, (2,), (0,), (4, 8), 64.0)
    found = chosen(table, 0.9)
    assert found is not None
    assert found.expected is not None
    assert found.expected.careful >= 0.9
    assert chosen(table, 0.95) is None  # no finished candidate has such a probability


# ---------------------------------------------------------------- other prompts


def simulated(
    found: Any, seed: int, spread: float = 1.5, prompts: int = 1500, most: float = 256.0
) -> tuple[float, float, float]:
    """(accuracy of the accepted, its standard error, mean NFE) of searches for prompts that were not calibrated on.

    most: what a prompt may spend.
    """
    paths = int(most / COSTS[0])
    made = world(prompts, paths, seed, spread)
    rejects = torch.tensor([dict(found.rejects).get(step, 0.0) for step in (2, 3)])
    previews, finals = made["previews"][..., 1:].flatten(0, 1), made["finals"].flatten()
    cost, taken = follow(previews, finals, rejects, torch.tensor(found.accept), torch.tensor(COSTS))
    spent = cost.reshape(prompts, paths).cumsum(1)
    taken = taken.reshape(prompts, paths) & (spent <= most)
    first, some = taken.int().argmax(1), taken.any(1)
    paid = torch.where(some, spent.gather(1, first[:, None])[:, 0], most)
    right = made["right"].gather(1, first[:, None])[some]
    return float(right.mean()), float(right.std() / len(right) ** 0.5), float(paid.mean())


def by_candidates(table: Table, p: float) -> Any:
    """Broken: the accuracy over all accepted candidates, of which easy prompts have most."""
    made = table.calibration
    for accept in reversed(acceptance._ACCEPTS):
        taken = made.finals >= accept
        if float(made.right[taken].mean()) >= p:
            return acceptance.Thresholds((), accept)
    raise AssertionError


def test_the_accuracy_asked_for_is_met_on_other_prompts() -> None:
    met, broken = [], []
    for seed in range(3):
        table = table_of(known(400, 8, seed, spread=5.0))
        found = chosen(table, 0.9)
        assert found is not None
        assert found.expected is not None
        accuracy, _, spent = simulated(found, 100 + seed, spread=5.0)
        assert spent == pytest.approx(found.expected.cost, rel=0.25)
        met.append(accuracy)
        broken.append(simulated(by_candidates(table, 0.9), 100 + seed, spread=5.0)[0])
    assert sum(met) / 3 > 0.87  # each within .02 of .9, as the labels of a table have their chance
    assert sum(broken) / 3 < 0.85


def test_the_table_s_expectations_are_those_of_searches() -> None:
    """`judged` on a large table against searches that were simulated one by one."""
    made = known(1500, 32, 5)
    table = table_of(made)
    rejects = torch.tensor([0.2, 0.3], dtype=F64)
    cost, taken = follow(table.previews, made.finals, rejects, torch.tensor(0.7), torch.tensor(COSTS))
    told = outcome(Paths(cost, taken, made.right, made.prompts), table.most, sample=False)
    accuracy, error, spent = simulated(acceptance.Thresholds(((2, 0.2), (3, 0.3)), 0.7), 6)
    assert told.accuracy == pytest.approx(accuracy, abs=5 * error)
    assert told.cost == pytest.approx(spent, rel=0.1)


def test_where_no_threshold_reaches_the_accuracy_it_is_the_probability_itself() -> None:
    """Six prompts, with one counted as wrong beside them, cannot show .9."""
    found = chosen(table_of(known(prompts=6)), 0.9)
    assert found is None or found.accept == 0.9
    many = chosen(table_of(known(prompts=6, candidates=200, spread=0.5)), 0.9)
    assert many is not None
    assert many.accept == 0.9


def test_thresholds_fall_with_the_posterior_mean_of_the_accepted_share() -> None:
    """Beta(a, b) with a + b = PRIOR_PATHS: after n paths in vain the mean is a / (a + b + n)."""
    found = chosen(table_of(known(400, 8)), 0.9)
    assert found is not None
    a, weight = 0.7, acceptance.PRIOR_PATHS
    for lost in (0, 1, 5, 40):
        share = (a / (weight + lost)) / (a / weight)
        expected = [(step, pytest.approx(least * share)) for step, least in found.rejects]
        assert list(found.after(lost)) == expected
    given = acceptance.Thresholds(((2, 0.5),), 0.9)
    assert given.after(7) == given.rejects
