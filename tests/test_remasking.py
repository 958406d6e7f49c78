"""ReMDM: tokens that are masked again, against chains that are enumerated."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import genscale
from genscale import UsageError
from genscale.diffusion.remasking import (
    LOOP,
    Remasking,
    commit_probability,
    most_remasking,
    remask_step,
)
from tests.toy_tokens import CLEAN, LENGTH, MASK, ROWS, STATES, Rate, bound, enumerated, number, p_value

ALPHAS = (0.0, 0.2, 0.45, 0.5, 0.8, 1.0)


def sampled(rule: Remasking, alphas: tuple[float, ...], seed: int = 0) -> list[Tensor]:
    """Chains of `remask_step`: the tokens after each step."""
    generator, tokens = torch.Generator().manual_seed(seed), torch.full((ROWS, LENGTH), MASK)
    found, psi = [], torch.zeros(ROWS, LENGTH)
    for before, after in itertools.pairwise(alphas):
        ends = [torch.full((ROWS, 1), a, dtype=torch.float64) for a in (before, after)]
        predicted = torch.multinomial(CLEAN[number(tokens)].flatten(0, 1), 1, generator=generator)
        uniform = torch.rand(ROWS, LENGTH, generator=generator, dtype=torch.float64)
        committed = tokens != MASK
        rates = rule.rates(*ends, committed, ~committed, psi)
        tokens = remask_step(tokens, predicted.view(ROWS, LENGTH), rates, committed, *ends, MASK, uniform)
        found.append(tokens)
    return found


@pytest.mark.parametrize(
    ("rule", "rate"),
    [
        (Remasking("rescale", 0.0), lambda b, a: 0.0),
        (Remasking("rescale", 1.0), bound),
        (Remasking("rescale", 0.4), lambda b, a: 0.4 * bound(b, a)),
        (Remasking("cap", 0.3), lambda b, a: min(0.3, bound(b, a))),
    ],
)
def test_the_law_of_every_step_is_the_enumerated_one(rule: Remasking, rate: Rate) -> None:
    laws, found = enumerated(ALPHAS, rate), sampled(rule, ALPHAS)
    for law, alpha in zip(
        laws, ALPHAS[1:], strict=True
    ):  # whatever sigma is, a token is committed with alpha
        for place in range(LENGTH):
            committed = sum(p for p, s in zip(law, STATES, strict=True) if s[place] != MASK)
            assert committed == pytest.approx(alpha, abs=1e-12)
    assert all(p_value(tokens, law) > 1e-3 for tokens, law in zip(found, laws, strict=True))


def test_without_remasking_it_is_mdlm() -> None:
    mdlm = enumerated(ALPHAS, lambda b, a: 0.0, lambda b, a: (a - b) / (1 - b))
    assert p_value(sampled(Remasking(eta=0.0), ALPHAS)[-1], mdlm[-1]) > 1e-3
    assert (
        p_value(sampled(Remasking(eta=1.0), ALPHAS)[-1], mdlm[-1]) < 1e-3
    )  # remasking changes what is sampled


def test_the_test_sees_a_wrong_commit_probability() -> None:
    """Broken twin: tokens are masked again, and masked ones are committed as if none were."""
    wrong = enumerated(ALPHAS, bound, lambda b, a: (a - b) / (1 - b))
    found = sampled(Remasking(eta=1.0), ALPHAS)
    assert min(p_value(t, law) for t, law in zip(found, wrong, strict=True)) < 1e-6
    committed = sum(p for p, s in zip(wrong[2], STATES, strict=True) if s[0] != MASK)
    assert abs(committed - ALPHAS[3]) > 0.05  # and alpha is not kept


def test_a_rate_above_its_bound_is_refused() -> None:
    before, after = torch.tensor([0.5, 0.8]), torch.tensor([0.7, 0.9])
    most = most_remasking(before, after)
    assert torch.allclose(most, torch.tensor([0.6, 0.125]))
    assert torch.allclose(commit_probability(before, after, most), torch.ones(2))
    with pytest.raises(UsageError, match=r"sigma=0.7 is outside \[0, 0.125\]"):
        commit_probability(before, after, torch.tensor([0.7, 0.1]))
    with pytest.raises(UsageError, match="is outside"):
        commit_probability(before, after, -most)


def test_the_least_sure_tokens_are_masked_again_most_often() -> None:
    before, after = torch.tensor([[0.75]]), torch.tensor([[0.8]])
    committed, psi = torch.tensor([[True, False, True, True]]), torch.tensor([[0.9, 0.0, 0.1, 0.5]])
    rates = Remasking("conf").rates(before, after, committed, ~committed, psi)
    weights = [math.exp(-0.9), 0.0, math.exp(-0.1), math.exp(-0.5)]
    want = torch.tensor([weights]) / sum(weights)
    assert torch.allclose(rates[committed], want[committed] * (0.2 / 0.75))
    more = commit_probability(before, after, rates[:, 1:2]) - commit_probability(before, after, before * 0)
    assert float(more) == pytest.approx(float(rates[committed].sum()))  # as many as are masked again
    assert not Remasking("conf").rates(before, after, committed & False, ~committed | True, psi).any()


def shares_of_conf(of_masked: float) -> list[float]:
    """How many of 30 tokens are committed on average after each step of "conf", less alpha. of_masked: a factor on the
    rates of masked tokens; 0 is the paper's."""
    rows, length, generator = 2000, 30, torch.Generator().manual_seed(1)
    tokens, psi = torch.full((rows, length), MASK), torch.rand(rows, length, generator=generator)
    alphas = [i / 15 for i in range(15)]
    found = []
    for before, after in itertools.pairwise(alphas):
        ends = [torch.full((rows, 1), a, dtype=torch.float64) for a in (before, after)]
        committed = tokens != MASK
        rates = Remasking("conf").rates(*ends, committed, ~committed, psi)
        rates = torch.where(committed, rates, of_masked * rates)
        uniform = torch.rand(rows, length, generator=generator, dtype=torch.float64)
        tokens = remask_step(tokens, torch.zeros_like(tokens), rates, committed, *ends, MASK, uniform)
        found.append(float((tokens != MASK).double().mean()) - after)
    return found


def test_by_confidence_the_schedule_holds() -> None:
    assert max(map(abs, shares_of_conf(1.0))) < 0.01
    assert min(shares_of_conf(0.0)) < -0.03  # the paper's rule falls behind


def test_published_values_and_times() -> None:
    assert [Remasking(rule).strength for rule in ("cap", "rescale", "conf")] == [0.04, 0.05, 1.0]
    assert Remasking("cap", loop=LOOP).strength == 0.055
    half = Remasking(switch=0.5)
    assert [half.is_on(t) for t in (1.0, 0.5, 0.4)] == [False, False, True]
    loop = Remasking(loop=LOOP)
    assert [loop.is_on(t) for t in (0.6, 0.55, 0.1, 0.05)] == [False, True, True, False]


def test_the_loop_is_that_of_the_paper_for_a_linear_schedule() -> None:
    on, off, level = LOOP
    for t in (1.0, 0.9, 0.6, 0.55, 0.3, 0.05, 0.03, 0.0):
        alpha = Remasking(loop=LOOP).warped(1 - t, level)  # alpha of a linear schedule is its progress
        want = (1 - t) * level / (1 - on) if t > on else level if t > off else 1 - t * (1 - level) / off
        assert alpha == pytest.approx(want)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rule": "max"}, "rule='max' of remasking is unknown"),
        ({"eta": 1.5}, "eta=1.5 of remasking must be"),
        ({"switch": 0.0}, "switch=0.0 of remasking must be"),
        ({"loop": (0.1, 0.5, 0.9)}, "0 <= t_off < t_on < 1"),
        ({"loop": LOOP, "switch": 0.5}, "give one of them"),
        ({"order": "first"}, "order='first' of RemaskingScheduler is unknown"),
    ],
)
def test_bad_values_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        genscale.RemaskingScheduler(mask_token_id=MASK, **given)
