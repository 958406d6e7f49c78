"""Scores of several verifiers, made one number: checked, named, weighted or ranked."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genscale.engine.ensembles import ENSEMBLES, Column, joined, mean_rank, weighted_sum
from genscale.engine.ledger import Ledger
from genscale.engine.verifier_roles import (
    Roles,
    VerifierSet,
    WeightedVerifier,
)
from genscale.errors import UsageError, VerifierError
from genscale.media import Media
from genscale.protocol.answers import Scores
from genscale.protocol.calibration import ScoreScale

MEDIA = Media(torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
PROMPTS = ["a", "b", "c"]
LABELS = ["candidate 4 of 'a'", "candidate 5 of 'b'", "candidate 6 of 'c'"]


def gives(raw: Any) -> Callable[[Media, Sequence[str]], Any]:
    return lambda media, prompts: raw


def score(raw: Any) -> Tensor:
    return WeightedVerifier("mine", gives(raw)).score(MEDIA, PROMPTS, LABELS)


# ---------------------------------------------------------------- what a verifier may return

WANTED = torch.tensor([0.1, -2.0, 3.0], dtype=torch.float64)
RETURNS = {
    "list": [0.1, -2, 3],
    "tuple": (0.1, -2.0, 3.0),
    "tensor": WANTED.clone(),
    "tensor of a column": WANTED[:, None],
    "tensor of a row": WANTED[None],
    "tensor with a gradient": WANTED.clone().requires_grad_(),
    "array": WANTED.numpy(),
    "array of a column": WANTED.numpy()[:, None],
    "reversed array": WANTED.flip(0).numpy()[::-1],
    "read-only array": np.frombuffer(WANTED.numpy().tobytes()),
    "list of 0-d tensors": list(WANTED),
    "list of 1-d tensors": list(WANTED[:, None]),
    "list of 0-d tensors with gradients": list(WANTED.clone().requires_grad_()),
    "list of numpy numbers": list(WANTED.numpy()),
    "list of lists": [[0.1], [-2.0], [3.0]],
}


@pytest.mark.parametrize("kind", RETURNS)
def test_scores_may_come_as(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(RETURNS[kind])
    assert torch.equal(scores, WANTED)
    assert not scores.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_scores_may_be_of_any_real_type(dtype: torch.dtype) -> None:
    raw = torch.tensor([1, 0, 1]).to(dtype)
    scores = score(raw)
    assert scores.dtype == torch.float64
    assert scores.tolist() == [1, 0, 1]


def test_one_picture_may_get_a_bare_number() -> None:
    for raw in (0.25, torch.tensor(0.25), np.float32(0.25), [0.25]):
        assert WeightedVerifier("mine", gives(raw)).score(MEDIA[:1], ["a"], LABELS[:1]).tolist() == [0.25]


def test_a_verifier_sees_pictures_and_prompts_in_order() -> None:
    def brightness(media: Media, prompts: Sequence[str]) -> list[float]:
        assert list(prompts) == PROMPTS
        return [float(np.asarray(picture).mean()) for picture in media]

    expected = np.asarray(MEDIA).mean((1, 2, 3))
    assert WeightedVerifier("mine", brightness).score(MEDIA, PROMPTS, LABELS).tolist() == expected.tolist()


# ---------------------------------------------------------------- what it may not


def failure(raw: Any) -> str:
    with pytest.raises(VerifierError) as caught:
        score(raw)
    message = str(caught.value)
    assert "'mine'" in message
    return message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_number_names_its_candidate(value: float, place: int) -> None:
    scores = [0.5, 0.5, 0.5]
    scores[place] = value
    message = failure(scores)
    assert f"gave {value} for {LABELS[place]}" in message
    assert not any(other in message for other in LABELS if other != LABELS[place])


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ([1.0, 2.0], "2 values"),
        ([], "0 values"),
        (torch.ones(4), "an array of shape [4]"),
        (torch.ones(3, 2), "an array of shape [3, 2]"),
        (torch.ones(3, 1, 1), "an array of shape [3, 1, 1]"),
        (np.ones((1, 4)), "an array of shape [1, 4]"),
        (1.0, "a float"),
        (None, "a NoneType"),
        ("abc", "3 values"),
        ([1.0, None, 2.0], "3 values"),
        ([1.0, [2.0, 3.0], 4.0], "3 values"),
        ({"a": 1, "b": 2, "c": 3}, "3 values"),
        ([10**400, 1, 2], "3 values"),
        ((float(i) for i in range(3)), "a generator"),
        ({0.1, 0.2, 0.3}, "3 values"),
        (torch.ones(3, dtype=torch.complex64), "complex numbers of shape [3]"),
        (np.ones(3, complex), "complex numbers of shape [3]"),
        ([1.0, 2j, 3.0], "3 values"),
        ([1.0, torch.tensor(2j), 3.0], "3 values"),
        (list(np.ones(3, complex)), "3 values"),
    ],
)
def test_a_wrong_count_or_kind_names_the_candidates_and_what_was_found(raw: Any, found: str) -> None:
    message = failure(raw)
    assert f"given 3 images ({LABELS[0]} to {LABELS[2]})" in message
    assert f"returned {found}: it must return one number for each." in message


def test_a_failing_verifier_names_the_candidates_and_keeps_its_cause() -> None:
    def broken(media: Media, prompts: Sequence[str]) -> list[float]:
        raise KeyError("no such aspect")

    with pytest.raises(
        VerifierError, match="'mine' failed on candidate 4 of 'a' to candidate 6 of 'c'"
    ) as caught:
        WeightedVerifier("mine", broken).score(MEDIA, PROMPTS, LABELS)
    assert "KeyError: 'no such aspect'" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(VerifierError, match="'mine' failed on candidate 4 of 'a': KeyError"):
        WeightedVerifier("mine", broken).score(MEDIA[:1], ["a"], LABELS[:1])


def test_a_refusal_is_said_as_it_is_and_an_interrupt_is_none_of_it() -> None:
    said = UsageError("weights are missing: fetch them.")
    for error in (said, VerifierError("no."), torch.cuda.OutOfMemoryError(), KeyboardInterrupt()):

        def refuses(media: Media, prompts: Sequence[str], error: BaseException = error) -> list[float]:
            raise error

        with pytest.raises(type(error)) as caught:
            WeightedVerifier("mine", refuses).score(MEDIA, PROMPTS, LABELS)
        assert caught.value is error


# ---------------------------------------------------------------- ensembles


def ordinal(raw: Tensor, weights: Tensor) -> Tensor:
    """The broken twin: among equals the earlier one ranks better."""
    ranks = raw.argsort(dim=0, descending=True, stable=True).argsort(dim=0).double() + 1
    return -(ranks @ weights) / weights.sum()


def brute_force(raw: Tensor, weights: Tensor) -> Tensor:
    """The mean rank over all orders of the candidates that sort the scores."""
    n, verifiers = raw.shape
    total = torch.zeros(n, dtype=torch.float64)
    for k in range(verifiers):
        sorting = [
            order
            for order in itertools.permutations(range(n))
            if all(raw[a, k] >= raw[b, k] for a, b in itertools.pairwise(order))
        ]
        for order in sorting:
            for rank, candidate in enumerate(order, 1):
                total[candidate] += weights[k] * rank / len(sorting)
    return -total / weights.sum()


@pytest.mark.parametrize("seed", range(12))
def test_ranks_are_those_of_brute_force(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(-2, 3, (6, 3), generator=generator).double()  # ties abound
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64) if seed % 2 else torch.ones(3).double()
    expected = brute_force(raw, weights)
    torch.testing.assert_close(mean_rank(raw, weights), expected, atol=1e-12, rtol=0)
    assert not torch.allclose(ordinal(raw, weights), expected)


def test_ties_share_their_rank_wherever_they_stand() -> None:
    raw = torch.tensor([[1.0], [3.0], [1.0], [1.0], [0.0]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    assert mean_rank(raw, one).tolist() == [-3, -1, -3, -3, -5]
    assert ordinal(raw, one).tolist() == [-2, -1, -3, -4, -5]
    assert mean_rank(torch.tensor([[0.0], [-0.0]], dtype=torch.float64), one).tolist() == [-1.5, -1.5]


def test_a_pool_of_duplicates_has_no_winner_but_the_first() -> None:
    raw = torch.tensor([[0.3, 7.0]], dtype=torch.float64).repeat(8, 1)
    scores = Scores(
        raw, VerifierSet((WeightedVerifier("a", gives(0)), WeightedVerifier("b", gives(0))), "rank").combine
    )
    assert scores.total.tolist() == [-4.5] * 8
    assert scores.best() == 0
    assert scores.ranking() == list(range(8))


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_totals_move_with_their_candidates(ensemble: str) -> None:
    generator = torch.Generator().manual_seed(3)
    raw = torch.randint(0, 4, (9, 2), generator=generator).double()
    raw, order = raw / 3, torch.randperm(9, generator=generator)
    columns = [
        Column(1.0, probability=True),
        Column(1.0 if ensemble == "minimum" else 0.25, probability=True),
    ]
    found, moved = joined(ensemble, raw, columns), joined(ensemble, raw[order], columns)
    torch.testing.assert_close(moved, found[order], atol=1e-12, rtol=0)


def test_ranks_see_only_the_order_of_scores() -> None:
    raw = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weights = torch.ones(2, dtype=torch.float64)
    assert torch.equal(
        mean_rank(raw, weights), mean_rank(torch.stack([raw[:, 0].exp(), raw[:, 1] * 1e6], 1), weights)
    )


def test_a_large_pool_is_ranked_at_once() -> None:
    """Comparing all pairs would take 24 GB."""
    raw = torch.arange(90_000, dtype=torch.float64).reshape(-1, 1).repeat(1, 3)
    assert torch.equal(mean_rank(raw, torch.ones(3, dtype=torch.float64)), raw[:, 0] - 90_000)


def test_a_weighted_sum_carries_the_scales() -> None:
    raw = torch.tensor([[1.0, 10.0], [2.0, -10.0]], dtype=torch.float64)
    weights = torch.tensor([5.0, -0.01], dtype=torch.float64)
    torch.testing.assert_close(weighted_sum(raw, weights), torch.tensor([4.9, 10.1], dtype=torch.float64))


class Gives:
    """Gives one number, and says what it is told to say."""

    def __init__(self, **said: Any) -> None:
        vars(self).update(said)

    def __call__(self, media: Media, prompts: Sequence[str]) -> Any:
        return 0


SAYS = {
    "nothing": ({}, {"weighted"}),
    "probabilities": ({"answers_probability": True}, {"weighted", "product", "log_odds", "minimum"}),
    "a scale": ({"score_scale": ScoreScale(2.0, 0.5)}, {"weighted", "standardised", "minimum", "category"}),
    "a calibration": (
        {"calibration": SimpleNamespace(mean=2, sd=0.5, noise_sd=0.1)},
        {"weighted", "standardised", "minimum", "category"},
    ),
}


@pytest.mark.parametrize(("said", "alone"), SAYS.values(), ids=SAYS)
def test_which_totals_depend_on_the_pool(said: dict[str, Any], alone: set[str]) -> None:
    raw = torch.tensor([[0.1, 0.5], [0.2, 0.4], [0.3, 0.0], [0.1, 0.5]], dtype=torch.float64)
    for ensemble, kind in ENSEMBLES.items():
        members = tuple(WeightedVerifier(name, Gives(**said)) for name in "ab")
        if kind.probabilities and "answers_probability" not in said:
            with pytest.raises(UsageError, match="multiplies probabilities, and verifier 'a' answers none"):
                VerifierSet(members, ensemble)
            continue
        panel = VerifierSet(members, ensemble)
        assert panel.pointwise == (ensemble in alone)
        one_by_one = torch.cat([panel.combine(row[None]) for row in raw])
        assert torch.equal(one_by_one, panel.combine(raw)) == panel.pointwise


# ---------------------------------------------------------------- the panel


def test_a_panel_scores_by_every_verifier_under_its_name_and_counts() -> None:
    panel = VerifierSet(
        (
            WeightedVerifier("a", gives([1, 2, 3])),
            WeightedVerifier("b", gives(torch.tensor([[6.0], [5], [4]])), weight=2),
        )
    )
    ledger = Ledger()
    raw = panel.score(MEDIA, PROMPTS, LABELS, ledger)
    assert raw.dtype == torch.float64
    assert raw.tolist() == [[1, 6], [2, 5], [3, 4]]
    assert panel.names == ("a", "b")
    assert panel.named(raw[1]) == {"a": 2, "b": 5}
    assert panel.combine(raw).tolist() == [13, 12, 11]
    assert ledger.verifier_calls == {"a": 3, "b": 3}
    assert ledger.seconds["verify"] >= 0


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_an_empty_panel_finds_all_equal(ensemble: str) -> None:
    panel = VerifierSet(ensemble=ensemble)
    raw = panel.score(MEDIA, PROMPTS, LABELS, Ledger())
    assert raw.shape == (3, 0)
    assert panel.combine(raw).abs().tolist() == [0, 0, 0]


def test_what_makes_no_panel_is_refused() -> None:
    one, two = WeightedVerifier("a", gives(0)), WeightedVerifier("b", gives(0), weight=-1)
    with pytest.raises(UsageError, match="ensemble 'median' is unknown: choose one of weighted, rank"):
        VerifierSet((one,), "median")
    with pytest.raises(UsageError, match="verifier 'a' is asked for twice"):
        VerifierSet((one, two, one))
    with pytest.raises(UsageError, match="cannot use a negative weight"):
        VerifierSet((one, two), "rank")
    assert VerifierSet((one, two)).combine(torch.tensor([[3.0, 1.0]]).double()).tolist() == [2]
    with pytest.raises(UsageError, match="weights 0 ranks nothing"):
        VerifierSet((WeightedVerifier("a", gives(0), weight=0),), "rank")
    for weight in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match=f"verifier 'a' has weight {weight}"):
            VerifierSet((WeightedVerifier("a", gives(0), weight),))


def test_the_search_panel_picks_unless_another_does() -> None:
    search, select, held_out = (VerifierSet((WeightedVerifier(name, gives(0)),)) for name in "abc")
    assert Roles(search, held_out=held_out).judge is search
    assert Roles(search, select, held_out).judge is select
    assert Roles(search, held_out=held_out).calls == 1
    assert Roles(search, select, held_out).calls == 2
