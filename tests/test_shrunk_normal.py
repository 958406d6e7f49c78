"""Normal distributions fitted to few values of each of several groups: closed forms, numerical integration, limits."""

from __future__ import annotations

import itertools
import math
import random
from statistics import mean, pvariance, variance

import numpy as np
import pytest

from genscale.numerics.shrunk_normal import PRIOR, Normal, shrunk_normals
from genscale.numerics.truncated_normal import Truncated


@pytest.mark.parametrize("best", [-40.0, -9.5, -3.0, 0.0, 0.7, 3.0, 8.0, 20.0])
def test_one_draw_is_the_expected_improvement(best: float) -> None:
    law = Normal(0.3, 1.7)
    other = Truncated(0.3, 0.0, 1 / 1.7**2, -math.inf, math.inf)
    assert law.improvement(best) == pytest.approx(other.improvement(best), rel=1e-9)


def test_draws_add_up_to_the_expected_best() -> None:
    """E max of 2 and of 3 standard normal values: 1 / sqrt(pi) and 3 / (2 sqrt(pi))."""
    law = Normal(5.0, 2.0)
    gains = [law.improvement(5.0 - 2 * 30, k) for k in (1, 2, 3)]  # so low that every draw is better
    assert gains[0] == pytest.approx(60)
    assert gains[1] == pytest.approx(2 / math.sqrt(math.pi))
    assert sum(gains[1:]) == pytest.approx(3 / math.sqrt(math.pi))


def test_gains_never_rise() -> None:
    for start in (-12.0, -1.0, 0.0, 2.5, 9.0):
        gains = [Normal(0, 1).improvement(start, k) for k in range(1, 40)]
        assert all(0 <= b <= a for a, b in itertools.pairwise(gains))
    gains = [Normal(0, 1).improvement(best) for best in np.linspace(-10, 20, 200)]
    assert all(0 < b < a for a, b in itertools.pairwise(gains))


def test_a_single_value() -> None:
    assert Normal(2, 0).improvement(1.5) == 0.5
    assert Normal(2, 0).improvement(1.5, 2) == Normal(2, 0).improvement(3) == 0


def test_groups_of_one_value_are_shrunk_half_way() -> None:
    """Values 0 and 2: variance 2, half of it within. Each mean is half way to 1; 1 within, and 1/2 of the mean."""
    low, high = shrunk_normals([[0.0], [2.0]])
    assert (low.mean, high.mean) == pytest.approx((0.5, 1.5))
    assert low.std**2 == pytest.approx(1.5) == high.std**2


def test_the_mean_is_that_of_bayes() -> None:
    """The mean and its variance are those of the posterior under N(m, b) and N(x | mu, w), integrated numerically."""
    groups = [[0.1, 0.7], [1.9, 1.2], [0.4, -0.6], [3.0, 2.6]]
    found = shrunk_normals(groups)
    every = [x for g in groups for x in g]
    within = (sum(variance(g) for g in groups) + PRIOR * variance(every) / 2) / (4 + PRIOR)
    between = variance([mean(g) for g in groups]) - within / 2
    assert between > 0
    grid = np.linspace(-15, 15, 60001)
    for group, law in zip(groups, found, strict=True):
        log = -((grid - mean(every)) ** 2) / (2 * between) - sum((x - grid) ** 2 for x in group) / (
            2 * within
        )
        p = np.exp(log - log.max())
        p /= p.sum()
        centre = float(p @ grid)
        assert law.mean == pytest.approx(centre, abs=1e-9)
        own = (variance(group) + PRIOR * within) / (1 + PRIOR)
        assert law.std**2 == pytest.approx(own + float(p @ (grid - centre) ** 2), rel=1e-6)


def test_many_values_speak_for_themselves() -> None:
    rng = random.Random(0)
    groups = [[rng.gauss(m, s) for _ in range(20000)] for m, s in ((0, 1), (5, 3), (-2, 0.5))]
    for group, law in zip(groups, shrunk_normals(groups), strict=True):
        assert law.mean == pytest.approx(mean(group), abs=1e-3)
        assert law.std**2 == pytest.approx(pvariance(group), rel=5e-3)


def test_one_score_gives_no_absurd_fit() -> None:
    """A single high score among many groups: nearer to the others, with a spread. By itself it has none."""
    rng = random.Random(1)
    groups = [[rng.gauss(0, 1) for _ in range(8)] for _ in range(9)] + [[3.0]]
    law = shrunk_normals(groups)[-1]
    assert 0 < law.mean < 2
    assert 0.7 < law.std < 1.5
    assert Truncated.fit([3.0], -math.inf, math.inf).improvement(3.0) == 0 < law.improvement(3.0)


def test_equal_values_have_no_spread() -> None:
    for groups in ([[1.0]], [[1.0], [1.0, 1.0]]):
        assert [(law.mean, law.std) for law in shrunk_normals(groups)] == [(1.0, 0.0)] * len(groups)


def test_shrinking_predicts_better() -> None:
    """Squared error of the means of two values, over 400 groups; without shrinking it is larger."""
    rng = random.Random(2)
    true = [rng.gauss(0, 1) for _ in range(400)]
    groups = [[rng.gauss(m, 2) for _ in range(2)] for m in true]
    shrunk = mean((law.mean - m) ** 2 for law, m in zip(shrunk_normals(groups), true, strict=True))
    plain = mean((mean(g) - m) ** 2 for g, m in zip(groups, true, strict=True))
    assert shrunk < 0.5 * plain
    assert shrunk == pytest.approx(1 / (1 + 2 / 4), rel=0.2)  # 1 / (1 / b + n / w)
