"""Ensembles against loops over candidates and verifiers that are written from their definitions."""

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch

from genscale.engine.ensembles import ENSEMBLES, Column, check_columns, joined
from genscale.errors import UsageError
from genscale.numerics.dominance import crowding, dominates, fronts

Rows = list[list[float]]


def _raw(seed: int, n: int, k: int, tied: bool) -> torch.Tensor:
    """Scores in [0, 1]; with ties where `tied`."""
    generator = torch.Generator().manual_seed(seed)
    if tied:
        return torch.randint(0, 4, (n, k), generator=generator).double() / 3
    return torch.rand(n, k, generator=generator, dtype=torch.float64)


# ---------------------------------------------------------------- totals, by the definitions


def _z(rows: Rows, columns: Sequence[Column]) -> Rows:
    found = [list(row) for row in rows]
    for k, of in enumerate(columns):
        column = [row[k] for row in rows]
        mean = statistics.fmean(column) if of.mean is None else of.mean
        sd = statistics.pstdev(column) if of.sd is None else of.sd
        for row, score in zip(found, column, strict=True):
            row[k] = (score - mean) / sd if sd > 0 else 0.0
    return found


def _sums(rows: Rows, columns: Sequence[Column]) -> list[float]:
    return [sum(c.weight * s for c, s in zip(columns, row, strict=True)) for row in rows]


def _by_standardised(rows: Rows, columns: Sequence[Column]) -> list[float]:
    return _sums(_z(rows, columns), columns)


def _by_rank(rows: Rows, columns: Sequence[Column]) -> list[float]:
    def rank(k: int, score: float) -> float:
        better = sum(row[k] > score for row in rows)
        return better + (sum(row[k] == score for row in rows) + 1) / 2

    weights = sum(c.weight for c in columns)
    return [-sum(c.weight * rank(k, row[k]) for k, c in enumerate(columns)) / weights for row in rows]


def _by_minimum(rows: Rows, columns: Sequence[Column]) -> list[float]:
    rows = rows if all(c.probability for c in columns if c.weight) else _z(rows, columns)
    return [
        min(math.copysign(1, c.weight) * s for c, s in zip(columns, row, strict=True) if c.weight)
        for row in rows
    ]


def _by_product(rows: Rows, columns: Sequence[Column]) -> list[float]:
    return [
        math.log(math.prod(max(s, 1e-12) ** c.weight for c, s in zip(columns, r, strict=True))) for r in rows
    ]


def _by_log_odds(rows: Rows, columns: Sequence[Column]) -> list[float]:
    """log of P(right) / P(wrong), each a product over the verifiers."""
    kept = [[min(max(s, 1e-12), 1 - 1e-12) for s in row] for row in rows]
    right = [math.prod(s**c.weight for c, s in zip(columns, row, strict=True)) for row in kept]
    wrong = [math.prod((1 - s) ** c.weight for c, s in zip(columns, row, strict=True)) for row in kept]
    return [math.log(r / w) for r, w in zip(right, wrong, strict=True)]


BY_HAND: dict[str, Callable[[Rows, Sequence[Column]], list[float]]] = {
    "weighted": _sums,
    "rank": _by_rank,
    "standardised": _by_standardised,
    "category": _by_standardised,
    "minimum": _by_minimum,
    "product": _by_product,
    "log_odds": _by_log_odds,
}
KINDS = {
    "scores": {},
    "probabilities": {"probability": True},
    "calibrated": {"mean": 0.4, "sd": 0.2},
}


@pytest.mark.parametrize(("name", "kind", "tied"), list(product(BY_HAND, KINDS, (False, True))))
def test_totals_are_those_of_their_definition(name: str, kind: str, tied: bool) -> None:
    if ENSEMBLES[name].probabilities and kind != "probabilities":
        kind = "probabilities"
    sizes = (1.0, 1.0, 0.0) if ENSEMBLES[name].signs else (0.5, 2.0, 0.0)
    for seed, n in enumerate((1, 2, 7, 20)):
        raw = _raw(seed, n, 3, tied)
        columns = [Column(w, **KINDS[kind]) for w in sizes]  # type: ignore[arg-type]
        want = torch.tensor(BY_HAND[name](raw.tolist(), columns), dtype=torch.float64)
        torch.testing.assert_close(joined(name, raw, columns), want, atol=1e-8, rtol=1e-9)


def test_a_calibrated_verifier_beside_one_that_is_not() -> None:
    raw = _raw(3, 9, 2, tied=False)
    columns = [Column(1.0, mean=0.4, sd=0.2), Column(2.0)]
    want = torch.tensor(_by_standardised(raw.tolist(), columns), dtype=torch.float64)
    torch.testing.assert_close(joined("standardised", raw, columns), want)


@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, 12345.678, -7e-9])
@pytest.mark.parametrize("n", [1, 3, 10, 49])
def test_scores_that_are_all_equal_decide_nothing(level: float, n: int) -> None:
    """The mean of equal numbers is not always that number: their spread is rounding."""
    raw = torch.full((n, 1), level, dtype=torch.float64)
    assert joined("standardised", raw, [Column()]).tolist() == [0.0] * n


def test_weights_of_zero_leave_a_verifier_out() -> None:
    raw = _raw(5, 12, 2, tied=False)
    noisy = torch.cat([raw, 1e6 * _raw(6, 12, 1, tied=False)], 1)
    two = [Column(probability=True)] * 2
    for name in ENSEMBLES:
        three = [*two, Column(0.0)]
        torch.testing.assert_close(joined(name, noisy, three), joined(name, raw, two))


def test_no_probability_is_too_sure_for_a_total() -> None:
    raw = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    for name in ("product", "log_odds"):
        totals = joined(name, raw, [Column(probability=True)] * 2)
        assert totals.isfinite().all()
        assert totals.argsort().tolist() == [2, 0, 1]


# ---------------------------------------------------------------- dominance


def _dominated(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `other` dominates `one`."""
    pairs = list(zip(one, other, strict=True))
    return all(b >= a for a, b in pairs) and any(b > a for a, b in pairs)


def _fronts(points: Rows) -> list[int]:
    left, found, number = set(range(len(points))), [0] * len(points), 0
    while left:
        free = [i for i in left if not any(_dominated(points[i], points[j]) for j in left)]
        for i in free:
            found[i] = number
        left, number = left - set(free), number + 1
    return found


def _crowding(points: Rows) -> list[float]:
    """As the pseudocode of Deb et al. 2002, section III-B, has it, for distinct values."""
    found = [0.0] * len(points)
    for m in range(len(points[0])):
        order = sorted(range(len(points)), key=lambda i: points[i][m])
        found[order[0]] = found[order[-1]] = math.inf
        wide = points[order[-1]][m] - points[order[0]][m]
        for at in range(1, len(order) - 1):
            found[order[at]] += (points[order[at + 1]][m] - points[order[at - 1]][m]) / wide
    return found


@pytest.mark.parametrize(("n", "k", "tied"), list(product((1, 2, 9, 40), (1, 2, 3, 5), (False, True))))
def test_fronts_are_those_of_brute_force(n: int, k: int, tied: bool) -> None:
    points = _raw(n + k, n, k, tied)
    rows = points.tolist()
    assert fronts(points).tolist() == _fronts(rows)
    assert dominates(points).tolist() == [[_dominated(b, a) for b in rows] for a in rows]


@pytest.mark.parametrize(("n", "k"), list(product((2, 3, 8, 30), (1, 2, 4))))
def test_crowding_is_that_of_the_paper(n: int, k: int) -> None:
    points = _raw(n * k, n, k, tied=False)
    torch.testing.assert_close(
        crowding(points), torch.tensor(_crowding(points.tolist()), dtype=torch.float64)
    )


def test_crowding_of_equal_values_does_not_depend_on_the_order() -> None:
    points = _raw(1, 20, 3, tied=True)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(crowding(points[order]), crowding(points)[order])


@pytest.mark.parametrize("tied", [False, True])
def test_pareto_ranks_by_front_then_by_crowding(tied: bool) -> None:
    raw = _raw(8, 30, 2, tied)
    front = _fronts(raw.tolist())
    crowd = [0.0] * 30
    for number in set(front):
        members = [i for i in range(30) if front[i] == number]
        for i, distance in zip(members, crowding(raw[members]).tolist(), strict=True):
            crowd[i] = distance
    totals = joined("pareto", raw, [Column(), Column()]).tolist()
    for i, j in product(range(30), repeat=2):
        ahead = front[i] < front[j] or (front[i] == front[j] and crowd[i] > crowd[j])
        assert (totals[i] > totals[j]) == ahead


def test_a_negative_weight_turns_a_coordinate_of_the_front() -> None:
    raw = _raw(4, 15, 2, tied=False)
    turned = torch.stack([raw[:, 0], -raw[:, 1]], 1)
    torch.testing.assert_close(
        joined("pareto", raw, [Column(), Column(-1.0)]), joined("pareto", turned, [Column(), Column()])
    )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "weights", "sentence"),
    [
        ("minimum", (1.0, 0.1), "a minimum ensemble takes no sizes of weights, and verifier 'b' has 0.1"),
        ("pareto", (2.0, 1.0), "a pareto ensemble takes no sizes of weights, and verifier 'a' has 2"),
        ("standardised", (0.0, 0.0), "a standardised ensemble of weights 0 ranks nothing"),
        ("product", (1.0, 1.0), "a product ensemble multiplies probabilities, and verifier 'a' answers none"),
    ],
)
def test_weights_that_do_not_go_with_an_ensemble(name: str, weights: Sequence[float], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check_columns(name, [Column(w) for w in weights], ["a", "b"])


# ---------------------------------------------------------------- a verifier that can be fooled


def _gold(rule: str, n: int, runs: int = 700) -> tuple[float, float]:
    """Mean true quality of the winner of n, and its standard error.

    a: correlated .6 with the truth, but in 3 % of the candidates 6 too high. b: .5, on another scale.
    """
    generator = torch.Generator().manual_seed(n)
    draw = torch.randn(3, runs, n, generator=generator, dtype=torch.float64)
    truth = draw[0]
    fooled = torch.rand(runs, n, generator=generator) < 0.03
    a = 0.6 * truth + 0.8 * draw[1] + 6 * fooled
    b = 10 * (0.5 * truth + math.sqrt(0.75) * draw[2])
    found = []
    for i in range(runs):
        totals = (
            a[i] if rule == "a alone" else joined(rule, torch.stack([a[i], b[i]], 1), [Column(), Column()])
        )
        found.append(truth[i, totals.argmax()])
    values = torch.stack(found)
    return float(values.mean()), float(values.std() / math.sqrt(runs))


@pytest.mark.parametrize(("rule", "gains"), [("rank", True), ("minimum", True), ("a alone", False)])
def test_ranks_and_the_minimum_go_on_gaining_where_one_verifier_is_fooled(rule: str, gains: bool) -> None:
    (few, e), (many, f) = _gold(rule, 16), _gold(rule, 64)
    assert (many - few > 4 * math.hypot(e, f)) is gains
