"""accept_reject: what is rejected, accepted and finished, what it costs, and that it is the renewal formula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from genscale.algorithms.acceptance import Thresholds
from genscale.engine.archive import Entry
from genscale.engine.budget import Budget
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.renewal import Paths, follow, outcome
from genscale.protocol.calibration import Calibration
from genscale.protocol.queries import Score, Solve
from genscale.samplers.accept_reject import AcceptReject
from tests.analytic import Run, run

STEPS = 6


class Judge:
    """P(right) by the first coordinate, less sure of previews."""

    answers_probability = True

    def __init__(self, calibration: Calibration | None = None) -> None:
        self.calibration = calibration

    def __call__(self, media: Any, prompts: Any) -> Tensor:
        return self.score_at(media, prompts, [1.0] * len(media))

    def score_at(self, media: Any, prompts: Any, progress: Sequence[float]) -> Tensor:
        x = media.pixels[:, 0, 0, 0].double()
        return torch.sigmoid((x - 1.5) * 4 * torch.tensor(progress, dtype=torch.float64))


def entries(made: Run, prompt: int = 0) -> list[Entry]:
    return [e for e in made.archive.entries if e.prompt == prompt]


def spent(made: Run) -> Tensor:
    return torch.tensor([s.spent for s in made.searches], dtype=torch.float64)


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize("seed", range(4))
def test_every_path_keeps_the_rules(seed: int) -> None:
    spec = AcceptReject(accept=2.2, reject=(0.3, 1.0), checks=(0.3, 0.6))
    made = run(spec, seed=seed, steps=STEPS, budget=Budget(nfe=200))
    seen = entries(made)
    limits = {3: 0.3, 5: 1.0}
    finals = [e for e in seen if e.final]
    for entry, after in pairwise(seen):
        went_on = after.candidate.id == entry.candidate.id
        if not entry.final:
            assert went_on == (entry.total >= limits[entry.step])
        else:
            assert entry.total < 2.2
            assert not went_on
    assert seen[0].candidate.id == 0
    assert [e.total >= 2.2 for e in finals[-1:]] == [True] or made.searches[0].spent > 200 - STEPS
    assert made.searches[0].accepted is (finals[-1] if finals[-1].total >= 2.2 else None)


def test_an_easy_prompt_costs_one_path() -> None:
    made = run(AcceptReject(accept=-9.0, reject=(-9.0,), checks=(0.3,)), budget=Budget(nfe=600))
    assert [e.candidate.id for e in made.searches[0].finals] == [0]
    assert made.searches[0].spent == STEPS


@pytest.mark.parametrize("back", [1.0, 0.25])
@pytest.mark.parametrize("wave", [1, 3])
@pytest.mark.parametrize("limit", [6, 7, 8, 13, 29, 100])
def test_one_is_finished_though_all_are_rejected(back: float, wave: int, limit: int) -> None:
    spec = AcceptReject(accept=9.0, reject=(9.0,), checks=(0.3, 0.6), back=back, wave=wave)
    made = run(spec, budget=Budget(nfe=limit), steps=STEPS)
    [final] = made.searches[0].finals
    previews = [e for e in entries(made) if not e.final]
    assert all(e.step == 3 for e in previews)  # nothing goes beyond the check that rejects it
    same = next(e for e in previews if e.candidate.id == final.candidate.id)
    assert same.total == max(e.total for e in previews) or limit - made.searches[0].spent < 3
    assert made.searches[0].accepted is None
    assert limit - made.searches[0].spent < STEPS + 3


@pytest.mark.parametrize("wave", [1, 3])
@pytest.mark.parametrize("limit", [2, 6, 11, 12, 17, 40])
def test_a_prompt_spends_no_more_than_its_thresholds_allow(
    limit: int, wave: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image at least; what is left does not pay for another path and the end of the best rejected one."""
    found = Thresholds(((3, 9.0),), 9.0, most=float(limit))
    monkeypatch.setattr(AcceptReject, "thresholds", lambda *_: found)
    made = run(AcceptReject(accept=9.0, wave=wave), budget=Budget(nfe=200), steps=STEPS)
    assert len(made.searches[0].finals) == 1
    most = max(limit, STEPS)
    assert made.searches[0].spent <= most
    assert most - made.searches[0].spent < STEPS + 3


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("images", [3, 4, 6])
@pytest.mark.parametrize("wave", [1, 4])
def test_as_many_are_finished_as_the_call_returns(wave: int, images: int, pool: bool) -> None:
    """Whatever is rejected; with a verifier that accepts, the prompt ends with the last that is needed."""
    budget = Budget(images=images)
    strict = AcceptReject(accept=9.0, reject=(9.0,), checks=(0.3, 0.6), wave=wave)
    made = run(strict, budget=budget, steps=STEPS, prompts=2, results=3, pool=pool)
    for i, search in enumerate(made.searches):
        assert len(search.finals) == 3
        assert search.accepted is None
        assert [e.final for e in entries(made, i)[:3]] == [True, True, False]  # the last has checks
    assert sum(s.spent for s in made.searches) <= 2 * images * STEPS
    lenient = AcceptReject(accept=-9.0, reject=(-9.0,), checks=(0.3, 0.6))
    made = run(lenient, budget=budget, steps=STEPS, prompts=2, results=3, pool=pool)
    assert [len(s.finals) for s in made.searches] == [3, 3]
    assert [s.spent for s in made.searches] == [3 * STEPS] * 2


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, 20])
def test_verifier_calls_are_kept_for_one_finished_candidate(calls: int) -> None:
    spec = AcceptReject(accept=9.0, reject=(9.0,), checks=(0.3, 0.6))
    made = run(spec, budget=Budget(verifier_calls=calls), steps=STEPS)
    assert made.searches[0].finals
    assert made.searches[0].calls == calls


def test_without_a_budget_there_are_64_paths() -> None:
    made = run(AcceptReject(accept=9.0, reject=(9.0,), checks=(0.3,)), steps=STEPS)
    assert made.searches[0].spent == 64 * 3 + 3
    made = run(AcceptReject(accept=9.0, reject=(9.0,), checks=(0.3,), paths=5), steps=STEPS)
    assert made.searches[0].spent == 5 * 3 + 3


def test_a_stop_rule_ends_what_rejects_everything() -> None:
    """The best of 64 rejected paths in a row is finished, so that rules are asked at all."""
    made = run(AcceptReject(accept=9.0, reject=(9.0,), checks=(0.3,)), steps=STEPS, stop="patience:1")
    assert len(made.searches[0].finals) >= 2
    assert str(made.searches[0].stopped.rule).startswith("patience")


def test_time_ends_what_rejects_everything() -> None:
    spec = AcceptReject(accept=9.0, reject=(9.0,), checks=(0.3,))
    made = run(spec, steps=STEPS, budget=Budget(seconds=0.5))
    assert len(made.searches[0].finals) <= 1 + made.searches[0].spent // (64 * 3)
    assert len(made.searches[0].finals) >= 1


def test_a_path_that_is_sent_back_keeps_a_part() -> None:
    spec = AcceptReject(accept=9.0, reject=(1.0,), checks=(0.6,), back=0.25, backtracks=2)
    made = run(spec, budget=Budget(nfe=120), steps=12)
    origins = [e.candidate for e in entries(made) if not e.final]
    back = [c for c in origins if c.parent is not None]
    assert back
    assert {c.step for c in back} == {5}  # a quarter of 12 steps before step 8
    generations = {0: 0}
    for c in origins:
        generations[c.id] = 0 if c.parent is None else generations[c.parent] + 1
    assert max(generations.values()) == 2


def test_a_failed_path_is_left() -> None:
    """NaN in a verifier drops the path; the next one begins."""

    def moody(media: Any, prompts: Any) -> Tensor:
        x = media.pixels[:, 0, 0, 0].double()
        return torch.where(x > 1.5, math.nan, x)

    made = run(
        AcceptReject(accept=0.0, reject=(-1.0,), checks=(0.6,)),
        verifier=moody,
        budget=Budget(nfe=400),
        seed=3,
    )
    assert made.searches[0].best().total >= 0.0
    assert made.searches[0].accepted is made.searches[0].finals[-1]


# ---------------------------------------------------------------- where thresholds come from


def test_scores_without_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="calibrate-verifier") as refused:
        run(AcceptReject())
    assert "'first'" in str(refused.value)
    two = VerifierSet((WeightedVerifier("a", Judge()), WeightedVerifier("b", Judge())))
    with pytest.raises(UsageError, match="a\\+b"):
        run(AcceptReject(), roles=Roles(two))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"p": 0.0}, "p=0.0 must be"),
        ({"p": 1.5}, "p=1.5 must be"),
        ({"back": 0.0}, "back=0.0 must be"),
        ({"checks": (0.5, 0.2)}, "increasing"),
        ({"checks": (1.0,)}, "increasing"),
        ({"wave": 0}, "wave=0"),
        ({"paths": 0}, "paths=0"),
        ({"accept": math.nan}, "must be a number"),
        ({"reject": (math.nan,)}, "reject"),
        ({"reject": (0.1, 0.2)}, "one number"),
        ({"reject": ()}, "one number"),
        ({"reject": (0.1, 0.2), "checks": (0.5,)}, "one number"),
        ({"mean_nfe": -1.0}, "mean_nfe"),
        ({"mean_nfe": 9.0, "accept": 0.5}, "mean_nfe chooses"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        AcceptReject(**options)


@pytest.mark.parametrize("budget", [Budget(nfe=600, probability=0.97), Budget(nfe=600, target=0.97)])
def test_a_target_of_the_budget_is_what_is_accepted(budget: Budget) -> None:
    """0.9, the default, would end a search before the 0.97 that was asked for."""
    for seed in range(4):
        [search] = run(AcceptReject(), verifier=Judge(), budget=budget, seed=seed, steps=8).searches
        assert search.accepts == 0.97
        assert search.best().total >= 0.97 or search.spent > 600 - 2 * 8
    [search] = run(AcceptReject(accept=0.5), verifier=Judge(), budget=budget, steps=8).searches
    assert search.accepts == 0.5
    roles = Roles(
        VerifierSet((WeightedVerifier("a", Judge()),)), VerifierSet((WeightedVerifier("b", Judge()),))
    )
    [search] = run(AcceptReject(), roles=roles, budget=budget, steps=8).searches
    assert search.accepts == 0.9  # the target is in the unit of what picks the winner


def test_a_score_is_accepted_at_a_target() -> None:
    [search] = run(AcceptReject(), budget=Budget(nfe=600, target=1.8), steps=8).searches
    assert search.accepted is search.finals[-1]
    assert search.accepts == 1.8


def test_checks_of_a_score_need_a_number() -> None:
    with pytest.raises(UsageError, match="give reject, too"):
        run(AcceptReject(accept=1.0, checks=(0.3,)))


def test_a_mean_cost_needs_a_calibration() -> None:
    with pytest.raises(UsageError, match="mean_nfe=20 needs a verifier with a calibration"):
        run(AcceptReject(mean_nfe=20.0), verifier=Judge())


def test_a_probability_without_a_calibration_uses_the_fixed_numbers() -> None:
    made = run(AcceptReject(), verifier=Judge(), steps=8, budget=Budget(nfe=400))
    assert made.searches[0].accepts == 0.9
    seen = entries(made)
    assert {e.step for e in seen if not e.final} == {6}
    for entry, after in pairwise(seen):
        if not entry.final:
            assert (after.candidate.id == entry.candidate.id) == (entry.total >= 0.1)


# ---------------------------------------------------------------- the law


class Labelled:
    """Yields n paths whole, with their previews at steps 3 and 5."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.previews: list[Tensor] = []
        self.finals = torch.zeros(0)

    def search(self, process: Any, key: Key) -> Any:
        from genscale.protocol.particles import draw

        particles = process.start([draw(key, i) for i in range(self.n)])
        for step in (3, 5):
            particles = yield Solve(particles, step)
            self.previews.append((yield Score(particles)).total)
        self.finals = (yield Score((yield Solve(particles)))).total


LAW = 2400
PROMPTS = 150


@pytest.fixture(scope="module")
def law() -> Labelled:
    labelled = Labelled(LAW)
    run(labelled, verifier=Judge(), seed=77, batch_size=LAW)
    return labelled


def expected(law: Labelled, rejects: Sequence[float], accept: float) -> Any:
    """By the renewal formula; right is P itself, which is known here."""
    cost, taken = follow(
        torch.stack(law.previews, 1),
        law.finals,
        torch.tensor(rejects),
        torch.tensor(accept),
        torch.tensor([3, 5, 6]),
    )
    return outcome(Paths(cost, taken, law.finals, torch.zeros(LAW, dtype=torch.long)), math.inf, sample=False)


def searched(reject: tuple[float, ...], accept: float) -> tuple[Tensor, Tensor]:
    """(NFE, P of the accepted one) of searches until one is accepted."""
    spec = AcceptReject(accept=accept, reject=reject, checks=(0.3, 0.6))
    made = run(spec, verifier=Judge(), prompts=PROMPTS, seed=5, batch_size=PROMPTS, budget=Budget(nfe=3000))
    return spent(made), torch.tensor([s.accepted.total for s in made.searches])


def z(values: Tensor, truth: float) -> float:
    return float((values.mean() - truth) / (values.std() / len(values) ** 0.5))


def test_cost_and_accuracy_are_those_of_the_renewal_formula(law: Labelled) -> None:
    told = expected(law, (0.15, 0.3), 0.8)
    cost, accuracy = searched((0.15, 0.3), 0.8)
    assert abs(z(cost, told.cost)) < 3.5
    assert abs(z(accuracy, told.accuracy)) < 3.5
    broken = expected(law, (0.0, 0.0), 0.8)  # as if nothing were rejected before the end
    assert abs(z(cost, broken.cost)) > 5
    assert abs(z(accuracy, expected(law, (0.15, 0.3), 0.7).accuracy)) > 5


def test_thresholds_from_a_calibration_spend_less_than_none(law: Labelled) -> None:
    prompts = torch.arange(LAW) % 24  # all prompts of the bed have one law
    table = Calibration((0.5, 5 / 6), torch.stack(law.previews, 1), law.finals, law.finals, prompts, STEPS)
    made = run(AcceptReject(), verifier=Judge(table), prompts=60, batch_size=60, budget=Budget(nfe=600))
    right = torch.tensor([s.accepted.total for s in made.searches])
    assert abs(z(right, 0.9)) < 3.5 or float(right.mean()) > 0.9
    accept = made.searches[0].accepts
    plain = run(
        AcceptReject(accept=accept, reject=(0.0,), checks=(0.3,)), verifier=Judge(), prompts=60, batch_size=60,
        budget=Budget(nfe=600),
    )  # fmt: skip
    assert float(spent(made).mean()) < 0.8 * float(spent(plain).mean())
