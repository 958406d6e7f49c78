"""Stop rules: what they say of a sequence of scores, and that a search stops there, whatever else goes on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import genscale
from genscale.algorithms.leftover_budget import spend_leftover_budget
from genscale.engine.budget import Budget
from genscale.engine.events import Scored
from genscale.engine.ledger import Ledger
from genscale.engine.plan import plan
from genscale.engine.stopping import (
    AdaptiveN,
    MarginalGain,
    Patience,
    Stop,
    Stopped,
    Target,
    first_stop,
    kl_of_best,
)
from genscale.errors import UsageError
from genscale.numerics.truncated_normal import Truncated
from genscale.protocol.particles import draw
from genscale.protocol.queries import Score, Solve
from genscale.results.result import SearchResult
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.dno import Dno
from tests.analytic import SAMPLERS, process_of, run
from tests.quick import third
from tests.test_budget import ROLES
from tests.zoo import ZOO

INF = math.inf

# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("patience:8", [Patience(8)]),
        ("gain:0.02", [MarginalGain(0.02)]),
        ("gain:.01sd", [MarginalGain(0.01, "sd")]),
        ("gain:1e-3sd:peek=16:range=0..1", [MarginalGain(0.001, "sd", 16, range=(0, 1))]),
        ("gain:0.1:most=99", [MarginalGain(0.1, most=99)]),
        ("adaptive:0.9", [AdaptiveN(0.9)]),
        ("adaptive:-2.5:p=0.1:peek=3:most=8:range=-5..", [AdaptiveN(-2.5, 0.1, 3, 8, (-5, INF))]),
        (" Patience: 4 , adaptive:1:range=..2 ", [Patience(4), AdaptiveN(1, range=(-INF, 2))]),
    ],
)
def test_what_is_read(text: str, rules: list[Any]) -> None:
    stop = Stop.parse(text)
    assert stop == Stop(tuple(rules)) == Stop.of(rules) == Stop.of(text) == Stop.of(stop)
    assert Stop.parse(str(stop)) == stop
    if len(rules) == 1:
        assert Stop.of(rules[0]) == stop


BAD = ["", "patience", "patience:", "patience:4.5", "patience:many", "pateince:8", "gain:", "gain:0.1sds", "gain:1:2",
       "adaptive:x", "patience:8,", ",", "8", "patience:8 gain:1", "target=1", "patience:8:peek=3", "gain:1:p=0.1",
       "gain:1:peek=x", "gain:1:range=1", "gain:1:range=a..b", "gain:1:peek=4:peek=5", "adaptive:nan",
       "gain:1:peek"]  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match=r"stop '.*(cannot read|twice)") as caught:
        Stop.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Patience(0), "at least 1"),
        (lambda: Stop.parse("patience:-3"), "at least 1"),
        (lambda: MarginalGain(0), "above 0"),
        (lambda: MarginalGain(INF), "above 0"),
        (lambda: MarginalGain(math.nan), "above 0"),
        (lambda: MarginalGain(0.1, "sigma"), "one of score, sd"),
        (lambda: MarginalGain(0.1, peek=1), "no spread"),
        (lambda: MarginalGain(0.1, most=7), "at least its peek=8"),
        (lambda: MarginalGain(0.1, range=(1, 0)), "increasing"),
        (lambda: Stop.parse("gain:1:range=1..1"), "increasing"),
        (lambda: AdaptiveN(INF), "finite"),
        (lambda: AdaptiveN(0.9, p=0), "between 0 and 1"),
        (lambda: AdaptiveN(0.9, p=1), "between 0 and 1"),
        (lambda: AdaptiveN(0.9, most=4), "at least its peek=5"),
        (lambda: Stop.of(8), "not a stop rule"),
        (lambda: Stop.of([Patience(3), None]), "not a stop rule"),
    ],
)
def test_what_makes_no_rule(make: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        make()


def test_nothing_is_no_stop() -> None:
    assert Stop.of(None) is None
    assert Stop.of([]) is None


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("k", "totals", "after"),
    [
        (1, [3, 2], 2),
        (1, [1, 2, 3, 3], 4),  # an equal score is no improvement
        (2, [1, 2, 0, 2, 9], 4),
        (3, [1, 0, 0, 2, 1, 1, 3, 0, 0, 0, 9], 10),
        (3, [1, 0, 0, 2, 1, 1], None),
        (2, [-5], None),
        (2, [0, 0, 0], 3),
    ],
)
def test_patience(k: int, totals: list[float], after: int | None) -> None:
    found = first_stop([Patience(k)], totals)
    assert found == (None if after is None else Stopped(f"patience:{k}", after))


def test_the_first_rule_to_say_so_is_named() -> None:
    totals = [0.0, 0.1, 0.0, 0.0, 0.9]
    assert first_stop([Target(0.9), Patience(2)], totals) == Stopped("patience:2", 4)
    assert first_stop([Target(0.1), Patience(2)], totals) == Stopped("target=0.1", 2)
    assert first_stop([Target(0.1)], totals, seen=2) == Stopped("target=0.1", 5)
    assert first_stop([Target(1.0), Patience(9)], totals) is None
    assert first_stop([], totals) is None


def normal_gain(totals: Sequence[float]) -> float:
    """Expected improvement under a normal law, in its usual form."""
    mean, std = np.mean(totals), np.std(totals)
    z = (mean - max(totals)) / std
    return float(std * (stats.norm.pdf(z) + z * stats.norm.cdf(z)))


def test_the_marginal_gain_stops_where_its_formula_says() -> None:
    rng = np.random.default_rng(0)
    for least in (0.3, 0.05, 0.01):
        for unit in ("score", "sd"):
            totals = (2 * rng.normal(size=120) + 7).tolist()
            gains = [
                normal_gain(totals[:n]) / (np.std(totals[:n]) if unit == "sd" else 1) for n in range(8, 121)
            ]
            wanted = next((n for n, gain in enumerate(gains, 8) if gain < least), None)
            found = first_stop([MarginalGain(least, unit)], totals)
            assert (found and found.after) == wanted
    # Of a law that ends at 1 nothing is to be gained there, while a normal one would go on.
    totals = [0.7, 0.9, 0.95, 0.8, 1.0, 0.99, 0.6, 0.97]
    assert MarginalGain(1e-9, range=(0, 1)).stops(totals)
    assert not MarginalGain(1e-9).stops(totals)


def test_the_marginal_gain_is_patient_at_first_and_ends_in_any_case() -> None:
    assert first_stop([MarginalGain(0.1)], [0.0] * 20) == Stopped("gain:0.1", 8)
    assert first_stop([MarginalGain(0.1, peek=12)], [0.0] * 20) == Stopped("gain:0.1:peek=12", 12)
    rising = [float(i) for i in range(300)]  # one more is always worth as much
    assert first_stop([MarginalGain(0.05)], rising) == Stopped("gain:0.05", 256)
    assert first_stop([MarginalGain(0.05, most=40)], rising[:39]) is None


def test_adaptive_n_takes_n_from_the_first_scores_alone() -> None:
    first = [0.42, 0.55, 0.48, 0.6, 0.51]
    for target, p, bounds in ((0.7, 0.05, (0, 1)), (0.62, 0.01, (-INF, INF)), (0.65, 0.1, (0.0, INF))):
        rule = AdaptiveN(target, p, range=bounds)
        law = Truncated.fit(first, *bounds)
        width = law.precision**-0.5
        centre = law.anchor + law.slope / law.precision
        known = stats.truncnorm((bounds[0] - centre) / width, (bounds[1] - centre) / width, centre, width)
        n = next(n for n in range(1, 10**5) if known.ppf(p ** (1 / n)) >= target)
        assert rule.chosen(first) == min(64, max(5, n))
        for later in ([0.0] * 80, [1.0] * 80):  # a score by luck changes nothing, as published
            found = first_stop([rule], first + later)
            assert found is not None
            assert found.after == min(64, max(5, n))
    assert first_stop([AdaptiveN(0.4)], first) == Stopped("adaptive:0.4", 5)
    assert AdaptiveN(5.0, range=(0, 1)).chosen(first) == 64  # nothing reaches it
    assert AdaptiveN(0.9, peek=3, most=8).chosen(first[:3]) == 8


def test_adaptive_n_keeps_its_promise_and_without_a_fit_it_would_not() -> None:
    """Where the law is known well, the target is missed by at most a share p; with the N of the twin by far more."""
    p, target, runs, rng = 0.1, 0.9, 1500, np.random.default_rng(5)
    known = stats.truncnorm((0 - 0.6) / 0.15, (1 - 0.6) / 0.15, 0.6, 0.15)
    misses = {"fit": 0, "twin": 0}
    rule = AdaptiveN(target, p, peek=200, most=10**6, range=(0, 1))
    for _ in range(runs):
        peek = known.rvs(200, random_state=rng)
        for kind, n in (
            ("fit", Truncated.fit(peek.tolist(), 0, 1).needed(target, p)),
            ("twin", Truncated.of(0.5, 0.3, 0, 1).needed(target, p)),  # the law is not looked at
        ):
            misses[kind] += bool(known.rvs(int(n), random_state=rng).max() < target)
    assert rule.chosen([0.6, 0.5] * 100) >= 200
    error = 4 * math.sqrt(p * (1 - p) / runs)
    assert misses["fit"] / runs == pytest.approx(p, abs=error + 0.03)  # N is a whole number, and estimated
    assert misses["twin"] / runs > p + error + 0.03


# ---------------------------------------------------------------- in a search

STOPS = ("patience:4", "gain:0.05sd", "adaptive:1.5:peek=4:most=20")
OPEN = BestOfN(wave=3)


def outcome(made: Any) -> Any:
    return [
        (
            s.stopped,
            s.finished,
            s.spent,
            s.calls,
            [(e.candidate, e.total) for e in s.finals],
            s.best().candidate,
        )
        for s in made.searches
    ]


@pytest.mark.parametrize("stop", STOPS)
def test_a_search_ends_with_the_wave_in_which_a_rule_says_so(stop: str) -> None:
    whole = run(BestOfN(256)).searches[0]
    totals = [e.total for e in whole.finals]
    wanted = first_stop(Stop.parse(stop).rules, totals)
    assert wanted is not None
    for wave in (1, 2, 5, 16):
        search = run(BestOfN(wave=wave), stop=stop).searches[0]
        assert search.stopped == wanted  # the decision does not depend on the wave, what is in flight does
        assert search.finished == math.ceil(wanted.after / wave) * wave
        assert search.spent == 6 * search.finished
        assert [e.candidate for e in search.finals] == [e.candidate for e in whole.finals][: search.finished]


@pytest.mark.parametrize("name", third(SAMPLERS))
def test_every_sampler_can_be_stopped(name: str) -> None:
    budget = Budget(nfe=240)
    whole = run(SAMPLERS[name], budget=budget, prompts=2)
    made = run(SAMPLERS[name], budget=budget, prompts=2, stop="patience:3")
    alone = run(SAMPLERS[name], budget=budget, stop="patience:3", batch_size=64)
    assert outcome(alone) == outcome(made)[:1]
    for old, new in zip(whole.searches, made.searches, strict=True):
        totals = [e.total for e in old.finals]
        assert new.stopped == first_stop([Patience(3)], totals)
        assert [e.candidate for e in new.finals] == [e.candidate for e in old.finals][: new.finished]
        assert new.spent <= old.spent <= 240
        if new.stopped is None:
            assert outcome(made)[new.index] == outcome(whole)[new.index]
        elif old.population is not None:
            assert new.population is not None  # what was found by then is weighed


@pytest.mark.parametrize("name", third(SAMPLERS))
def test_without_a_budget_a_rule_ends_what_a_budget_would(name: str) -> None:
    search = run(SAMPLERS[name], stop="patience:3").searches[0]
    if SAMPLERS[name].cost(search.process) is None:
        assert search.stopped is not None
        assert search.stopped.after <= search.finished
    whole = run(SAMPLERS[name], budget=Budget(seconds=1e9), stop="patience:3").searches[0]
    assert whole.stopped == search.stopped


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("name", ["best_of_n until the budget ends", "zero_order", "smc", "dts_star"])
def test_the_batch_size_and_the_company_change_nothing(name: str, stop: str) -> None:
    made = [run(SAMPLERS[name], stop=stop, prompts=3, batch_size=n) for n in (1, 2, 5)]
    assert outcome(made[0]) == outcome(made[1]) == outcome(made[2])
    alone = run(SAMPLERS[name], stop=stop, batch_size=1)
    assert outcome(alone) == outcome(made[0])[:1]


def test_prompts_stop_each_for_itself() -> None:
    made = run(replace(OPEN, wave=1), stop="patience:4", prompts=6)
    ends = [s.stopped.after for s in made.searches]
    assert len(set(ends)) > 2
    for search in made.searches:
        assert search.stopped == first_stop([Patience(4)], [e.total for e in search.finals])
        assert search.finished == search.stopped.after


class CutOff(Exception):
    pass


@pytest.mark.parametrize("name", ["best_of_n until the budget ends", "zero_order", "smc"])
def test_cut_off_at_any_moment_it_stops_at_the_same_place(name: str, tmp_path: Path) -> None:
    """Before each batch, and within each wave of scores: with the archive of that moment it comes to the same end."""
    settings = {"stop": "patience:4", "prompts": 2, "batch_size": 3}
    moments, limit = 0, INF

    def moment(*_: Any) -> None:
        nonlocal moments
        moments += 1
        if moments > limit:
            raise CutOff

    def judged(event: Any) -> None:
        if isinstance(event, Scored):
            moment()

    whole = run(SAMPLERS[name], on_batch=moment, on_event=judged, **settings)
    assert all(s.stopped for s in whole.searches)
    for limit in range(0, moments, 1 + moments // 25):
        folder, moments = tmp_path / str(limit), 0
        with pytest.raises(CutOff):
            run(SAMPLERS[name], on_batch=moment, on_event=judged, folder=folder, **settings)
        assert outcome(run(SAMPLERS[name], folder=folder, **settings)) == outcome(whole)


def test_a_rule_and_a_budget_end_it_whichever_is_first() -> None:
    by_rule = run(OPEN, stop="patience:4", budget=Budget(nfe=6000)).searches[0]
    assert by_rule.stopped is not None
    assert by_rule.spent < 6000
    by_budget = run(OPEN, stop="patience:4", budget=Budget(nfe=6 * by_rule.stopped.after - 6)).searches[0]
    assert by_budget.stopped is None
    assert by_budget.finished == by_rule.stopped.after - 1
    calls = run(OPEN, stop="patience:4", budget=Budget(verifier_calls=2)).searches[0]
    assert (calls.stopped, calls.finished) == (None, 2)
    totals = [e.total for e in by_rule.finals]
    target = run(OPEN, stop="patience:4", budget=Budget(target=totals[1])).searches[0]
    assert target.stopped == Stopped(f"target={totals[1]!r}", 1 + totals.index(max(totals[:2])))


def test_the_score_that_picks_is_looked_at() -> None:
    """Search and select verifiers disagree: it is the select verifier's score that must improve."""
    search = run(replace(OPEN, wave=1), roles=ROLES["another selects"], stop="patience:4").searches[0]
    by_select = [e.select["b"] for e in search.finals]
    assert search.stopped == first_stop([Patience(4)], by_select)
    assert search.stopped != first_stop([Patience(4)], [e.scores["a"] for e in search.finals])


def test_ranks_are_refused() -> None:
    with pytest.raises(
        UsageError, match="stop 'patience:8' needs scores that do not depend on the other candidates"
    ):
        run(OPEN, roles=ROLES["two by rank"], stop="patience:8")


def test_without_verifiers_all_scores_are_equal() -> None:
    from genscale.engine.verifier_roles import Roles

    assert run(replace(OPEN, wave=1), roles=Roles(), stop="patience:4").searches[0].finished == 5


def test_a_rule_of_ones_own() -> None:
    class Seventh:
        def stops(self, totals: Sequence[float]) -> bool:
            return len(totals) == 7

        def __str__(self) -> str:
            return "seventh"

    assert run(OPEN, stop=Seventh()).searches[0].stopped == Stopped("seventh", 7)


def test_a_plan_says_what_is_spent_at_most() -> None:
    parts, roles = process_of(), ROLES["one verifier"]
    stop = Stop.parse("patience:4")
    assert plan(OPEN, parts, Budget(), roles, 1, stop).nfe is None
    assert plan(OPEN, parts, Budget(nfe=100), roles, 1, stop).nfe == 96
    assert (
        plan(BestOfN(9), parts, Budget(), roles, 1, stop).nfe == 54
    )  # although all scores of a plan are equal
    assert plan(OPEN, parts, Budget(), roles, 1).nfe == 96


# ---------------------------------------------------------------- entries in the order of rows


@dataclass(frozen=True)
class Rows:
    """A sampler that scores the candidates that it is told to, in that order."""

    ids: tuple[int, ...]
    needs: ClassVar[frozenset[str]] = frozenset()

    def search(self, process: Any, key: Any) -> Generator[Any, Any, None]:
        yield Score((yield Solve(process.start([draw(key, i) for i in self.ids]))))

    def cost(self, process: Any) -> int | None:
        return None


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_what_is_known_already_comes_in_its_place(tmp_path: Path, batch_size: int) -> None:
    """An earlier life under another budget may have scored any of the rows: their order decides among equals."""
    for n, known in enumerate([(3,), (0, 4), (1, 2, 3), (4,), (0, 1, 2, 3, 4)]):
        folder = tmp_path / str(n)
        run(Rows(known), folder=folder)
        made = run(Rows((0, 1, 2, 3, 4)), folder=folder, batch_size=batch_size, prompts=2)
        for search in made.searches:
            assert [e.candidate.id for e in search.finals] == [0, 1, 2, 3, 4]
        assert made.ledger.decodes == 10 - len(known)


# ---------------------------------------------------------------- how far the best of N is from the model


@pytest.mark.parametrize(
    ("n", "nats"), [(1, 0.0), (4, 0.64), (8, 1.20), (16, 1.84), (128, 3.86), (256, 4.55)]
)
def test_published_divergences(n: int, nats: float) -> None:
    assert round(kl_of_best(n), 2) == nats
    # The rank u of the best of n has the density n u^(n-1); that is all that differs.
    exact = integrate.quad(
        lambda u: n * u ** (n - 1) * (math.log(n) + (n - 1) * math.log(u)) if u else 0.0, 0, 1
    )[0]
    assert kl_of_best(n) == pytest.approx(exact, abs=1e-8)


def divergence(law: np.ndarray, n: int, pick: Any) -> float:
    """KL of the one of n draws that `pick` chooses, by enumeration."""
    chosen = np.zeros(len(law))
    for drawn in itertools.product(range(len(law)), repeat=n):
        chosen[drawn[pick(drawn)]] += np.prod(law[list(drawn)])
    seen = chosen > 0
    return float((chosen[seen] * np.log(chosen[seen] / law[seen])).sum())


def test_no_way_to_pick_one_of_n_goes_further() -> None:
    """Scores with ties, ranks among the pool, any table at all: by enumeration on small spaces."""
    rng, tight = np.random.default_rng(0), 0.0
    for n, k in ((2, 5), (3, 4), (4, 3)):
        for _ in range(15):
            law = rng.dirichlet(np.full(k, 0.3))
            score, other = rng.normal(size=(2, k)).round(1)
            table = {d: rng.integers(n) for d in itertools.product(range(k), repeat=n)}
            picks = (
                lambda d, s=score: int(np.argmax(s[list(d)])),
                lambda d, a=score, b=other: int(np.argmax(sum(stats.rankdata(v[list(d)]) for v in (a, b)))),
                lambda d, t=table: int(t[d]),
                lambda d, w=law: int(np.argmin(w[list(d)])),  # the rarest: far from the model
            )
            shares = [divergence(law, n, pick) / kl_of_best(n) for pick in picks]
            assert max(shares) <= 1
            tight = max(tight, *shares)
    assert tight > 0.75  # so the bound is not just large


def test_a_number_that_the_scores_chose_is_no_bound() -> None:
    """Draw until a rare set is hit: KL = -log P(set), more than the mean of the bounds at the N that it took."""
    chance = 0.02
    mean = sum(chance * (1 - chance) ** (n - 1) * kl_of_best(n) for n in range(1, 3000))
    assert -math.log(chance) > mean + 0.5


def searched(sampler: Any, **settings: Any) -> SearchResult:
    made = run(sampler, **settings)
    return SearchResult(tuple(made.searches), tuple(made.archive.entries), Ledger(), Budget(), 0, lambda e: e)  # type: ignore[arg-type, return-value]


def test_a_result_says_how_far_its_best_may_be() -> None:
    assert searched(BestOfN(16)).kl() == {"candidates": 16, "nats": kl_of_best(16), "bound": True}
    assert searched(BestOfN(), budget=Budget(nfe=27)).kl() == {
        "candidates": 4,
        "nats": kl_of_best(4),
        "bound": True,
    }
    stopped = searched(OPEN, stop="patience:4")
    assert stopped.kl() == {
        "candidates": stopped.searches[0].finished, "nats": kl_of_best(stopped.searches[0].finished), "bound": False,
    }  # fmt: skip
    assert stopped.stopped_by() == stopped.searches[0].stopped
    assert searched(BestOfN(16), budget=Budget(target=99)).kl()["bound"] is False
    for name, sampler in SAMPLERS.items():
        if not name.startswith("best_of_n") or "pruned" in name:
            assert searched(sampler, budget=Budget(nfe=60)).kl() is None
    nothing = searched(BestOfN(), budget=Budget(nfe=5))
    assert nothing.kl() is None


# ---------------------------------------------------------------- on a pipeline


def test_a_pipeline_with_a_rule(tmp_path: Path) -> None:
    pipe = ZOO["stable_diffusion"].build()
    call = ZOO["stable_diffusion"].arguments(2) | {"output_type": "np"}

    def brightness(media: Any, prompts: Any) -> list[float]:
        return [float(np.asarray(m).mean()) for m in media]

    def made(batch_size: int, stop: Any = "patience:2", **more: Any) -> Any:
        scaled = genscale.scale(
            pipe, "best_of_n", brightness, wave=2, stop=stop, batch_size=batch_size, **more
        )
        return scaled(**call, generator=torch.Generator().manual_seed(3)).search

    first, second = made(1, out=tmp_path / "run"), made(5)
    assert [s.stopped for s in first.searches] == [s.stopped for s in second.searches]
    for search in first.searches:
        assert search.stopped == first_stop([Patience(2)], [e.total for e in search.finals])
    again = made(5, out=tmp_path / "run")
    assert again.ledger.evaluations == 0
    assert [s.stopped for s in again.searches] == [s.stopped for s in first.searches]
    # Another rule goes on with the archive, as another budget does.
    longer = made(5, [Patience(5)], out=tmp_path / "run")
    assert [len(longer.ranking(i)) >= len(first.ranking(i)) for i in (0, 1)] == [True, True]
    assert longer.searches[0].stopped.rule == "patience:5"


# ---------------------------------------------------------------- nothing in vain

INDEPENDENT = ("best_of_n until the budget ends", "nlg", "zigzag", "gradient_guidance")


def until_reached(name: str, **settings: Any) -> tuple[Any, Any]:
    """(the whole search, the one with a target that its candidate 3 is the first to reach)."""
    sampler = replace(SAMPLERS[name], candidates=None)
    whole = run(sampler, budget=Budget(nfe=600)).searches[0]
    best = max(e.total for e in whole.finals[:4])
    return whole, run(sampler, budget=Budget(nfe=600, target=best), **settings)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_target_that_candidate_k_reaches_costs_k_candidates(name: str) -> None:
    whole, made = until_reached(name)
    k = made.searches[0].stopped.after
    assert k == 1 + max(range(4), key=lambda i: whole.finals[i].total)
    assert made.searches[0].finished == k
    assert made.searches[0].spent == run(replace(SAMPLERS[name], candidates=k)).searches[0].spent


def test_a_wave_that_was_asked_for_is_kept_and_costs_all_of_it() -> None:
    """The broken twin of the former: 16 at a time."""
    whole = run(BestOfN(64)).searches[0]
    target = Budget(target=whole.finals[0].total)
    assert run(BestOfN(64), budget=target).searches[0].spent == 6
    assert run(BestOfN(64, wave=16), budget=target).searches[0].spent == 6 * 16


@pytest.mark.parametrize("settings", [{"stop": "patience:5"}, {"budget": Budget(nfe=6000, target=1.9)}])
def test_several_prompts_fill_batches_one_candidate_each(settings: Any) -> None:
    made = run(BestOfN(), prompts=8, batch_size=8, **settings)
    sizes = [len(b.prompts) for b in made.batches]
    last = 6 * min(s.finished for s in made.searches)  # until then all prompts are searched
    assert set(sizes[:last]) == {8}
    assert all(s.finished == s.stopped.after for s in made.searches)


def test_the_warm_up_of_an_ascent_ends_with_the_candidate_that_reaches_the_target() -> None:
    sampler = Dno(warmup=0.5)
    whole = run(sampler, budget=Budget(nfe=240)).searches[0]
    search = run(sampler, budget=Budget(nfe=240, target=whole.finals[0].total)).searches[0]
    assert search.finished == 1
    assert search.spent == whole.finals[0].nfe == 6


class Rest:
    """Only what other samplers do with the budget that they leave."""

    def search(self, process: Any, key: Any) -> Any:
        yield from spend_leftover_budget(process, key, 0)


def test_what_remains_of_a_budget_is_looked_at_one_by_one() -> None:
    totals = [e.total for e in run(Rest(), budget=Budget(nfe=60)).searches[0].finals]
    assert len(totals) == 10
    search = run(Rest(), budget=Budget(nfe=60, target=max(totals[:3]))).searches[0]
    assert search.finished == search.stopped.after == 1 + totals.index(max(totals[:3]))
