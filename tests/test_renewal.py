"""What drawing until one is accepted costs, and how often it is right: against enumeration and closed forms."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from scipy import stats

from genscale.numerics.renewal import Paths, beta_draws, beta_law, follow, known_draws, outcome

F64 = torch.float64


def table(costs: Any, accepted: Any, right: Any, prompts: Any) -> Paths:
    return Paths(
        torch.tensor(costs, dtype=F64),
        torch.tensor(accepted, dtype=torch.bool),
        torch.tensor(right, dtype=F64),
        torch.tensor(prompts),
    )


def enumerated(
    costs: list[int], accepted: list[bool], right: list[int], paths: int
) -> tuple[Fraction, Fraction]:
    """(E[cost], P(right and accepted) / P(accepted)) of draws with replacement, over all sequences of `paths` draws."""
    total, hits, good = Fraction(0), Fraction(0), Fraction(0)
    each = Fraction(1, len(costs) ** paths)
    for draws in itertools.product(range(len(costs)), repeat=paths):
        for i in draws:
            total += each * costs[i]
            if accepted[i]:
                hits += each
                good += each * right[i]
                break
    return total, good / hits if hits else Fraction(0)


LAWS = [
    ([4, 4, 8, 8], [False, False, True, False], [0, 1, 1, 0]),
    ([2, 6, 8, 8], [False, False, True, True], [0, 0, 1, 0]),
    ([8, 8, 8], [True, True, True], [1, 0, 1]),
    ([3, 5], [False, False], [1, 1]),
]


@pytest.mark.parametrize("paths", [1, 2, 5])
@pytest.mark.parametrize("law", LAWS)
def test_one_prompt_is_as_enumerated(law: Any, paths: int) -> None:
    costs, accepted, right = law
    cost, accuracy = enumerated(costs, accepted, right, paths)
    most = paths * sum(costs) / len(costs)  # pays for so many paths on average
    found = outcome(table(costs, accepted, right, [0] * len(costs)), most, sample=False)
    assert found.cost == pytest.approx(float(cost))
    if any(accepted):
        assert found.accuracy == pytest.approx(float(accuracy))
    else:
        assert math.isnan(found.accuracy)


def test_without_a_limit_it_is_the_renewal_theorem() -> None:
    costs, accepted, right = LAWS[1]
    found = outcome(table(costs, accepted, right, [0] * 4), math.inf, sample=False)
    assert found.cost == pytest.approx((sum(costs) / 4) / (2 / 4))  # E[cost of a path] / P(accepted)
    never = outcome(table(*LAWS[3], [0, 0]), math.inf, sample=False)
    assert never.cost == math.inf


def test_prompts_count_alike_and_each_for_itself() -> None:
    """Not the ratio of the means over all candidates: a hard prompt costs much, an easy one little."""
    costs, accepted, right = [8] * 8, [True] * 3 + [False] + [True] + [False] * 3, [1, 1, 0, 0, 1, 0, 0, 1]
    found = outcome(table(costs, accepted, right, [0] * 4 + [1] * 4), math.inf, sample=False)
    assert found.cost == pytest.approx((8 / (3 / 4) + 8 / (1 / 4)) / 2)
    assert found.accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert found.careful == pytest.approx((2 / 3 + 1 + 1) / 4)
    assert found.accepted == 4


def test_what_is_not_accepted_counts_where_nothing_is() -> None:
    found = outcome(table([8, 8], [False, True], [1, 0], [0, 0]), 16.0, sample=False)
    assert found.overall == pytest.approx(0.75 * 0 + 0.25 * 1)  # two draws miss with probability 1/4
    assert outcome(table([8, 8], [False] * 2, [1, 0], [0, 0]), 16.0, sample=False).overall == pytest.approx(
        0.5
    )


def test_draws_of_a_known_share_at_the_ends() -> None:
    share = torch.tensor([0.0, 0.0, 1.0, 0.5, 1e-12], dtype=F64)
    most = torch.tensor([3.0, math.inf, 7.0, 2.0, 5.0], dtype=F64)
    draws, found = known_draws(share, most)
    assert draws.tolist() == pytest.approx([3.0, math.inf, 1.0, 1.5, 5.0], rel=1e-3)
    assert found.tolist() == pytest.approx([0.0, 0.0, 1.0, 0.75, 0.0], abs=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0.3, 2.0), (1.0, 3.0), (2.5, 0.7), (0.6, 0.9), (4.0, 40.0)])
@pytest.mark.parametrize("most", [1.0, 2.0, 7.5, 64.0])
def test_draws_of_a_beta_law_are_those_of_known_shares_integrated(a: float, b: float, most: float) -> None:
    def mean(which: int) -> float:
        def value(q: float) -> float:
            pair = known_draws(torch.tensor(q, dtype=F64), torch.tensor(most, dtype=F64))
            return float(pair[which])

        return float(stats.beta(a, b).expect(value))

    draws, found = beta_draws(*(torch.tensor([v], dtype=F64) for v in (a, b, most)))
    assert float(draws) == pytest.approx(mean(0), rel=1e-4)
    assert float(found) == pytest.approx(mean(1), rel=1e-4)


def test_draws_of_a_beta_law_without_a_limit() -> None:
    a, b = torch.tensor([3.0, 0.8], dtype=F64), torch.tensor([2.0, 2.0], dtype=F64)
    draws, found = beta_draws(a, b, torch.tensor([math.inf, math.inf], dtype=F64))
    assert draws.tolist() == pytest.approx([4 / 2, math.inf])  # E[1 / q] = (a + b - 1) / (a - 1)
    assert found.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("a", "b"), [(0.5, 1.0), (2.0, 6.0)])
def test_the_beta_law_is_found_again(a: float, b: float) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = (torch._standard_gamma(torch.full((20000,), v, dtype=F64), generator=g) for v in (a, b))
    n = torch.randint(4, 12, (20000,), generator=g).double()
    hits = torch.binomial(n, x / (x + y), generator=g)
    assert beta_law(hits, n) == pytest.approx((a, b), rel=0.1)
    one = torch.binomial(
        n, torch.full_like(n, 0.3), generator=g
    )  # all prompts alike: hardly any spread is left
    assert sum(beta_law(one, n)) > 100


def test_a_prompt_without_an_accepted_candidate_is_like_those_with_one() -> None:
    accepted, right = [True, False, True, False, False, False], [1, 0, 0, 0, 0, 0]
    made = table([1] * 6, accepted, right, [0, 0, 1, 1, 2, 2])
    found = outcome(made, math.inf, unknown=0.8)
    assert found.accuracy == pytest.approx((1 + 0 + (1 + 0 + 0.8) / 3) / 3)
    assert outcome(made, math.inf, unknown=0.8, sample=False).accuracy == pytest.approx(1 / 2)


def test_a_path_pays_up_to_the_preview_that_rejects_it() -> None:
    previews = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.5, 0.5], [0.5, 0.5]], dtype=F64)
    finals = torch.tensor([1.0, 1.0, 0.9, 0.6], dtype=F64)
    cost, accepted = follow(
        previews, finals, torch.tensor([0.5, 0.5]), torch.tensor(0.7), torch.tensor([2, 6, 8])
    )
    assert cost.tolist() == [2, 6, 8, 8]
    assert accepted.tolist() == [False, False, True, False]
    cost, accepted = follow(previews[:, :0], finals, torch.zeros(0), torch.tensor(0.7), torch.tensor([8]))
    assert cost.tolist() == [8] * 4
    assert accepted.tolist() == [True, True, True, False]
