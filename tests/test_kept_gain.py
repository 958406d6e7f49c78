"""What drafts keep: the expectation against all sets, and the margin that drops the best candidate rarely enough."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.conformal import conformal_quantile
from genscale.numerics.kept_gain import expected_best, margin_values

SIZES = [(n, keep) for n in (1, 2, 3, 5, 6) for keep in (1, 2, 3, 6)]


def enumerated(drafts: np.ndarray, finals: np.ndarray, n: int, keep: int) -> float:
    order = np.argsort(-drafts, kind="stable")
    best = [max(finals[order[i]] for i in chosen[:keep]) for chosen in combinations(range(len(drafts)), n)]
    return float(np.mean(best))


def scores(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    drafts, noise = Key((seed,)).normal((2, 6)).double().numpy()
    finals = drafts + noise
    return (np.round(drafts), np.round(finals)) if ties else (drafts, finals)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "keep"), SIZES)
def test_the_expectation_is_that_over_all_sets(n: int, keep: int, ties: bool) -> None:
    for seed in range(3):
        drafts, finals = scores(seed, ties)
        assert expected_best(drafts, finals, n, keep) == pytest.approx(enumerated(drafts, finals, n, keep))


def test_lossless_drafts_keep_the_best_of_n_and_reversed_ones_the_worst() -> None:
    _, finals = scores(0, False)
    assert expected_best(finals, finals, 6, 1) == pytest.approx(finals.max())
    assert expected_best(-finals, finals, 6, 1) == pytest.approx(finals.min())
    assert expected_best(-finals, finals, 6, 6) == pytest.approx(finals.max())


def test_bad_sizes_are_refused() -> None:
    for n, keep in ((0, 1), (7, 1), (2, 0)):
        with pytest.raises(UsageError, match="of 6 candidates"):
            expected_best(*scores(0, False), n, keep)


def falsely_dropped(alpha: float, slack: float) -> float:
    """The share of prompts whose best candidate lies beyond the margin of the others: exact under exchangeability.

    slack: what the margin is multiplied by; 1 is the rule, less is its broken twin.
    """
    values = [margin_values(*scores(seed, False)) for seed in range(60)]
    margins = [conformal_quantile(values[:i] + values[i + 1 :], alpha) for i in range(len(values))]
    return float(np.mean([v > slack * margin for v, margin in zip(values, margins, strict=True)]))


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25])
def test_the_best_candidate_is_dropped_with_probability_at_most_alpha(alpha: float) -> None:
    assert falsely_dropped(alpha, 1.0) <= alpha
    assert falsely_dropped(alpha, 0.7) > alpha  # the broken twin
