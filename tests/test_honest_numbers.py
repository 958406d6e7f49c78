"""Diversity, order statistics and turning points against computations by hand, by brute force and by simulation."""

import itertools
import math

import numpy as np
import pytest
import torch

from genscale.numerics.diversity import mean_pairwise_distance, vendi_score
from genscale.numerics.expected_maximum import standard_maximum
from genscale.numerics.intervals import Mean
from genscale.numerics.order_statistics import best_of, noise_best, split_gain
from genscale.numerics.turning_point import turn_of

# ---------------------------------------------------------------- diversity


def test_vendi_of_two_directions_is_that_of_the_eigenvalues_by_hand():
    # K / 2 = [[1, c], [c, 1]] / 2 has the eigenvalues (1 + c) / 2 and (1 - c) / 2
    for c in (-0.5, 0.0, 0.3, 0.9):
        found = vendi_score(torch.tensor([[2.0, 0.0], [c, math.sqrt(1 - c * c)]], dtype=torch.float64))
        shares = ((1 + c) / 2, (1 - c) / 2)
        assert found == pytest.approx(math.exp(-sum(s * math.log(s) for s in shares)), rel=1e-9)


def test_vendi_of_groups_is_the_exponential_of_the_entropy_of_their_shares():
    sizes = (1, 2, 5)
    embeddings = torch.eye(4)[[k for k, size in enumerate(sizes) for _ in range(size)]]
    shares = np.array(sizes) / sum(sizes)  # orthogonal groups: K / n has one eigenvalue a group
    assert vendi_score(embeddings) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-9)


def test_vendi_equals_numpys_eigenvalues_of_the_kernel():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    unit = (x / x.norm(dim=1, keepdim=True)).double().numpy()
    values = np.linalg.eigvals(unit @ unit.T / 9).real
    values = values[values > 1e-15]
    assert vendi_score(x) == pytest.approx(math.exp(-(values * np.log(values)).sum()), rel=1e-6)


def test_vendi_is_between_one_and_the_number():
    assert vendi_score(torch.ones(6, 3)) == pytest.approx(1)
    assert vendi_score(torch.eye(6)) == pytest.approx(6)
    assert vendi_score(torch.randn(1, 3)) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one"):
        vendi_score(torch.zeros(0, 3))


def test_mean_pairwise_distance_is_that_of_the_pairs():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pairs = [1 - torch.cosine_similarity(a, b, dim=0).item() for a, b in itertools.combinations(x, 2)]
    assert mean_pairwise_distance(x) == pytest.approx(sum(pairs) / len(pairs))
    with pytest.raises(ValueError, match="two"):
        mean_pairwise_distance(x[:1])


# ---------------------------------------------------------------- order statistics


@pytest.mark.parametrize("searched", [(0.3, 0.1, 0.9, 0.5, 0.7), (1.0, 0.0, 1.0, 1.0, 0.0), (2.0,) * 5])
def test_best_of_equals_the_mean_over_all_subsets(searched):
    judged = (1.0, 0.0, 0.25, 0.5, 0.0)
    for n in range(1, 6):
        each = []
        for subset in itertools.combinations(range(5), n):
            top = max(searched[i] for i in subset)
            winners = [judged[i] for i in subset if searched[i] == top]
            each.append(sum(winners) / len(winners))
        assert best_of(searched, judged, n) == pytest.approx(sum(each) / len(each))


def test_best_of_refuses_more_than_there_are():
    for n in (0, 3):
        with pytest.raises(ValueError, match="between 1"):
            best_of((0.1, 0.2), (0, 1), n)


@pytest.mark.parametrize("scores", [(0.3, 0.1, 0.9, 0.5, 0.7), (1.0, 0.0, 1.0, 1.0, 0.0)])
def test_the_best_of_noise_is_the_mean_over_all_subsets(scores):
    for n in range(1, 6):
        each = [max(subset) for subset in itertools.combinations(scores, n)]
        assert noise_best(scores, n) == pytest.approx(sum(each) / len(each), rel=1e-9)
        assert noise_best(scores, n) == pytest.approx(best_of(scores, scores, n), rel=1e-9)


def test_the_best_of_many_normal_scores_is_that_of_normal_draws():
    scores = 2 + 3 * np.random.default_rng(0).standard_normal(20_000)
    for n in (1, 2, 3, 100):
        assert noise_best(scores, n) == pytest.approx(2 + 3 * standard_maximum(n), abs=0.1)
    with pytest.raises(ValueError, match="between 1"):
        noise_best(scores, 0)


def test_the_gain_is_split_as_a_simulation_finds_it():
    quality_sd, noise_sd, n = 0.6, 0.8, 16
    rng = np.random.default_rng(3)
    quality = quality_sd * rng.standard_normal((40_000, n))
    noise = noise_sd * rng.standard_normal((40_000, n))
    winner = (quality + noise).argmax(1)[:, None]
    real, lucky = split_gain(math.hypot(quality_sd, noise_sd), noise_sd, n)
    assert real == pytest.approx(np.take_along_axis(quality, winner, 1).mean(), abs=0.01)
    assert lucky == pytest.approx(np.take_along_axis(noise, winner, 1).mean(), abs=0.015)


def test_the_gain_of_noise_alone_is_all_luck_and_without_noise_all_real():
    for noise_sd in (1.0, 5.0):
        assert split_gain(1.0, noise_sd, 8)[0] == 0
    assert split_gain(1.0, 0.0, 8)[1] == 0
    assert split_gain(0.0, 0.0, 8) == (0.0, 0.0)
    assert sum(split_gain(0.7, 0.3, 8)) == pytest.approx(0.7 * standard_maximum(8))


# ---------------------------------------------------------------- turning points


def rate(flagged, prompts=25, places=30, repeats=50, fall=0.0):
    """The share of samples in which a turn is found; curves of independent values, lower by `fall` at the end."""
    rng, found = np.random.default_rng(11), 0
    for _ in range(repeats):
        curves = rng.standard_normal((prompts, places))
        curves[:, places // 2 :] -= fall
        found += flagged(curves)
    return found / repeats


def uncorrected(curves):
    """The broken twin: the interval of the fall from the highest place as if that had been chosen beforehand."""
    peak = curves.mean(0).argmax()
    found = Mean.of_numbers((curves[:, peak] - curves[:, -1]).tolist())
    return found.low is not None and found.low > 0


def test_curves_that_only_fluctuate_are_seldom_flagged_and_a_fall_is():
    def flagged(curves):
        return turn_of(curves).turned

    assert rate(flagged) <= 0.1
    assert rate(flagged, fall=1.5, repeats=10) >= 0.9


def test_without_correction_for_choosing_the_peak_they_are_flagged_too_often():
    assert rate(uncorrected, repeats=50) > 0.2


def test_the_bound_is_that_of_all_samples():
    curves = np.array([[0, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=float)
    falls = curves.mean(0) - curves.mean(0)[-1]
    every = [curves[list(rows)].mean(0) for rows in itertools.product(range(5), repeat=5)]
    largest = np.array([(m - m[-1] - falls).max() for m in every])
    peaks = sorted(int(m.argmax()) for m in every)
    found = turn_of(curves)
    assert (found.peak, found.fall, found.prompts) == (1, pytest.approx(0.4), 5)
    widened = (found.fall - found.least) / np.quantile(largest, 0.95)
    assert widened == pytest.approx(
        math.sqrt(5 / 4) * 2.1318 / 1.6449, rel=1e-3
    )  # t of 4 degrees over normal
    assert (found.earliest, found.latest) == (peaks[int(0.025 * 3125)], peaks[int(0.975 * 3125)])


def test_too_few_prompts_have_no_turning_point():
    assert turn_of([[1.0, 0.0]] * 4) is None
    assert turn_of([[1.0]] * 9) is None
    assert turn_of([[1.0, 0.0]] * 5).turned
