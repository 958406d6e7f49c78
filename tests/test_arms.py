"""Arms: candidates that also differ by how the model is called, and which arm gets the next one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import genscale
from genscale.algorithms import arm_allocation
from genscale.algorithms.arm_allocation import Pulls
from genscale.algorithms.arms import Arms
from genscale.engine.budget import Budget
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles, VerifierSet, verifier_set
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.numerics.expected_maximum import expected_maximum, standard_maximum
from genscale.numerics.thompson import Belief
from genscale.pipelines.black_box_process import call_process
from genscale.protocol.answers import Scores
from genscale.protocol.particles import arm_of
from genscale.protocol.queries import Score
from tests.analytic import run
from tests.generators import brightness, fresh, noise

Law = tuple[float, float]
ROLES = Roles(verifier_set(brightness, "weighted"), *(VerifierSet(()) for _ in range(3)))


def play(
    sampler: Arms, laws: Sequence[Law], seed: int = 0, costs: Sequence[int] = (), budget: str | None = None
) -> tuple[Search, list[tuple[int, float]]]:
    """Run the sampler with normal scores of each arm's law; (arm, score) of every candidate."""
    process = call_process("f", tuple(costs) or (1,) * len(laws))
    search = Search.open(0, "", sampler, Key.from_seed(seed), Budget.of(budget), ROLES, **process)
    found: list[tuple[int, float]] = []
    while search.query is not None:
        rows = search.affordable()
        if rows == 0:
            search.throw(BudgetExhausted())
        elif isinstance(search.query, Score):
            some = search.particles.candidates[:rows]
            drawn = [(arm_of(c), float(Key(c.key).fold("score").normal((1,))[0])) for c in some]
            found += [(arm, laws[arm][0] + laws[arm][1] * z) for arm, z in drawn]
            raw = torch.tensor([score for _, score in found[-rows:]], dtype=torch.float64)
            search.calls += rows
            search.send(Scores(raw[:, None], ROLES.search.combine))
        else:
            search.spent += search.price * rows
            some = search.particles[:rows]
            search.send(type(some)(some.x, 1, some.candidates))
    return search, found


def arms(n: int, **options: Any) -> Arms:
    return Arms(arms=tuple({"gain": i} for i in range(n)), **options)


# ------------------------------------------------------------------------------ laws


LAWS = ((0.0, 1.0), (0.5, 0.5), (-0.5, 2.0))


def gap_in_errors(runs: int = 800) -> float:
    """How many standard errors the mean best of 12 candidates, 4 of each arm, is from its closed form."""
    best = [max(score for _, score in play(arms(3, candidates=12), LAWS, seed)[1]) for seed in range(runs)]
    wanted = expected_maximum([(mean, std, 4) for mean, std in LAWS])
    return (float(np.mean(best)) - wanted) / (float(np.std(best)) / math.sqrt(runs))


def test_the_expected_best_of_even_arms_has_its_closed_form() -> None:
    assert abs(gap_in_errors()) < 4


def test_the_broken_twin_takes_all_from_one_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    pull = Pulls.pull
    monkeypatch.setattr(Pulls, "pull", lambda self, arm, n: pull(self, 0, n))
    assert abs(gap_in_errors(300)) > 4


def test_the_expected_maximum_is_that_of_known_cases() -> None:
    assert standard_maximum(1) == 0
    assert standard_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-9)
    assert standard_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-9)
    assert expected_maximum([(1.0, 2.0, 3)]) == pytest.approx(1 + 2 * standard_maximum(3), abs=1e-9)
    assert expected_maximum([(0.0, 1.0, 2), (0.0, 1.0, 3)]) == pytest.approx(standard_maximum(5), abs=1e-9)
    gap = math.sqrt(1 + 9)  # E max of two normals (Clark 1961)
    a = 2 / gap
    wanted = 2 * stats.norm.cdf(a) + gap * stats.norm.pdf(a)
    assert expected_maximum([(2.0, 1.0, 1), (0.0, 3.0, 1)]) == pytest.approx(wanted, abs=1e-9)
    assert expected_maximum([(0.0, 1.0, 0), (3.0, 1.0, 1)]) == pytest.approx(3.0)


def p_values(belief: Belief, drawn: Any) -> tuple[float, float]:
    """Kolmogorov-Smirnov tests of pairs against the marginals of the normal-inverse-gamma distribution."""
    pairs = np.array([drawn(*u) for u in np.random.default_rng(0).uniform(size=(3000, 2))])
    mean = stats.kstest(pairs[:, 0], stats.t(belief.nu, belief.m, math.sqrt(belief.tau2 / belief.kappa)).cdf)
    variance = stats.kstest(belief.nu * belief.tau2 / pairs[:, 1] ** 2, stats.chi2(belief.nu).cdf)
    return float(mean.pvalue), float(variance.pvalue)


def test_draws_from_the_posterior_have_its_law() -> None:
    belief = Belief(1.0, 3.0, 5.0, 0.7)
    assert min(p_values(belief, belief.pair)) > 1e-3
    broken = Belief(1.0, 2.0, 5.0, 0.7)  # another weight of the mean
    assert p_values(belief, broken.pair)[0] < 1e-3


# ------------------------------------------------------------------------------ allocations


def counts(found: Sequence[tuple[int, float]], n: int) -> list[int]:
    seen = Counter(arm for arm, _ in found)
    return [seen[arm] for arm in range(n)]


@pytest.mark.parametrize("candidates", [1, 2, 3, 7, 16, 50])
def test_even_arms_differ_by_one_at_most(candidates: int) -> None:
    found = counts(play(arms(3, candidates=candidates), LAWS)[1], 3)
    assert sum(found) == candidates
    assert max(found) - min(found) <= 1


@pytest.mark.parametrize("allocate", arm_allocation.ALLOCATIONS)
@pytest.mark.parametrize("budget", [3, 8, 21, 64, 101])
def test_a_budget_is_used_to_the_unit(allocate: str, budget: int) -> None:
    costs = (3, 5, 7)
    search, found = play(arms(3, allocate=allocate), LAWS, costs=costs, budget=f"{budget}nfe")
    assert search.spent == sum(costs[arm] for arm, _ in found) <= budget
    left = budget - search.spent
    assert left < (min(costs) if allocate != "halving" else max(costs))  # it ends with one arm


@pytest.mark.parametrize("allocate", arm_allocation.ALLOCATIONS)
def test_a_budget_of_verifier_calls_is_used(allocate: str) -> None:
    assert len(play(arms(3, allocate=allocate), LAWS, budget="13calls")[1]) == 13


def test_halving_drops_the_worse_half_in_each_round() -> None:
    laws = ((0.0, 0.1), (3.0, 0.1), (1.0, 0.1), (2.0, 0.1))
    _, found = play(arms(4, allocate="halving", candidates=16, aim="mean"), laws)
    assert counts(found, 4) == [2, 6, 2, 6]
    assert {arm for arm, _ in found[-8:]} == {1, 3}
    _, found = play(arms(4, allocate="halving", aim="mean"), laws, budget="19nfe")
    assert counts(found, 4) == [2, 8, 2, 7]  # what the rounds leave goes to the best


def test_thompson_finds_the_better_arm() -> None:
    laws = ((0.0, 1.0), (1.5, 1.0), (0.0, 1.0))
    shares = [
        counts(play(arms(3, allocate="thompson", candidates=40), laws, seed)[1], 3)[1] for seed in range(20)
    ]
    assert np.mean(shares) > 24


@pytest.mark.slow
def test_thompson_gains_over_even_arms() -> None:
    laws = ((0.0, 1.0), (1.5, 1.0), (0.0, 1.0))
    even = [max(s for _, s in play(arms(3, candidates=40), laws, seed)[1]) for seed in range(200)]
    best = [
        max(s for _, s in play(arms(3, allocate="thompson", candidates=40), laws, seed)[1])
        for seed in range(200)
    ]
    assert np.mean(best) - np.mean(even) > 2 * math.sqrt((np.var(best) + np.var(even)) / 200)


def test_the_best_wants_a_wide_arm_and_the_mean_a_high_one() -> None:
    laws = ((0.0, 2.0), (0.5, 0.1))
    by_aim = {
        aim: np.mean(
            [
                counts(play(arms(2, allocate="thompson", candidates=30, aim=aim), laws, s)[1], 2)[0]
                for s in range(20)
            ]
        )
        for aim in ("best", "mean")
    }
    assert by_aim["best"] > 20
    assert by_aim["mean"] < 15


def test_a_cheap_arm_is_worth_more_than_its_equal() -> None:
    found = [
        counts(play(arms(2, allocate="thompson"), ((0.0, 1.0),) * 2, s, (1, 6), "90nfe")[1], 2)
        for s in range(20)
    ]
    assert np.mean([a for a, _ in found]) > 5 * np.mean([b for _, b in found])


@pytest.mark.parametrize("allocate", arm_allocation.ALLOCATIONS)
def test_without_a_limit_of_numbers_it_goes_on(allocate: str) -> None:
    found = genscale.scale(
        noise, "arms", brightness, arms=[{}, {"gain": 0.5}], allocate=allocate, stop="patience:9"
    ).search("a", generator=fresh())
    assert found.stopped_by() is not None


# ------------------------------------------------------------------------------ hosts


def entries(result: Any) -> list[Any]:
    return [(e.prompt, e.candidate, e.total) for e in result.entries]


@pytest.mark.parametrize("allocate", arm_allocation.ALLOCATIONS)
def test_one_arm_is_best_of_n(allocate: str) -> None:
    one = genscale.scale(noise, "arms", brightness, arms=[{}], allocate=allocate, candidates=20)
    plain = genscale.scale(noise, "best_of_n", brightness, candidates=20)
    prompts = ["a", "b"]
    assert sorted(map(str, entries(one.search(prompts, generator=fresh())))) == sorted(
        map(str, entries(plain.search(prompts, generator=fresh())))
    )


@pytest.fixture(scope="module")
def pipe() -> Any:
    found = genscale.load_pipeline("shapes-flow", device="cpu")
    found.set_progress_bar_config(disable=True)
    return found


PROMPTS = ["a red star", "a blue ring"]
CALL = {"num_inference_steps": 3, "guidance_scale": 3.0}


def test_one_arm_of_a_pipeline_is_best_of_n_bit_for_bit(pipe: Any) -> None:
    given = CALL | {"prompt": PROMPTS, "num_images_per_prompt": 2}
    one = genscale.scale(pipe, "arms", "shapes_clip", arms=[{}], candidates=4)(**given, generator=fresh())
    plain = genscale.scale(pipe, "best_of_n", "shapes_clip", candidates=4)(**given, generator=fresh())
    assert entries(one.search) == entries(plain.search)
    assert one.search.ledger.nfe == plain.search.ledger.nfe
    for a, b in zip(one.images, plain.images, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_each_arm_of_a_pipeline_costs_and_makes_what_its_call_does(pipe: Any) -> None:
    changes: list[dict[str, Any]] = [
        {"guidance": 1.0},
        {"guidance_scale": 5.0, "steps": 5},
        {"prompt": "{} and a green square"},
    ]
    better = genscale.scale(pipe, "arms", "shapes_clip", arms=changes, candidates=3, keep=3)
    found = better.search(**CALL, prompt=PROMPTS[0], generator=fresh())
    assert found.ledger.nfe == found.searches[0].spent == 3 + 10 + 6
    for entry in found.searches[0].finals:
        arm = arm_of(entry.candidate)
        call = (
            CALL
            | {
                0: {"guidance_scale": 1.0},
                1: {"guidance_scale": 5.0, "num_inference_steps": 5},
                2: {},
            }[arm]
        )
        text = PROMPTS[0] + (" and a green square" if arm == 2 else "")
        alone = genscale.scale(pipe, Fixed(entry.candidate), keep=1).search(
            **call, prompt=text, generator=fresh()
        )
        if arm != 2:  # there the prompt's key is another, but the candidate's own key is the same
            assert torch.equal(found.media([entry]).pixels, alone.media([alone.searches[0].finals[0]]).pixels)
        assert alone.ledger.nfe - alone.ledger.probes == (3, 10, 6)[arm]


class Fixed:
    """A sampler that finishes one candidate."""

    needs = frozenset({"noise"})

    def __init__(self, candidate: Any) -> None:
        self.candidate = candidate

    def search(self, process: Any, key: Any) -> Any:
        finished = yield genscale.Solve(process.start([self.candidate]))
        yield Score(finished)


def test_verifiers_score_by_the_prompt_of_the_call(pipe: Any, tmp_path: Path) -> None:
    seen: set[str] = set()

    def judge(media: Any, prompts: Any) -> Any:
        seen.update(prompts)
        return brightness(media, prompts)

    changes = [{"prompt": "{} and a green square"}, {"prompt": "nothing"}]
    better = genscale.scale(pipe, "arms", judge, arms=changes, candidates=4, out=tmp_path / "run")
    found = better.search(**CALL, prompt=PROMPTS, generator=fresh())
    assert seen == set(PROMPTS) == set(found.prompts)
    found.save(tmp_path / "run")
    assert genscale.load_result(tmp_path / "run").prompts == tuple(PROMPTS)


def test_an_arm_can_have_another_scheduler_or_model(pipe: Any) -> None:
    before = pipe.scheduler
    other = type(before).from_config(before.config, shift=3.0)
    twin = genscale.load_pipeline("shapes-flow", device="cpu")
    changes = [{}, {"scheduler": other}, {"model": twin}]
    better = genscale.scale(pipe, "arms", "shapes_clip", arms=changes, candidates=3, keep=3)
    found = better.search(**CALL, prompt=PROMPTS[0], generator=fresh())
    assert len(found.searches[0].finals) == 3
    assert pipe.scheduler is before


@pytest.mark.slow
def test_an_arm_can_have_another_scale_of_the_loras() -> None:
    from pathlib import Path as Place

    tuned = (
        Place(genscale.__file__).parent / "models" / "shapes-flow-reward" / "pytorch_lora_weights.safetensors"
    )
    given = CALL | {"prompt": PROMPTS[0]}

    def pixels(lora: Sequence[str], change: dict[str, Any]) -> Any:
        made = genscale.load_pipeline("shapes-flow", device="cpu", lora=lora)
        made.set_progress_bar_config(disable=True)
        found = genscale.scale(made, "arms", arms=[change], candidates=1).search(**given, generator=fresh())
        return found.media(found.ranking()).pixels

    none, half, whole = (pixels([str(tuned)], {"lora_scale": scale}) for scale in (0.0, 0.5, 1.0))
    assert torch.allclose(none, pixels([], {}), atol=1e-5)
    assert torch.equal(whole, pixels([str(tuned)], {}))
    assert torch.allclose(half, pixels([f"{tuned}:0.5"], {}), atol=1e-5)
    assert not torch.allclose(half, whole, atol=1e-3)


def test_arms_of_a_function() -> None:
    seen: list[tuple[str, float]] = []

    def make(prompt: str, generator: Any, gain: float = 1.0) -> Any:
        seen.append((prompt, gain))
        return noise(prompt, generator, gain=gain)

    def other(prompt: str, generator: Any, gain: float = 1.0) -> Any:
        seen.append(("other", gain))
        return noise(prompt, generator)

    changes = [{"gain": 0.5}, {"prompt": "{}, dark", "nfe": 2}, {"model": other}]
    found = genscale.scale(make, "arms", brightness, arms=changes, candidates=6).search(
        "a", generator=fresh()
    )
    assert Counter(seen) == {("a", 0.5): 2, ("a, dark", 1.0): 2, ("other", 1.0): 2}
    assert found.searches[0].spent == 2 + 4 + 2
    assert found.prompts == ("a",)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"generator": None}, "cannot change generator: it is what makes one candidate differ from another."),
        (
            {"num_images_per_prompt": 2},
            "cannot change num_images_per_prompt: it is how many of the best the call",
        ),
        ({"gian": 3}, "did you mean 'gain'"),
        ({"prompt": 3}, "must be a text"),
        ({"nfe": 0}, "whole number above 0"),
        ({"lora_scale": 0.5}, "takes none"),
        ({"scheduler": object()}, "has none"),
    ],
)
def test_what_an_arm_cannot_change_is_refused(change: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        genscale.scale(noise, "arms", brightness, arms=[{}, change], candidates=2)("a", generator=fresh())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"arms": []}, "no configuration"),
        ({"arms": "guidance=3"}, "must be a list"),
        ({"allocate": "thomson"}, "did you mean 'thompson'"),
        ({"aim": "worst"}, "one of best, mean"),
        ({"candidates": 0}, "at least 1"),
        ({"wav": 3}, "did you mean 'wave'"),
    ],
)
def test_options_out_of_range_are_refused(options: Any, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        genscale.scale(noise, "arms", brightness, **options)


def test_without_calls_to_change_there_is_one_arm() -> None:
    with pytest.raises(UsageError, match="2 arms need calls that can be made in as many ways"):
        run(arms(2, candidates=2))
    assert len(run(Arms(candidates=5)).searches[0].finals) == 5


@pytest.mark.parametrize("allocate", arm_allocation.ALLOCATIONS)
def test_a_resumed_search_goes_on_as_if_it_had_not_ended(tmp_path: Path, allocate: str) -> None:
    def search(folder: str, budget: str) -> Any:
        changes = [{}, {"gain": 0.9, "nfe": 2}, {"size": 4}]
        return genscale.scale(
            noise, "arms", brightness, arms=changes, allocate=allocate, aim="mean", budget=budget,
            out=tmp_path / folder,
        ).search(PROMPTS, generator=fresh())  # fmt: skip

    whole = search("whole", "24nfe")
    search("part", "9nfe")
    assert entries(search("part", "24nfe")) == entries(whole)
    assert entries(search("whole", "24nfe")) == entries(whole)


def test_a_saved_run_is_read_back(tmp_path: Path, pipe: Any) -> None:
    better = genscale.scale(pipe, "arms", "shapes_clip", arms=[{}, {"steps": 2}], candidates=4, keep=4)
    found = better.search(**CALL, prompt=PROMPTS[0], generator=fresh())
    found.save(tmp_path / "run")
    loaded = genscale.load_result(tmp_path / "run")
    best = loaded.ranking()[0]
    assert best.candidate == found.ranking()[0].candidate
    assert torch.equal(loaded.media([best]).pixels, found.media([found.ranking()[0]]).pixels)
