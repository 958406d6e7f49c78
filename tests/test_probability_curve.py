"""Curves from scores to probabilities, and their combination: against hand, enumeration and exact posteriors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from genscale.numerics import log_odds, probability_curve
from genscale.numerics.log_odds import LogOdds, combination
from genscale.numerics.probability_curve import (
    Bin,
    ProbabilityCurve,
    auc,
    base_rate,
    calibration_error,
    choose,
    folds,
    isotonic,
    log_loss,
    logistic,
    out_of_fold,
    reliability,
)


def labels(*values: float) -> Any:
    return np.array(values, dtype=np.float64)


# ---------------------------------------------------------------- isotonic


def likeliest(share: Any, weight: Any) -> Any:
    """The increasing step function of maximum likelihood, of all ways to cut the scores into blocks."""
    n, best, found = len(share), np.inf, None
    for cuts in itertools.product([False, True], repeat=n - 1):
        block = np.concatenate([[0], np.cumsum(cuts)])
        means = np.bincount(block, share * weight) / np.bincount(block, weight)
        p = np.clip(means[block], 1e-12, 1 - 1e-12)
        loss = -np.sum(weight * (share * np.log(p) + (1 - share) * np.log1p(-p)))
        if np.all(np.diff(means) >= 0) and loss < best - 1e-9:
            best, found = loss, means[block]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_isotonic_is_the_likeliest_of_all_increasing_functions(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probability_curve, "PRIOR", 1e-12)
    g = np.random.default_rng(seed)
    scores, right = g.integers(0, 7, 25).astype(float), g.integers(0, 2, 25).astype(float)
    x, place = np.unique(scores, return_inverse=True)
    weight = np.bincount(place).astype(float)
    wanted = likeliest(np.bincount(place, right) / weight, weight)
    curve = isotonic(scores, right)
    middles = [np.sum((x * weight)[wanted == p]) / weight[wanted == p].sum() for p in np.unique(wanted)]
    assert curve.scores == pytest.approx(middles)
    assert curve.probabilities == pytest.approx(np.unique(wanted), abs=1e-9)


def test_isotonic_blocks_by_hand() -> None:
    """Scores 1, 2, 3 with 0 of 2, 2 of 3 and 1 of 2 right: the last two are pooled to 3 of 5. Base rate 4/9."""
    scores, right = labels(1, 1, 2, 2, 2, 3, 3), labels(0, 0, 1, 1, 0, 1, 0)
    assert base_rate(right) == pytest.approx(4 / 9)
    curve = isotonic(scores, right)
    assert curve.scores == pytest.approx((1, 12 / 5))
    assert curve.probabilities == pytest.approx(((0 + 4 / 9) / 3, (3 + 4 / 9) / 6))
    between = curve(labels(1.7))[0]
    assert between == pytest.approx(np.mean(curve.probabilities))
    assert curve(labels(-9, 9)) == pytest.approx(curve.probabilities)


def test_blocks_that_smoothing_moved_past_each_other_are_pooled_again() -> None:
    """60 of 100, 2 of 3 and 0 of 300 below: the base rate is low and would pull the small block below the large one."""
    scores = np.repeat([0.0, 1.0, 2.0], [300, 100, 3])
    right = np.concatenate([np.zeros(300), np.ones(60), np.zeros(40), [1, 1, 0]])
    base = base_rate(right)
    assert (2 + base) / 4 < (60 + base) / 101  # they are the wrong way round
    assert len(isotonic(scores, right).scores) == 2


@pytest.mark.parametrize("fit", [isotonic, logistic])
@pytest.mark.parametrize("right", [labels(0, 0, 0), labels(1, 1, 1), labels(0, 0, 1), labels(0)])
def test_no_probability_is_0_or_1(fit: Any, right: Any) -> None:
    curve = fit(np.arange(len(right), dtype=float), right)
    p = curve(np.linspace(-50, 50, 101))
    assert np.all((p > 0) & (p < 1))
    assert np.all(np.diff(p) >= 0)


@pytest.mark.parametrize("fit", [isotonic, logistic])
def test_scores_that_are_all_equal_give_the_base_rate(fit: Any) -> None:
    curve = fit(np.full(6, 0.3), labels(1, 1, 0, 0, 0, 0))
    assert curve(labels(0.3))[0] == pytest.approx(3 / 8, abs=0.05)


# ---------------------------------------------------------------- logistic


def test_logistic_fits_two_scores_exactly() -> None:
    """Two parameters for two scores: the shares of Platt's targets, 3 right and 4 wrong ones."""
    curve = logistic(labels(2, 2, 2, 5, 5, 5, 5), labels(1, 0, 0, 1, 1, 0, 0))
    high, low = 4 / 5, 1 / 6
    assert curve(labels(2, 5)) == pytest.approx([(high + 2 * low) / 3, (high + low) / 2])


def test_logistic_solves_the_score_equations() -> None:
    g = np.random.default_rng(0)
    scores = g.normal(3, 0.01, 50)
    right = (g.random(50) < expit((scores - 3) * 200)).astype(float)
    p, r = logistic(scores, right)(scores), right.sum()
    targets = np.where(right == 1, (r + 1) / (r + 2), 1 / (52 - r))
    assert p.sum() == pytest.approx(targets.sum())
    assert p @ scores == pytest.approx(targets @ scores)


def test_a_score_that_falls_where_images_are_right_gives_the_base_rate() -> None:
    curve = logistic(labels(0, 1, 2, 3), labels(1, 1, 0, 0))
    assert curve(labels(-5, 5)) == pytest.approx([0.5, 0.5])


# ---------------------------------------------------------------- choice, and how good it is

DISTANCE = 2.0


def gaussian(n: int, seed: int, verifiers: int = 1) -> tuple[Any, Any]:
    """Scores [n, verifiers], N(+-1, 1) of right and wrong ones, independent given the label; one in four is right."""
    g = np.random.default_rng(seed)
    right = (g.random(n) < 0.25).astype(float)
    return g.normal((2 * right - 1)[:, None] * DISTANCE / 2, 1, (n, verifiers)), right


def posterior(scores: Any) -> Any:
    """P(right) of such scores."""
    return expit(logit(0.25) + DISTANCE * scores.sum(1))


def near(p: Any, exact: Any) -> bool:
    return bool(np.abs(p - exact).mean() < 0.01)


def test_the_curve_of_a_gaussian_law_is_its_posterior() -> None:
    scores, right = gaussian(20_000, 1)
    fresh, _ = gaussian(5_000, 2)
    fold = folds(right, np.arange(len(right)) // 20)
    chosen = choose(scores[:, 0], right, fold)
    assert chosen.kind == "logistic"
    assert near(chosen(fresh[:, 0]), posterior(fresh))
    assert not near(chosen(fresh[:, 0] + 0.3), posterior(fresh))  # the broken twin


def test_a_law_with_a_step_is_isotonic() -> None:
    g = np.random.default_rng(3)
    scores = g.random(4_000)
    right = (g.random(4_000) < np.where(scores < 0.8, 0.1, 0.7)).astype(float)
    chosen = choose(scores, right, folds(right, np.arange(4_000) // 10))
    assert chosen.kind == "isotonic"
    assert chosen(labels(0.3, 0.95)) == pytest.approx([0.1, 0.7], abs=0.04)


def test_folds_keep_prompts_together_and_shares_alike() -> None:
    g = np.random.default_rng(4)
    groups = np.repeat(np.arange(20), 6)
    right = (g.random(120) < np.repeat(np.linspace(0, 1, 20), 6)).astype(float)
    fold = folds(right, groups)
    assert sorted(np.unique(fold)) == [0, 1, 2, 3, 4]
    assert all(len(np.unique(fold[groups == name])) == 1 for name in range(20))
    assert np.ptp([right[fold == f].mean() for f in range(5)]) < 0.2
    assert len(np.unique(folds(right[:12], groups[:12]))) == 2


def test_out_of_fold_probabilities_come_from_the_other_folds() -> None:
    """In fold 0 the score is the label, in fold 1 its opposite: fold 1 is told the wrong, and fold 0 nothing."""
    fold = np.repeat([0, 1], 50)
    right = np.tile([0.0, 1.0], 50)
    scores = np.where(fold == 0, right, 1 - right)
    p = out_of_fold(isotonic, scores, right, fold)
    assert np.all((p > 0.5)[fold == 1] != (right == 1)[fold == 1])
    assert p[fold == 0] == pytest.approx(0.5)


def test_log_loss_by_hand() -> None:
    assert log_loss(labels(0.5, 0.25), labels(1, 0)) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_share_of_pairs(seed: int) -> None:
    g = np.random.default_rng(seed)
    scores, right = g.integers(0, 5, 30).astype(float), g.integers(0, 2, 30)
    pairs = [(a > b) + (a == b) / 2 for a in scores[right == 1] for b in scores[right == 0]]
    assert auc(scores, right.astype(float)) == pytest.approx(np.mean(pairs))
    assert auc(scores, np.ones(30)) is None


def test_calibration_error_by_hand() -> None:
    p, right = labels(0.1, 0.15, 0.9, 1 - 1e-9), labels(0, 1, 1, 1)
    bins = reliability(p, right, bins=5)
    assert bins == [Bin(pytest.approx(0.125), 0.5, 2), Bin(pytest.approx(0.95), 1.0, 2)]  # type: ignore[arg-type]
    assert calibration_error(bins) == pytest.approx((0.375 + 0.05) / 2)


def test_true_probabilities_have_a_small_calibration_error_and_others_do_not() -> None:
    scores, right = gaussian(20_000, 5)
    assert calibration_error(reliability(posterior(scores), right)) < 0.01
    assert calibration_error(reliability(posterior(scores) ** 2, right)) > 0.03


def test_knots_that_are_no_curve_are_refused() -> None:
    for knots in (
        ((1, 1), (0.1, 0.2)),
        ((1, 2), (0.2, 0.1)),
        ((1, 2), (0.0, 0.1)),
        ((1,), (0.1, 0.2)),
        ((), ()),
    ):
        with pytest.raises(ValueError, match="curve"):
            ProbabilityCurve("isotonic", *knots)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="curve"):
        ProbabilityCurve("logistic", (1.0,), (0.5,))


# ---------------------------------------------------------------- several verifiers


def test_a_copy_of_a_verifier_changes_nothing() -> None:
    scores, right = gaussian(400, 6)
    p, base = logistic(scores[:, 0], right)(scores), base_rate(right)
    alone = combination(p, right, base)
    for copies in (2, 5):
        again = np.repeat(p, copies, axis=1)
        assert combination(again, right, base)(again) == pytest.approx(alone(p), abs=1e-5)
        twice = LogOdds(base, alone.bias, alone.weights * copies)  # the broken twin: each counts whole
        assert np.abs(twice(again) - alone(p)).max() > 0.1


def test_independent_verifiers_add_up_to_the_exact_posterior() -> None:
    scores, right = gaussian(20_000, 7, verifiers=2)
    base, exact = base_rate(right), posterior(scores)
    p = expit(logit(0.25) + DISTANCE * scores)
    found = combination(p, right, base)
    assert found.weights == pytest.approx((1, 1), abs=0.1)
    assert near(found(p), exact)
    assert not near(LogOdds(base, float(logit(base)), (0.5, 0.5))(p), exact)  # the mean, as of copies


def test_few_labels_give_the_mean_of_the_evidence() -> None:
    found = combination(np.array([[0.6, 0.3]]), labels(1), 0.5)
    assert found.weights == pytest.approx((0.5, 0.5), abs=0.15)


def test_a_verifier_that_errs_more_often_than_not_has_no_weight() -> None:
    scores, right = gaussian(4_000, 8, verifiers=2)
    p = expit(logit(0.25) + DISTANCE * scores * [1, -1])
    assert combination(p, right, base_rate(right)).weights == pytest.approx((1, 0), abs=0.1)


def test_labels_that_are_all_alike_give_a_finite_combination() -> None:
    p = np.full((6, 2), 0.4)
    for right in (np.ones(6), np.zeros(6)):
        q = combination(p, right, base_rate(right))(p)
        assert np.all((q > 0) & (q < 1))


def test_combinations_that_are_none_are_refused() -> None:
    for base, weights in ((0.0, (1.0,)), (0.5, ()), (0.5, (-1.0,)), (0.5, (float("nan"),))):
        with pytest.raises(ValueError, match="combination"):
            LogOdds(base, 0.0, weights)
    assert log_odds.evidence(labels(0.5), 0.5) == pytest.approx([0])
