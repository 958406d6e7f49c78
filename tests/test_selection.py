"""The rules of the choice: requirements and abstention, by brute force, in searches, and in what a run leaves."""

from __future__ import annotations

import math
import random
from itertools import product
from statistics import NormalDist
from typing import Any

import pytest
import torch

from genscale.engine.budget import Budget
from genscale.engine.ensembles import Column
from genscale.engine.entries import Entry
from genscale.engine.ranking import Ranking
from genscale.engine.selection import Abstain, Requirement, Selection, noise_of_total
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.numerics.selection_order import keeps_own, leaders, selection_order
from genscale.protocol.calibration import ScoreScale
from genscale.protocol.particles import OWN, Candidate
from genscale.samplers.accept_reject import AcceptReject
from genscale.samplers.best_of_n import BestOfN
from tests.analytic import first_coordinate, run

# ---------------------------------------------------------------- the order, by its definition


def by_hand(totals: list[float], broken: list[int], own: int | None, margin: float | None) -> list[int]:
    """Insert one after the other, each before the first that is worse; then the model's own, if it is kept."""
    found: list[int] = []
    for i, total in enumerate(totals):
        worse = [n for n, j in enumerate(found) if (broken[j], -totals[j]) > (broken[i], -total)]
        found.insert(worse[0] if worse else len(found), i)
    if own is not None and margin is not None and broken[own] == broken[found[0]]:
        rivals = [totals[j] for j in found if broken[j] == broken[own]]
        if all(r <= totals[own] + margin for r in rivals):
            found = [own, *(j for j in found if j != own)]
    return found


def cases(n: int) -> Any:
    numbers = random.Random(n)
    for _ in range(200):
        size = numbers.randint(1, 8)
        totals = [numbers.randint(0, 5) / 2 for _ in range(size)]
        broken = [numbers.choice([0, 0, 1, 2]) for _ in range(size)]
        yield (
            totals,
            broken,
            numbers.choice([None, numbers.randrange(size)]),
            numbers.choice([None, 0.0, 0.5, 1.5]),
        )


def test_the_order_is_that_of_its_definition() -> None:
    kept = 0
    for totals, broken, own, margin in cases(0):
        order = by_hand(totals, broken, own, margin)
        found = selection_order(totals, broken, own, margin)
        assert found == order
        kept += keeps_own(totals, broken, own, margin)
    assert kept > 5


def test_leaders_are_the_winners_of_every_prefix() -> None:
    for totals, broken, own, margin in cases(1):
        want: list[int] = []
        for n in range(1, len(totals) + 1):
            there = own if own is not None and own < n else None
            best = selection_order(totals[:n], broken[:n], there, margin)[0]
            want += [best] if not want or want[-1] != best else []
        assert leaders(totals, broken, own, margin) == want


def test_a_candidate_that_breaks_more_never_wins() -> None:
    for totals, broken, own, margin in cases(2):
        assert broken[selection_order(totals, broken, own, margin)[0]] == min(broken)


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("text", "verifier", "sign", "bound"),
    [
        ("nsfw<0.1", "nsfw", "<", 0.1),
        (" clip >= .25 ", "clip", ">=", 0.25),
        ("a<=-1e-3", "a", "<=", -1e-3),
        ("clip(model=x>y)>0", "clip(model=x>y)", ">", 0.0),
        ("package.module:judge>2", "package.module:judge", ">", 2.0),
    ],
)
def test_requirements_are_read(text: str, verifier: str, sign: str, bound: float) -> None:
    found = Requirement.parse(text)
    assert found == Requirement(verifier, sign, bound)
    assert Requirement.parse(str(found)) == found


@pytest.mark.parametrize(
    "text", ["", "nsfw", "nsfw<", "<0.1", "nsfw=0.1", "nsfw<x", "nsfw<nan", "nsfw<inf", 3, None]
)
def test_what_is_no_requirement(text: Any) -> None:
    with pytest.raises(UsageError, match="cannot be read: write VERIFIER<NUMBER"):
        Requirement.parse(text)


@pytest.mark.parametrize(
    ("sign", "wanted"), [("<", [1, 0, 0]), ("<=", [1, 1, 0]), (">", [0, 0, 1]), (">=", [0, 1, 1])]
)
def test_signs(sign: str, wanted: list[int]) -> None:
    assert [Requirement("a", sign, 2.0).holds(x) for x in (1.0, 2.0, 3.0)] == [bool(w) for w in wanted]


def test_several_requirements_in_one_text() -> None:
    both = Selection.of("a<1,b>=2")
    assert both == Selection.of(["a<1", "b>=2"])
    assert both.broken({"a": 0, "b": 2}) == ()
    assert both.broken({"a": 1, "b": 1}) == ("a<1", "b>=2")


@pytest.mark.parametrize(
    ("given", "size", "in_noise"),
    [(0.02, 0.02, False), ("0.02", 0.02, False), ("2sd", 2, True), (0, 0, False)],
)
def test_margins_are_read(given: Any, size: float, in_noise: bool) -> None:
    found = Abstain.of(given)
    assert found == Abstain(size, in_noise)
    assert Abstain.of(str(found)) == found


@pytest.mark.parametrize("given", ["", "x", "2 sds", "sd", True, "nan", float("inf"), -1, "-1sd"])
def test_what_is_no_margin(given: Any) -> None:
    with pytest.raises(UsageError, match="abstain"):
        Abstain.of(given)


# ---------------------------------------------------------------- searches


def second_coordinate(media: Any, prompts: Any) -> torch.Tensor:
    return media.pixels.flatten(1)[:, 1].double()


A, B = WeightedVerifier("a", first_coordinate), WeightedVerifier("b", second_coordinate, 0.0)


def searched(selection: Selection, members: Any = (A, B), **settings: Any) -> Any:
    settings = {"sampler": BestOfN(12)} | settings
    roles = Roles(VerifierSet(members, settings.pop("ensemble", "weighted")), selection=selection)
    return run(settings.pop("sampler"), roles=roles, **settings).searches[0]


@pytest.mark.parametrize("ensemble", ["weighted", "rank", "standardised"])
@pytest.mark.parametrize("require", ["b>0.3", "b<=0", "a<0.5,b>0"])
def test_a_candidate_that_breaks_a_requirement_does_not_win(ensemble: str, require: str) -> None:
    for seed in range(4):
        free = searched(Selection(), seed=seed, ensemble=ensemble)
        made = searched(Selection.of(require), seed=seed, ensemble=ensemble)
        assert [e.candidate for e in made.finals] == [
            e.candidate for e in free.finals
        ]  # the search is the same
        rules = Selection.of(require).requires
        fine = [e for e in free.ranking() if all(r.holds(e.scores[r.verifier]) for r in rules)]
        broken = [e for e in free.ranking() if e.candidate not in [f.candidate for f in fine]]
        assert len(broken) > 1
        order = [e.candidate for e in made.ranking()]
        assert order[: len(fine)] == [e.candidate for e in fine]
        if len(rules) == 1:
            assert order == [e.candidate for e in [*fine, *broken]]
        assert made.best() is made.ranking()[0]


def test_where_no_candidate_satisfies_the_best_wins_and_it_is_said() -> None:
    free, made = searched(Selection()), searched(Selection.of("b>99"))
    assert [e.candidate for e in made.ranking()] == [e.candidate for e in free.ranking()]
    assert made.ranks.broken(made.best()) == ("b>99",)


@pytest.mark.parametrize("ensemble", ["weighted", "rank"])
def test_the_own_candidate_is_kept_where_none_is_better_by_the_margin(ensemble: str) -> None:
    free = searched(Selection(), ensemble=ensemble)
    totals = free.totals(free.finals)
    own = next(e for e in free.finals if e.candidate.id == OWN)
    gap = max(totals) - totals[free.finals.index(own)]
    assert gap > 0
    for margin, kept in ((gap * 0.99, False), (gap * 1.01, True)):
        made = searched(Selection(abstain=Abstain(margin)), ensemble=ensemble)
        assert made.ranks.abstained is kept
        assert (made.best().candidate.id == OWN) is kept
        others = [e.candidate for e in free.ranking() if e.candidate.id != OWN]
        assert [e.candidate for e in made.ranking() if e.candidate.id != OWN] == others
        assert made.best().x is not None


def test_a_stop_rule_does_not_count_what_breaks_a_requirement() -> None:
    """The search ends only when the best that satisfies has not risen for 3 candidates that satisfy."""
    rule = Selection.of("b>0")
    open_ended = {"sampler": BestOfN(wave=1), "budget": Budget(nfe=8 * 30)}
    for seed in range(3):
        whole = searched(rule, seed=seed, **open_ended)
        since, best, after = 0, -math.inf, None
        for n, entry in enumerate(whole.finals, 1):
            if not rule.broken(entry.scores):
                since = 0 if entry.scores["a"] > best else since + 1
                best = max(best, entry.scores["a"])
                if since == 3:
                    after = n
                    break
        assert after is not None
        stopped = searched(rule, seed=seed, stop="patience:3", **open_ended).stopped
        assert stopped.after == after


def test_samplers_that_accept_do_not_take_requirements() -> None:
    probable = WeightedVerifier("a", _Says(answers_probability=True))
    with pytest.raises(UsageError, match="does not ask whether it satisfies 'a>0'"):
        searched(Selection.of("a>0"), (probable,), sampler=AcceptReject(accept=0.5))


class _Says:
    """Scores by the first coordinate, and says what it is told to say."""

    def __init__(self, **said: Any) -> None:
        vars(self).update(said)

    def __call__(self, media: Any, prompts: Any) -> Any:
        return first_coordinate(media, prompts).clamp(0, 1)


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        ({"require": "c<1"}, r"'c<1' requires a score of 'c', which scores no candidate here \(a, b do\)"),
        ({"abstain": "2sd"}, "the noise of a verifier is not known here"),
    ],
)
def test_rules_that_do_not_go_with_the_verifiers(selection: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Roles(VerifierSet((A, B)), selection=Selection.of(**selection))


def test_a_margin_needs_a_verifier() -> None:
    with pytest.raises(UsageError, match="abstain compares scores, and no verifier was given"):
        Roles(selection=Selection.of(abstain=1))


# ---------------------------------------------------------------- noise


def test_the_noise_of_a_total_is_that_of_a_simulation() -> None:
    columns = [Column(2.0, 0.3, 0.5, 0.1), Column(-1.0, 5.0, 2.0, 1.5), Column(0.0, 0.0, 1.0, 99.0)]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, 3, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 1.5, 99.0])
    for ensemble in ("weighted", "standardised"):
        from genscale.engine.ensembles import joined

        totals = joined(ensemble, torch.tensor([1.0, 2.0, 3.0]) + noise, columns)
        assert abs(noise_of_total(ensemble, columns) / float(totals.std()) - 1) < 0.01
    with pytest.raises(UsageError, match="the noise of a rank ensemble is not known"):
        noise_of_total("rank", columns)


def _replaced(margin: float | None, n: int, noise: float, runs: int) -> float:
    """How often the model's own candidate loses, where all candidates are equal and the scores are noise alone."""
    generator = torch.Generator().manual_seed(1)
    scores = noise * torch.randn(runs, n, generator=generator, dtype=torch.float64)
    lost = 0
    for row in scores.tolist():
        lost += selection_order(row, [0] * n, 0, margin)[0] != 0
    return lost / runs


def _false_alarm(multiple: float, n: int) -> float:
    """P(the best of n - 1 noises is above another by so many sd), by quadrature."""
    law, steps = NormalDist(), 4000
    points = [-8 + 16 * (i + 0.5) / steps for i in range(steps)]
    return sum(law.pdf(x) * (1 - law.cdf(x + multiple) ** (n - 1)) for x in points) * 16 / steps


@pytest.mark.parametrize("n", [4, 16])
def test_noise_replaces_the_own_candidate_as_seldom_as_it_must(n: int) -> None:
    runs, scale = 4000, ScoreScale(0.0, 1.0, 0.2)
    members = (WeightedVerifier("a", _Says(score_scale=scale)),)
    panel = VerifierSet(members)
    margin = Selection.of(abstain="3sd").margin(panel.ensemble, panel.columns)
    assert margin == pytest.approx(0.6)
    want = _false_alarm(3, n)
    error = 4 * math.sqrt(want * (1 - want) / runs)
    assert abs(_replaced(margin, n, 0.2, runs) - want) < error
    broken = _replaced(None, n, 0.2, runs)  # a twin that does not abstain
    assert abs(broken - want) > 10 * error


def test_ranking_with_rules_is_kept_up_as_candidates_come() -> None:
    """The same as sorting all of them, and the best keep their latents."""
    numbers = random.Random(0)
    panel = VerifierSet((WeightedVerifier("a", first_coordinate), B))
    selection = Selection.of("b>0.5", 0.3)
    ranks, entries = Ranking(panel, 2, selection), []
    for i in range(30):
        scores = {"a": numbers.randrange(6) / 4, "b": numbers.random()}
        entry = Entry(
            0, Candidate(OWN if i == 3 else i + 10, "prior", (i,)), 8, True, scores, None, x=torch.zeros(1)
        )
        entries.append(entry)
        ranks.add(entry)
        totals, broken = [e.scores["a"] for e in entries], [int(e.scores["b"] <= 0.5) for e in entries]
        order = selection_order(totals, broken, 3 if i >= 3 else None, 0.3)
        assert [e.candidate for e in ranks.order()] == [entries[k].candidate for k in order]
        assert ranks.best() is entries[order[0]]
        assert all(entries[k].x is not None for k in order[:2] if k < len(entries))


def test_all_combinations_of_rules_order_alike_in_both_kinds_of_ranking() -> None:
    """Totals of one verifier order as its ranks do, so a search with ranks has the winner of one with scores."""
    for require, seed in product([None, "b>0"], range(3)):
        by_score = searched(Selection.of(require), seed=seed)
        by_rank = searched(Selection.of(require), seed=seed, ensemble="rank")
        assert [e.candidate for e in by_score.ranking()] == [e.candidate for e in by_rank.ranking()]
