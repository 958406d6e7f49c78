"""ReMDM: tokens that are masked again, against chains that are enumerated."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
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
from tests.test_black_box import brightness, fresh, same, token_pipeline

LENGTH, WORDS, MASK, ROWS = 3, 2, 2, 4000
STATES = list(itertools.product(range(WORDS + 1), repeat=LENGTH))
ALPHAS = (0.0, 0.2, 0.45, 0.5, 0.8, 1.0)

torch.manual_seed(5)
CLEAN = (1.5 * torch.randn(len(STATES), LENGTH, WORDS, dtype=torch.float64)).softmax(-1)
"""p(x0_l | x_t): the predicted law of each token, in each state. No product, and not consistent between states."""


def number(tokens: Tensor) -> Tensor:
    """Which of STATES each row is."""
    return (tokens * torch.tensor([(WORDS + 1) ** (LENGTH - 1 - i) for i in range(LENGTH)])).sum(-1)


Rate = Callable[[float, float], float]


def enumerated(alphas: tuple[float, ...], rate: Rate, commit: Any = None) -> list[list[float]]:
    """The law over STATES after each step, by the two formulas of the paper, token by token."""
    law, laws = [float(state == (MASK,) * LENGTH) for state in STATES], []
    for before, after in itertools.pairwise(alphas):
        sigma = rate(before, after)
        p = (after - (1 - sigma) * before) / (1 - before) if commit is None else commit(before, after)
        following = [0.0] * len(STATES)
        for i, state in enumerate(STATES):
            for j, target in enumerate(STATES):
                chance = law[i]
                for place, (old, new) in enumerate(zip(state, target, strict=True)):
                    if old == MASK:
                        chance *= 1 - p if new == MASK else p * float(CLEAN[i, place, new])
                    else:
                        chance *= sigma if new == MASK else (1 - sigma) * (new == old)
                following[j] += chance
        law = following
        laws.append(law)
    return laws


def p_value(tokens: Tensor, law: list[float]) -> float:
    """Of a chi-squared test; 0 where there is what the law says there cannot be."""
    found = torch.bincount(number(tokens), minlength=len(STATES)).double()
    expected = torch.tensor(law, dtype=torch.float64) * len(tokens)
    possible = expected > 1e-9
    if bool((found[~possible] > 0).any()):
        return 0.0
    return float(stats.chisquare(found[possible], expected[possible] * len(tokens) / expected.sum()).pvalue)


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


def bound(before: float, after: float) -> float:
    return 1.0 if before == 0 else min(1.0, (1 - after) / before)


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


def test_in_the_loop_alpha_stays() -> None:
    loop = (0.75, 0.25, 0.5)
    scheduler = genscale.RemaskingScheduler(
        mask_token_id=MASK, masking_schedule="linear", rule="cap", eta=0.5, loop=loop
    )
    found = stepped(scheduler, torch.full((20, 30), MASK), 8)
    counts = [(tokens == MASK).sum(-1) for tokens in found]
    for i, count in enumerate(counts[:-1]):
        alpha = 1 - Remasking(loop=loop).warped((i + 1) / 8, loop[2])  # of a linear schedule
        assert bool((count <= math.floor(30 * alpha)).all())
        assert bool((count >= math.floor(30 * alpha) - 1).all())  # a step commits one more at least
    assert [int(c[0]) for c in counts[2:6]] == [15] * 4
    again = [
        int(((b == MASK) & (a != MASK)).sum()) for a, b in itertools.pairwise(found)
    ]  # after steps 2 to 8, which begin at 0.875, 0.75, ...
    assert [n > 0 for n in again] == [False, True, True, True, True, False, False]


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


# ------------------------------------------------------------------------------ as a scheduler


def stepped(scheduler: Any, tokens: Tensor, steps: int, ratio: float = 1.0, seed: int = 0) -> list[Tensor]:
    generator, found = torch.Generator().manual_seed(seed), []
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        toy = tokens.shape[1] == LENGTH
        state = number(tokens) if toy else tokens.sum(-1) % len(STATES)
        logits = CLEAN[state].log().repeat(1, 10, 1)[:, : tokens.shape[1]]
        tokens = scheduler.step(logits, t, tokens, ratio, generator).prev_sample
        found.append(tokens)
    return found


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_scheduler_samples_the_enumerated_law(schedule: str) -> None:
    steps = 5
    shares = [i / steps for i in range(steps + 1)]
    alphas = shares if schedule == "linear" else [1 - math.cos(v * math.pi / 2) for v in shares]
    scheduler = genscale.RemaskingScheduler(
        mask_token_id=MASK, masking_schedule=schedule, order="random", eta=1.0
    )
    found = stepped(scheduler, torch.full((ROWS, LENGTH), MASK), steps)
    laws = enumerated(tuple(alphas), bound)
    assert all(p_value(tokens, law) > 1e-3 for tokens, law in zip(found, laws, strict=True))
    scheduler = genscale.RemaskingScheduler.from_config(scheduler.config, eta=0.5)  # broken twin
    wrong = stepped(scheduler, torch.full((ROWS, LENGTH), MASK), steps)
    assert min(p_value(tokens, law) for tokens, law in zip(wrong, laws, strict=True)) < 1e-3


@pytest.mark.parametrize("given", [{"eta": 1.0}, {"rule": "cap", "eta": 0.5}, {"rule": "conf"}])
def test_in_the_order_of_confidence_the_schedule_holds_exactly(given: dict[str, Any]) -> None:
    from diffusers import AmusedScheduler

    start = torch.full((50, 20), MASK)
    plain = stepped(AmusedScheduler(mask_token_id=MASK), start, 8)
    found = stepped(genscale.RemaskingScheduler(mask_token_id=MASK, **given), start, 8)
    again = [((b == MASK) & (a != MASK)).sum() for a, b in itertools.pairwise(found)]
    for one, other in zip(plain, found, strict=True):
        assert torch.equal((one == MASK).sum(-1), (other == MASK).sum(-1))
    assert sum(again) > 0
    assert not any(((b == MASK) & (a != MASK)).any() for a, b in itertools.pairwise(plain))


@pytest.mark.parametrize("order", ["confidence", "random"])
def test_given_tokens_are_never_masked(order: str) -> None:
    start = torch.full((50, 20), MASK)
    start[:, ::4] = 1
    scheduler = genscale.RemaskingScheduler(mask_token_id=MASK, eta=1.0, order=order)
    found = stepped(scheduler, start, 8, ratio=0.75)
    assert all(bool((tokens[:, ::4] == 1).all()) for tokens in found)
    assert not bool((found[-1] == MASK).any())
    assert any(((b == MASK) & (a != MASK)).any() for a, b in itertools.pairwise(found))


def test_the_masking_schedule_of_inpainting_is_taken_over() -> None:
    from diffusers import AmusedScheduler

    plain = AmusedScheduler(mask_token_id=MASK)
    plain.register_to_config(masking_schedule="linear")  # as AmusedInpaintPipeline does
    assert AmusedScheduler.from_config(plain.config).config.masking_schedule == "cosine"
    assert genscale.RemaskingScheduler.from_config(plain.config).config.masking_schedule == "linear"


# ------------------------------------------------------------------------------ in a pipeline

CALL = {"num_inference_steps": 6, "height": 8, "width": 8, "guidance_scale": 3.0}


def tokens_of(pipe: Any, seed: int = 0) -> list[Tensor]:
    """The tokens after each step, the last of which the pipeline returns."""
    seen: list[Tensor] = []
    made = pipe(
        "a cat", generator=fresh(seed), output_type="latent", callback=lambda i, t, x: seen.append(x), **CALL
    )
    assert torch.equal(made.images, seen[-1])
    return seen


def test_without_remasking_it_is_the_pipeline_bit_for_bit() -> None:
    pipe = token_pipeline()
    plain = tokens_of(pipe)
    pipe.scheduler = genscale.RemaskingScheduler.from_config(pipe.scheduler.config, eta=0.0)
    assert all(torch.equal(a, b) for a, b in zip(plain, tokens_of(pipe), strict=True))
    pipe.scheduler = genscale.RemaskingScheduler.from_config(pipe.scheduler.config, eta=1.0)  # the twin
    assert not torch.equal(plain[-1], tokens_of(pipe)[-1])


@pytest.mark.parametrize(
    "given",
    [
        {"eta": 1.0},
        {"order": "random", "eta": 0.7},
        pytest.param({"rule": "cap", "eta": 0.3}, marks=pytest.mark.slow),
        pytest.param({"rule": "conf"}, marks=pytest.mark.slow),
        {"rule": "cap", "eta": 0.2, "loop": (0.55, 0.05, 0.5)},
    ],
)
def test_committed_tokens_change_in_a_pipeline(given: dict[str, Any]) -> None:
    pipe = token_pipeline()
    pipe.scheduler = genscale.RemaskingScheduler.from_config(pipe.scheduler.config, **given)
    found, mask = tokens_of(pipe), pipe.scheduler.mask
    assert any(bool(((a != mask) & (b == mask)).any()) for a, b in itertools.pairwise(found))
    early = next(tokens for tokens in found if bool((tokens != mask).any()))
    assert not bool((found[-1] == mask).any())
    assert all(torch.equal(a, b) for a, b in zip(found, tokens_of(pipe), strict=True))  # by the generator
    assert not torch.equal(found[-1], tokens_of(pipe, 1)[-1])
    if given.get("eta") == 1.0:
        assert bool(((early != mask) & (early != found[-1])).any())


@pytest.mark.slow
def test_it_is_searched_and_resumed(tmp_path: Path) -> None:
    pipe = token_pipeline()
    pipe.scheduler = genscale.RemaskingScheduler.from_config(pipe.scheduler.config, eta=0.5)
    plain = pipe("a cat", generator=fresh(), **CALL).images[0]

    def search(n: int, out: Path | None) -> Any:
        with pytest.warns(UserWarning, match="called as a whole"):
            return genscale.scale(pipe, "best_of_n", brightness, candidates=n, out=out).search(
                "a cat", generator=fresh(), **CALL
            )

    whole = search(4, None)
    assert same(whole.media([whole.base()])[0], plain)
    search(4, tmp_path)
    again = search(4, tmp_path)
    assert [e.total for e in again.ranking()] == [e.total for e in whole.ranking()]
    assert again.ledger.nfe == 0
    assert len({e.total for e in whole.ranking()}) > 1


@pytest.mark.slow
def test_it_is_an_arm_by_name() -> None:
    pipe = token_pipeline()
    arms = genscale.scale(
        pipe, "arms", brightness, arms=[{}, {"scheduler": "RemaskingScheduler"}], candidates=4
    )
    with pytest.warns(UserWarning, match="called as a whole"):
        found = arms.search("a cat", generator=fresh(), **CALL)
    assert len(found.ranking()) == 4
    other = genscale.load_pipeline("shapes-flow")
    with pytest.raises(UsageError, match=r"masks tokens again, and .* makes no tokens"):
        genscale.scale(other, "arms", brightness, arms=[{"scheduler": "RemaskingScheduler"}], candidates=1)(
            "a", num_inference_steps=2
        )


def test_it_is_saved_copied_and_pickled(tmp_path: Path) -> None:
    made = genscale.RemaskingScheduler(mask_token_id=31, rule="cap", loop=LOOP)
    made.save_pretrained(tmp_path)
    for other in (
        genscale.RemaskingScheduler.from_pretrained(tmp_path),
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made),
    ):
        assert type(other) is genscale.RemaskingScheduler
        assert (other.config.rule, tuple(other.config.loop), other.config.eta) == ("cap", LOOP, None)
