"""The truncated normal law: its maximum likelihood, the best of N, and what one more would bring."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from genscale.numerics.truncated_normal import Truncated

INF = math.inf
RANGES = [(0.0, 1.0), (0.0, INF), (-INF, 1.0), (-2.0, 3.0), (-INF, INF)]


def law_of(centre: float, width: float, low: float, high: float) -> Any:
    """The same law of scipy's, which computes it in another way."""
    return stats.truncnorm((low - centre) / width, (high - centre) / width, centre, width)


def log_likelihood(law: Truncated, x: np.ndarray) -> float:
    """By the fitted law's own centre and width, where it has one."""
    if law.precision == 0:  # exponential, as far as the range goes
        mass = integrate.quad(lambda v: math.exp(law.slope * (v - law.anchor)), law.low, law.high)[0]
        return float((law.slope * (x - law.anchor) - math.log(mass)).sum())
    centre, width = law.anchor + law.slope / law.precision, law.precision**-0.5
    return float(law_of(centre, width, law.low, law.high).logpdf(x).sum())


def searched(x: np.ndarray, low: float, high: float) -> float:
    """The highest log-likelihood that a general search for centre and width finds.

    Of widths up to 20 ranges or spreads: beyond, the law is flat or exponential, and scipy's loses its digits.
    """
    widest = 20 * (min(high, x.max()) - max(low, x.min()))

    def loss(at: Any) -> float:
        if math.exp(at[1]) > widest:
            return math.inf
        return -float(law_of(at[0], math.exp(at[1]), low, high).logpdf(x).sum())

    starts = [(x.mean(), math.log(x.std() * f)) for f in (1, 3)]
    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
    return -min(optimize.minimize(loss, s, method="Nelder-Mead", options=options).fun for s in starts)


def draws(centre: float, width: float, low: float, high: float, n: int, seed: int = 0) -> np.ndarray:
    return law_of(centre, width, low, high).rvs(n, random_state=np.random.default_rng(seed))


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize(
    ("centre", "width", "n"),
    [
        (0.9, 0.3, 40),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((0.6, 0.2, 40), (0.2, 0.5, 5), (0.5, 0.05, 5))
        ),
    ],
)
def test_no_search_finds_a_more_likely_law(
    low: float, high: float, centre: float, width: float, n: int
) -> None:
    x = draws(centre, width, low, high, n)
    law = Truncated.fit(x.tolist(), low, high)
    best = searched(x, low, high)
    assert log_likelihood(law, x) >= best - 1e-9
    assert law.mean == pytest.approx(x.mean(), abs=1e-9)  # of a law in an exponential family
    if law.precision > 0:
        assert law.variance == pytest.approx(x.var(), rel=1e-8)
        assert log_likelihood(law, x) == pytest.approx(best, abs=1e-6)
    else:
        assert law.variance < x.var()
        assert log_likelihood(law, x) == pytest.approx(best, abs=1e-2)
    # Its broken twin, the moments of the sample themselves, is what it would be without the range.
    naive = float(law_of(x.mean(), x.std(), low, high).logpdf(x).sum())
    cut = stats.norm.cdf(low, x.mean(), x.std()) + stats.norm.sf(high, x.mean(), x.std())
    assert naive <= log_likelihood(law, x) + 1e-9
    assert cut < 0.01 or naive < best - 1e-4


def test_samples_wider_than_any_normal_law_have_an_exponential_or_flat_one() -> None:
    for x in ([0.0, 1.0, 0.0, 1.0], [0.05, 0.1, 0.1, 0.95], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]):
        law = Truncated.fit(x, 0, 1)
        assert law.precision == 0
        assert law.mean == pytest.approx(np.mean(x), abs=1e-9)
        assert law.variance < np.var(x)
        assert log_likelihood(law, np.array(x)) >= searched(np.array(x), 0, 1) - 1e-6
    assert abs(Truncated.fit([0.0, 1.0], 0, 1).slope) < 1e-6  # flat: its mean is in the middle
    one_sided = Truncated.fit([0.1, 0.1, 0.1, 3.0], 0)  # more spread than an exponential law of this mean
    mean = 3.3 / 4
    assert one_sided.above(2.0) == pytest.approx(math.exp(-2.0 / mean), rel=1e-9)
    assert one_sided.improvement(2.0) == pytest.approx(mean * math.exp(-2.0 / mean), rel=1e-9)
    mirrored = Truncated.fit([-0.1, -0.1, -0.1, -3.0], high=0)
    assert mirrored.above(-2.0) == pytest.approx(1 - math.exp(-2.0 / mean), rel=1e-9)


def test_the_fit_comes_close_to_the_law_that_drew_and_without_the_range_it_does_not() -> None:
    """Of 4000 draws the mean of the fitted centres is within 4 standard errors; the twin is far off."""
    fits = [Truncated.fit(draws(0.9, 0.3, 0, 1, 200, seed).tolist(), 0, 1) for seed in range(20)]
    widths = np.array([law.precision**-0.5 for law in fits])
    error = widths.std(ddof=1) / math.sqrt(len(widths))
    assert abs(widths.mean() - 0.3) < 4 * error + 0.02  # the estimate is biased by about 1/n
    naive = np.array([draws(0.9, 0.3, 0, 1, 200, seed).std() for seed in range(20)])
    assert abs(naive.mean() - 0.3) > 4 * error + 0.02


def test_a_range_holds_every_score() -> None:
    law = Truncated.fit([-0.2, 0.5, 0.7, 1.1], 0, 1)
    assert (law.low, law.high) == (-0.2, 1.1)
    assert law == Truncated.fit([-0.2, 0.5, 0.7, 1.1], -0.2, 1.1)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, -7e8])
def test_equal_scores_promise_nothing(value: float) -> None:
    law = Truncated.fit([value] * 5, min(value, 0), max(value, 1))
    assert (law.mean, law.variance) == (value, 0)
    assert law.improvement(value) == 0
    assert law.improvement(value - 1) == 1
    assert law.needed(value, 0.05) == 1
    assert law.needed(value + 1e-3 + abs(value), 0.05) == INF


# ---------------------------------------------------------------- chances and quantiles

LAWS = [
    (0.6, 0.2, 0.0, 1.0),
    (-0.5, 0.4, 0.0, 1.0),
    (0.3, 0.1, -INF, INF),
    (0.9, 0.5, -INF, 1.0),
    (2.0, 3.0, 0.0, INF),
]


@pytest.mark.parametrize("parameters", LAWS)
def test_chances_and_moments(parameters: Any) -> None:
    law, known = Truncated.of(*parameters), law_of(*parameters)
    assert law.mean == pytest.approx(known.mean(), rel=1e-9)
    assert law.variance == pytest.approx(known.var(), rel=1e-8)
    for x in (-0.1, 0.01, 0.3, 0.6, 0.9, 0.999, 1.5):
        assert law.above(x) == pytest.approx(known.sf(x), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("p", [0.01, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("parameters", LAWS)
def test_the_least_n_whose_best_has_its_quantile_at_the_target(parameters: Any, p: float) -> None:
    """By the quantile function of the other implementation: the best of N has the law F^N."""
    law, known = Truncated.of(*parameters), law_of(*parameters)
    for share in (0.3, 0.9, 0.99, 0.9999):
        target = float(known.ppf(share))
        n = law.needed(target, p)
        assert known.ppf(p ** (1 / n)) >= target - 1e-12
        assert n == 1 or known.ppf(p ** (1 / (n - 1))) < target + 1e-12
    assert law.needed(float(known.ppf(1.0)) + 1, p) == INF


def simulated(n: int, target: float, runs: int = 4000) -> float:
    """How often the best of n misses the target."""
    x = law_of(0.6, 0.2, 0, 1).rvs((runs, n), random_state=np.random.default_rng(3))
    return float((x.max(1) < target).mean())


def test_the_best_of_that_many_misses_the_target_as_rarely_as_said() -> None:
    p, target, runs = 0.1, 0.93, 4000
    law = Truncated.of(0.6, 0.2, 0, 1)
    error = 4 * math.sqrt(p * (1 - p) / runs)
    n = int(law.needed(target, p))
    assert simulated(n, target) < p + error
    assert simulated(n - 1, target) > p - error
    # Broken twins: the range forgotten, and the quantile taken from the other end.
    assert not p - error < simulated(int(Truncated.of(0.6, 0.2).needed(target, p)), target) < p + error
    assert simulated(int(law.needed(target, 1 - p)), target) > p + error


# ---------------------------------------------------------------- what one more would bring


def closed_form(best: float, centre: float, width: float, low: float, high: float) -> float:
    """The integral of P(X > x) from the best on, of a normal law cut at both ends."""
    a, b, z = ((v - centre) / width for v in (low, high, best))
    phi, cdf = stats.norm.pdf, stats.norm.cdf
    mass = cdf(b) - cdf(a)
    return float(((centre - best) * (cdf(b) - cdf(z)) + width * (phi(z) - phi(b))) / mass)


@pytest.mark.parametrize("parameters", LAWS)
def test_the_expected_improvement(parameters: Any) -> None:
    law, known = Truncated.of(*parameters), law_of(*parameters)
    low, high = known.support()
    for best in (float(known.ppf(share)) for share in (0.01, 0.5, 0.9, 0.999)):
        end = high if math.isfinite(high) else float(known.isf(1e-14))
        by_quadrature = integrate.quad(lambda x, b=best: (x - b) * known.pdf(x), best, end, epsabs=1e-13)[0]
        assert law.improvement(best) == pytest.approx(by_quadrature, rel=1e-6)
        assert law.improvement(best) == pytest.approx(closed_form(best, *parameters), rel=1e-7)
    if math.isfinite(low):
        assert law.improvement(low - 1) == pytest.approx(law.mean - low + 1, rel=1e-9)
    if math.isfinite(high):
        assert law.improvement(high) == law.improvement(high + 1) == 0


def test_the_expected_improvement_is_exact_far_out() -> None:
    law = Truncated.of(0, 1)
    for best in (5.0, 10.0, 30.0):  # by its asymptotic series; the closed form has lost all digits there
        series = stats.norm.pdf(best) / best**2 * (1 - 3 / best**2 + 15 / best**4 - 105 / best**6)
        assert law.improvement(best) == pytest.approx(series, rel=3e3 / best**8 + 1e-9)
