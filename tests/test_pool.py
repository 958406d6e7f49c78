"""A budget that prompts share: exact against enumeration, never exceeded, the same in any batch and after a kill."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch

from genscale.engine.budget import Budget
from genscale.engine.pool import check_pool
from genscale.engine.pool_gains import Seen, from_probabilities, from_scores, gains_for
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import BudgetExhausted, UsageError
from genscale.protocol.interfaces import SamplerHooks
from genscale.protocol.particles import draw
from genscale.protocol.queries import Ask, Score, Solve
from genscale.samplers.best_of_n import BestOfN
from tests.analytic import SAMPLERS, Run, first_coordinate, run
from tests.quick import third
from tests.shared_budget import Discrete, best_allocation, greedy, known, sequential
from tests.test_resume import check_killed

ASKING = [name for name, sampler in SAMPLERS.items() if SamplerHooks.of(sampler).asks]
STEPS = 6  # NFE of a candidate on the bed

HARD = Discrete((0.0, 1.0), (0.8, 0.2))
EASY = Discrete((0.9, 1.0), (0.5, 0.5))
WIDE = Discrete((0.0, 0.5, 2.0), (0.5, 0.4, 0.1))


def laws_of(rng: random.Random, n: int, most: int = 3) -> list[Discrete]:
    found = []
    for _ in range(n):
        k = rng.randrange(1, most + 1)
        weights = [rng.random() for _ in range(k)]
        values = tuple(rng.choice((rng.random(), rng.gauss(0, 2))) for _ in range(k))
        found.append(Discrete(values, tuple(w / sum(weights) for w in weights)))
    return found


class Table:
    """A verifier whose n-th answer for a prompt is given beforehand."""

    def __init__(self, scores: list[tuple[float, ...]]) -> None:
        self.scores, self.asked = scores, Counter[int]()

    def __call__(self, media: Any, prompts: Any) -> list[float]:
        found = []
        for prompt in prompts:
            i = int(prompt.removeprefix("prompt "))
            found.append(self.scores[i][self.asked[i]])
            self.asked[i] += 1
        return found


class Probability:
    """A verifier that says how likely an image is right, from its first coordinate."""

    answers_probability = True

    def __call__(self, media: Any, prompts: Any) -> Any:
        return torch.sigmoid(2 * first_coordinate(media, prompts))


def by_prompt(media: Any, prompts: Any) -> Any:
    """The first coordinate, on a scale that depends on the prompt: the later ones have more to gain."""
    scale = torch.tensor([1.0 + 4 * int(prompt.removeprefix("prompt ")) for prompt in prompts])
    return first_coordinate(media, prompts) * scale


class Drawn:
    """A verifier that draws the scores of each prompt from its law, by choices that begin as given, then are the first.

    chance: probability of all choices so far.
    """

    def __init__(self, laws: list[Discrete], choices: list[int]) -> None:
        self.laws, self.choices, self.drawn, self.chance = laws, choices, [], 1.0

    def __call__(self, media: Any, prompts: Any) -> list[float]:
        found = []
        for prompt in prompts:
            law, n = self.laws[int(prompt.removeprefix("prompt "))], len(self.drawn)
            self.drawn.append((self.choices[n] if n < len(self.choices) else 0, len(law.values)))
            found.append(law.values[self.drawn[-1][0]])
            self.chance *= law.chances[self.drawn[-1][0]]
        return found

    def following(self) -> list[int] | None:
        """The choices after these, in order; None after the last."""
        left = list(self.drawn)
        while left and left[-1][0] + 1 == left[-1][1]:
            left.pop()
        return [i for i, _ in left[:-1]] + [left[-1][0] + 1] if left else None


def expected(laws: list[Discrete], each: int, **pool: Any) -> float:
    """The expected sum of best scores of a shared budget of `each` candidates a prompt, one a round; all outcomes."""
    total, choices = 0.0, []
    while choices is not None:
        drawn = Drawn(laws, choices)
        made = run(
            BestOfN(), budget=Budget(nfe=each), prompts=len(laws), steps=1, verifier=drawn, pool=True, together=1,
            **pool,
        )  # fmt: skip
        assert len(drawn.drawn) == each * len(laws) == sum(s.spent for s in made.searches)
        total += drawn.chance * sum(w.total for w in made.winners)
        choices = drawn.following()
    return total


# ---------------------------------------------------------------- known laws


def test_gains_of_a_discrete_law_are_those_of_enumeration() -> None:
    for seed in range(20):
        [law] = laws_of(random.Random(seed), 1)
        for best in (*law.values, 0.3):
            for k in (1, 2, 3):
                exact = law.best_of(k, best) - law.best_of(k - 1, best)
                assert law.gain(best, k) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("units", [1, 3, 4])
def test_a_round_is_the_best_allocation(units: int) -> None:
    """The grants of one round, made by the engine, reach what the best of all allocations reaches; an even one less."""
    better = 0
    for seed in range(12):
        rng = random.Random(seed)
        laws = laws_of(rng, 3)
        firsts = [rng.choice(law.values) for law in laws]
        outcome = [(first, *[min(law.values) - 1] * 9) for first, law in zip(firsts, laws, strict=True)]
        made = run(
            BestOfN(), budget=Budget(nfe=2), prompts=3, steps=1, verifier=Table(outcome), pool=True,
            gains=known(laws), together=3,
        )  # fmt: skip
        counts = [s.finished - 1 for s in made.searches]
        assert sum(counts) == 3
        reached = sum(law.best_of(n, b) for law, n, b in zip(laws, counts, firsts, strict=True))
        assert reached == pytest.approx(best_allocation(laws, firsts, 3), abs=1e-12)
        even = sum(law.best_of(1, b) for law, b in zip(laws, firsts, strict=True))
        better += reached > even + 1e-9
        gains = [law.gain(b, k) for law, b in zip(laws, firsts, strict=True) for k in range(1, units + 1)]
        greedy_sum = sum(firsts) + sum(sorted(gains)[-units:])
        assert greedy_sum == pytest.approx(best_allocation(laws, firsts, units), abs=1e-12)
    assert better >= 6


def test_greedy_is_the_best_sequential_policy() -> None:
    """Against dynamic programming over all policies; drawing in turn is worse."""
    worse = 0
    for seed in range(25):
        laws = laws_of(random.Random(seed), 3)
        best = sequential(laws, 4)
        assert sequential(laws, 4, greedy(laws)) == pytest.approx(best, abs=1e-12)
        worse += sequential(laws, 4, lambda bests, left: left % 3) < best - 1e-6
    assert worse >= 15


@pytest.mark.parametrize(("laws", "each"), [((HARD, EASY), 3), ((EASY, HARD, HARD), 2), ((WIDE, EASY), 2)])
def test_the_engine_is_the_best_sequential_policy(laws: tuple[Discrete, ...], each: int) -> None:
    """All outcomes, each run by the engine: the mean is the value of the best policy, to round-off.

    The broken twin, to which every prompt is as good as any other, gains no more than even budgets do.
    """
    best = sequential(laws, (each - 1) * len(laws))
    even = sum(law.best_of(each) for law in laws)
    assert expected(list(laws), each, gains=known(laws)) == pytest.approx(best, abs=1e-12)
    assert expected(list(laws), each, gains=uniform) == pytest.approx(even, abs=1e-12)
    assert best > even + 0.02


def uniform(seen: Any) -> Any:
    return [lambda k: 1.0 for _ in seen]


# ---------------------------------------------------------------- gains from scores


def test_probabilities() -> None:
    """Prompt 0: .5 of one candidate; prompt 1: .1 and .3 of two, and one unit that finished nothing."""
    seen = [Seen((0.5,), 1), Seen((0.1, 0.3), 3)]
    centre = (0.5 + 0.4 / 3) / 2
    rates = [(0.5 + 2 * centre) / 3, (0.4 + 2 * centre) / 5]
    for gain, rate, best in zip(from_probabilities(seen), rates, (0.5, 0.3), strict=True):
        for k in (1, 2, 3):
            assert gain(k) == pytest.approx(rate * (1 - rate) ** (k - 1) * (1 - best))
    [sure] = from_probabilities([Seen((1.0, 0.2), 2)])
    assert sure(1) == 0


def test_a_rate_of_many_candidates_is_their_mean() -> None:
    """Then gains are those of the law in which a candidate is right so often, and nothing is doubted."""
    law = Discrete((0.0, 1.0), (0.7, 0.3))
    scores = (0.3,) * 20000
    [gain, other] = from_probabilities([Seen(scores, 20000), Seen((0.0,) * 5, 5)])
    for k in (1, 2, 5):
        assert gain(k) == pytest.approx(
            0.7 * law.gain(0.0, k), rel=1e-4
        )  # the best of it is right with .3 already
    assert 0 < other(1) < 0.1  # none of five was right, while .3 of others are


def test_a_prompt_without_a_finished_candidate() -> None:
    """It has the law of all, and its first candidate counts in full."""
    none, some = from_probabilities([Seen((), 2), Seen((0.8,), 1)])
    assert none(1) == pytest.approx((0 + 2 * 0.4) / 4)
    assert some(1) == pytest.approx(0.2 * (0.8 + 2 * 0.4) / 3)
    scores = [Seen((), 2), Seen((1.0, 3.0), 2), Seen((0.0, 1.0), 2)]
    [first, *_] = from_scores(scores)
    assert first(1) > max(gain(1) for gain in from_scores(scores)[1:])
    assert [gain(2) for gain in from_scores([Seen((), 1), Seen((), 1)])] == [0.5, 0.5]


def test_which_estimate_is_used() -> None:
    def judge(*members: Any) -> VerifierSet:
        return VerifierSet(tuple(WeightedVerifier(str(i), v, w) for i, (v, w) in enumerate(members)))

    assert gains_for(judge((Probability(), 1.0))) is from_probabilities
    assert gains_for(judge((Probability(), 2.0))) is from_scores  # its total is no probability
    assert gains_for(judge((Probability(), 1.0), (first_coordinate, 1.0))) is from_scores
    assert gains_for(judge((first_coordinate, 1.0))) is from_scores


def test_the_engine_asks_the_estimate_that_suits_the_verifier() -> None:
    """Two prompts with probabilities .5 and .98: the first has more to gain. As scores the second may be as good."""

    class Two(Table):
        answers_probability = True

    scores = [(0.5,) * 9, (0.98,) * 9]
    settings: dict[str, Any] = {
        "budget": Budget(nfe=4),
        "prompts": 2,
        "steps": 1,
        "pool": True,
        "together": 1,
    }
    asked = [s.finished for s in run(BestOfN(), verifier=Two(scores), **settings).searches]
    plain = [s.finished for s in run(BestOfN(), verifier=Table(scores), **settings).searches]
    assert asked == [7, 1]
    assert plain != asked
    assert sum(plain) == 8


def test_ties_go_to_the_prompt_that_spent_less() -> None:
    made = run(BestOfN(), budget=Budget(nfe=24), prompts=3, verifier=lambda media, prompts: [1.0] * len(prompts),
               pool=True)  # fmt: skip
    assert [s.finished for s in made.searches] == [4, 4, 4]


@pytest.mark.parametrize("estimate", [from_scores, from_probabilities])
def test_gains_do_not_rise(estimate: Any) -> None:
    rng = random.Random(4)
    for _ in range(30):
        seen = [Seen(tuple(rng.random() for _ in range(rng.randrange(1, 6))), 6) for _ in range(4)]
        for gain in estimate(seen):
            gains = [gain(k) for k in range(1, 9)]
            assert gains == sorted(gains, reverse=True)
            assert gains[-1] >= 0


# ---------------------------------------------------------------- any sampler that asks

PROMPTS = 5


def pooled(name: str, nfe: int = 60, **more: Any) -> Run:
    settings = {
        "budget": Budget(nfe=nfe),
        "prompts": PROMPTS,
        "verifier": differentiable(by_prompt),
        "pool": True,
    }
    return run(SAMPLERS[name], **settings | more)


def differentiable(verifier: Any) -> Any:
    def score(media: Any, prompts: Any) -> Any:
        return verifier(media, prompts)

    def score_tensor(pixels: Any, prompts: Any) -> Any:
        scale = torch.tensor([1.0 + 4 * int(prompt.removeprefix("prompt ")) for prompt in prompts])
        return pixels[:, 0, 0, 0] * scale

    score.score_tensor = score_tensor  # type: ignore[attr-defined]
    return score


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("nfe", [STEPS, 25, 60])
def test_the_total_is_kept_to_the_unit(name: str, nfe: int) -> None:
    made = pooled(name, nfe)
    spent = [s.spent for s in made.searches]
    assert sum(spent) == made.ledger.nfe <= nfe * PROMPTS
    open_ended = all(getattr(SAMPLERS[name], size, None) is None for size in ("candidates", "paths"))
    if open_ended and not all(s.accepted for s in made.searches):
        assert nfe * PROMPTS - sum(spent) < STEPS, "there was room for one more candidate"
    assert all(s.finals for s in made.searches)
    assert all(s.query is None for s in made.searches)
    assert all(s.allowance.nfe >= s.spent for s in made.searches)
    assert sum(s.calls for s in made.searches) == sum(made.ledger.verifier_calls.values())


@pytest.mark.parametrize("name", [n for n in ASKING if "until" in n or n == "dfs"])
def test_prompts_get_different_shares(name: str) -> None:
    spent = [s.spent for s in pooled(name).searches]
    assert len(set(spent)) > 1
    assert max(spent) > 60 > min(spent) >= STEPS


def test_verifier_calls_are_shared() -> None:
    made = pooled("best_of_n until the budget ends", budget=Budget(verifier_calls=4))
    assert sum(s.calls for s in made.searches) == 4 * PROMPTS
    assert max(s.calls for s in made.searches) > 4
    both = pooled("dfs", budget=Budget(nfe=60, verifier_calls=9))
    assert sum(s.calls for s in both.searches) <= 9 * PROMPTS
    assert sum(s.spent for s in both.searches) <= 60 * PROMPTS


@pytest.mark.parametrize("name", ASKING)
def test_the_batch_size_changes_nothing(name: str) -> None:
    runs = [pooled(name, batch_size=n, churn=0.3) for n in (1, 5, 64)]
    for other in runs[1:]:
        assert [w.candidate for w in other.winners] == [w.candidate for w in runs[0].winners]
        assert [(s.spent, s.calls, s.allowance) for s in other.searches] == [
            (s.spent, s.calls, s.allowance) for s in runs[0].searches
        ]
        for a, b in zip(other.searches, runs[0].searches, strict=True):
            assert [e.candidate for e in a.finals] == [e.candidate for e in b.finals]
            assert [e.total for e in a.finals] == pytest.approx([e.total for e in b.finals], abs=1e-5)


def test_one_prompt_has_the_same_search_as_without_pool() -> None:
    for name in ("best_of_n until the budget ends", "best_of_n"):
        alone = run(SAMPLERS[name], budget=Budget(nfe=100))
        shared = run(SAMPLERS[name], budget=Budget(nfe=100), pool=True)
        assert [(e.candidate, e.total) for e in shared.searches[0].finals] == [
            (e.candidate, e.total) for e in alone.searches[0].finals
        ]


def test_candidates_are_those_of_even_budgets() -> None:
    """Sharing changes how many candidates a prompt has, not which."""
    even = pooled("best_of_n until the budget ends", pool=False)
    for a, b in zip(pooled("best_of_n until the budget ends").searches, even.searches, strict=True):
        n = min(a.finished, b.finished)
        assert [e.candidate for e in a.finals[:n]] == [e.candidate for e in b.finals[:n]]
        assert [e.total for e in a.finals[:n]] == pytest.approx([e.total for e in b.finals[:n]], abs=1e-5)


def test_without_pool_an_ask_is_answered_at_once() -> None:
    answers = []

    class Asking(BestOfN):
        def search(self, process: Any, key: Any) -> Any:
            answers.append((yield Ask(10**9, most=3)))
            yield from super().search(process, key)

    made = run(Asking(2), budget=Budget(nfe=30))
    assert (answers, made.searches[0].finished) == ([3], 2)


def test_what_is_not_used_goes_back() -> None:
    """Units that ask for four candidates and make one: all of the budget is spent on single ones."""

    class Cautious(BestOfN):
        def search(self, process: Any, key: Any) -> Any:
            for i in range(100):
                yield Ask(4 * process.nfe())
                yield Score((yield Solve(process.start([draw(key, i)]))))

    made = run(Cautious(), budget=Budget(nfe=60), prompts=2, pool=True)
    assert (
        sum(s.finished for s in made.searches) == 17
    )  # 20, less the three that a unit still asks for at the end


def test_kept_is_not_taken_back() -> None:
    """A search that keeps what a second candidate costs can make it after it was denied more."""

    class Keeping(BestOfN):
        keep = STEPS

        def search(self, process: Any, key: Any) -> Any:
            yield Ask(2 * process.nfe())
            yield Score((yield Solve(process.start([draw(key, 0)]))))
            try:
                yield Ask(10**6, keep=self.keep)
            except BudgetExhausted:
                yield Score((yield Solve(process.start([draw(key, 1)]))))

    assert [s.finished for s in run(Keeping(), budget=Budget(nfe=20), prompts=2, pool=True).searches] == [
        2,
        2,
    ]
    Keeping.keep = 0
    assert [s.finished for s in run(Keeping(), budget=Budget(nfe=20), prompts=2, pool=True).searches] == [
        1,
        1,
    ]


def test_a_search_that_keeps_enough_to_finish_may_get_more_than_its_share() -> None:
    """Prompt 0 rejects its first paths half way, and keeps what finishing the last one takes; prompt 1 is content."""

    class Rejecting(BestOfN):
        def search(self, process: Any, key: Any) -> Any:
            keep, half = 0, None
            try:
                for i in range(20):
                    yield Ask(process.nfe(), keep=keep)
                    half = yield Solve(process.start([draw(key, i)]), 3)
                    if process.prompt == "prompt 1" or i == 9:
                        yield Score((yield Solve(half)))
                        return
                    keep = process.nfe(3)
            except BudgetExhausted:
                yield Score((yield Solve(half)))

    made = run(Rejecting(), budget=Budget(nfe=20), prompts=2, pool=True)
    assert [s.spent for s in made.searches] == [9 * 3 + 3, 6]  # its share is 20; a tenth needs 6
    assert [s.finished for s in made.searches] == [1, 1]
    short = run(Rejecting(), budget=Budget(nfe=14), prompts=2, pool=True)
    assert [s.spent for s in short.searches] == [5 * 3 + 3, 6]  # its share is 14
    assert [s.finished for s in short.searches] == [1, 1]


def test_a_bad_ask_is_an_error_where_it_is_made() -> None:
    for wrong in ({"nfe": -1}, {"nfe": 1, "calls": -1}, {"nfe": 1, "most": 0}, {"nfe": 1, "keep": -1}):
        with pytest.raises(ValueError, match="asks for less than nothing"):
            Ask(**wrong)


# ---------------------------------------------------------------- with other reasons to end


def test_what_a_target_saves_goes_to_the_others() -> None:
    verifier = Table([(1.0,) * 99, (0.0,) * 99])
    made = run(BestOfN(wave=2), budget=Budget(nfe=30, target=0.5), prompts=2, verifier=verifier, pool=True)
    assert [s.finished for s in made.searches] == [1, 9]
    assert made.searches[0].stopped
    assert not made.searches[1].stopped


def test_a_prompt_whose_candidates_fail_uses_its_share_and_no_more() -> None:
    verifier = Table([(math.nan,) * 99, (0.0, 1.0) * 40])
    made = run(BestOfN(), budget=Budget(nfe=30), prompts=2, verifier=verifier, pool=True)
    failing, other = made.searches
    assert (failing.finals, failing.spent) == ([], 30)
    assert other.spent == 30
    assert len(failing.dropped) == 5


def test_seconds_end_a_pooled_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row takes a second a step: 100 seconds pay for 16 of the 50 candidates."""
    import genscale.engine.archive

    now = [0.0]
    monkeypatch.setattr(genscale.engine.archive.time, "monotonic", lambda: now[0])

    def work(batch: Any, rows: Any) -> None:
        now[0] += len(rows)

    made = pooled(
        "best_of_n until the budget ends", budget=Budget(nfe=60, seconds=100), on_batch=work, batch_size=4
    )
    assert now[0] <= 100
    assert sum(s.finished for s in made.searches) in (15, 16)
    assert all(s.finals and s.query is None for s in made.searches)


def test_rules_end_a_pooled_search() -> None:
    made = pooled("best_of_n until the budget ends", 600, stop="patience:3")
    assert all(s.stopped for s in made.searches)
    assert sum(s.spent for s in made.searches) < 600 * PROMPTS


def test_every_prompt_gets_its_results_before_others_get_more() -> None:
    order: list[int] = []
    made = pooled(
        "best_of_n until the budget ends",
        24,
        on_event=lambda e: order.extend([e.entry.prompt] if hasattr(e, "entry") else []),
    )
    assert sorted(order[:PROMPTS]) == list(range(PROMPTS))
    assert sum(s.finished for s in made.searches) == 4 * PROMPTS


# ---------------------------------------------------------------- killed and resumed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", third(ASKING))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kill_and_resume(tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"prompts": 3, "pool": True, "budget": Budget(nfe=60)}
    check_killed(name, tmp_path, 3, ("spent", "calls", "allowance"), **settings)


# ---------------------------------------------------------------- worth


def gain_over_even(gains: Any = None, seeds: int = 40) -> tuple[float, float]:
    """Mean gain in the sum of best scores over even budgets, and half of its 95 % interval; paired by seed."""
    laws, found = [HARD, HARD, EASY, EASY], []
    for seed in range(seeds):
        rng = random.Random(seed)
        scores = [tuple(rng.choices(law.values, law.chances)[0] for _ in range(40)) for law in laws]
        totals = [
            sum(w.total for w in run(BestOfN(), budget=Budget(nfe=6), prompts=4, steps=1, verifier=Table(scores),
                                     pool=pool, gains=gains).winners)
            for pool in (True, False)
        ]  # fmt: skip
        found.append(totals[0] - totals[1])
    return mean(found), 1.96 * stdev(found) / math.sqrt(seeds)


def test_a_shared_budget_gains_over_even_ones() -> None:
    """Laws are unknown here: the normal fit has to find out who has more to gain. The uniform twin gains nothing."""
    gain, width = gain_over_even()
    assert gain > width
    nothing, _ = gain_over_even(uniform, 5)
    assert nothing == 0


# ---------------------------------------------------------------- refusals


def test_what_cannot_be_shared_is_refused() -> None:
    roles = Roles(VerifierSet((WeightedVerifier("a", first_coordinate),)))
    ranks = Roles(VerifierSet((WeightedVerifier("a", first_coordinate),), "rank"))
    for name, sampler in SAMPLERS.items():
        if name in ASKING:
            check_pool(sampler, Budget(images=4), roles)
        else:
            with pytest.raises(UsageError, match=r"cannot share .* as it is set here.*best_of_n, .*dfs"):
                check_pool(sampler, Budget(images=4), roles)
    for budget in (Budget(), Budget(seconds=3), Budget(target=1.0)):
        with pytest.raises(UsageError, match="has nothing to share: give one such as 4images"):
            check_pool(BestOfN(), budget, roles)
    for wrong in (ranks, Roles()):
        with pytest.raises(UsageError, match="pool compares the scores of different prompts"):
            check_pool(BestOfN(), Budget(images=4), wrong)
