"""A guard ends a search whose searched score rises while a second one falls: by hand, and on a law with a turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import genscale
from genscale.engine.budget import Budget
from genscale.engine.guard import Guard
from genscale.engine.search_rules import guard_set
from genscale.engine.stopping import Patience, Stop
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.samplers.best_of_n import BestOfN
from tests.analytic import first_coordinate, run
from tests.zoo import ZOO

OPEN = BestOfN(wave=1)


@pytest.mark.parametrize(
    ("leaders", "patience", "drop", "turned"),
    [
        ([1, 2, 3], 1, 0, False),
        ([1, 2, 1.9], 1, 0, True),
        ([1, 2, 1.9], 2, 0, False),
        ([1, 2, 1.9, 1.95], 2, 0, True),  # below the best, though it rises again
        ([1, 2, 1.9, 2, 1.9], 2, 0, False),  # level with the best: the row begins anew
        ([1, 1, 1, 1], 1, 0, False),
        ([1, 0, 0], 2, 0, True),
        ([2, 1.9, 1.9], 1, 0.2, False),
        ([2, 1.9, 1.7], 1, 0.2, True),
        ([], 1, 0, False),
    ],
)
def test_when_leaders_have_fallen(leaders: list[float], patience: int, drop: float, turned: bool) -> None:
    assert Guard("b", patience, drop).turned(leaders) is turned


TURN = 1.0


def truth(media: Any, prompts: Any) -> Any:
    """What the first coordinate stands for: it rises with it up to a turn, and then falls."""
    x = media.pixels[:, 0, 0, 0].double()
    truth.asked += x.tolist()  # type: ignore[attr-defined]
    return -(x - TURN).abs()


def guarded(stop: Any, **settings: Any) -> Any:
    truth.asked = []  # type: ignore[attr-defined]
    rules = Stop.of(stop)
    roles = Roles(VerifierSet((WeightedVerifier("first", first_coordinate),)), guard=guard_set(rules))
    settings = {"budget": Budget(nfe=2 * 80), "steps": 2} | settings
    return run(OPEN, roles=roles, stop=rules, **settings)


def by_hand(scores: list[float], patience: int) -> int | None:
    """After how many scores the search ends."""
    leader, best, fallen = -9e9, -9e9, 0
    for n, x in enumerate(scores, 1):
        if x > leader:
            leader, seen = x, -abs(x - TURN)
            fallen, best = (fallen + 1 if seen < best else 0), max(best, seen)
            if fallen >= patience:
                return n
    return None


@pytest.mark.parametrize("patience", [1, 2])
def test_a_search_ends_where_the_truth_has_turned(patience: int) -> None:
    ends = []
    for seed in range(4):
        whole = run(OPEN, budget=Budget(nfe=2 * 80), seed=seed, steps=2).searches[0]
        scores = [float(e.total) for e in whole.finals]
        search = guarded(Guard(truth, patience), seed=seed).searches[0]
        after = by_hand(scores, patience)
        ends.append(after)
        assert [float(e.total) for e in search.finals] == scores[:after]
        assert (None if search.stopped is None else search.stopped.after) == after
        leaders = [x for n, x in enumerate(scores[:after]) if x == max(scores[: n + 1])]
        assert truth.asked == pytest.approx(leaders)  # type: ignore[attr-defined]  # no other was looked at
    assert sum(after is not None for after in ends) >= 2  # the bed turns


def test_a_guard_that_agrees_does_not_stop() -> None:
    assert guarded(Guard(first_coordinate)).searches[0].stopped is None


def test_batches_and_resumption_change_nothing(tmp_path: Path) -> None:
    whole = guarded(Guard(truth, 1), prompts=2)
    assert whole.searches[0].stopped.rule == "guard:truth:patience=1"
    rows = [[(e.candidate.id, e.total, e.guard) for e in s.finals] for s in whole.searches]

    def killed(batch: Any, rows_under_way: Any) -> None:
        if any(candidate == 4 for _, candidate in rows_under_way):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(Guard(truth, 1), prompts=2, folder=tmp_path, on_batch=killed)
    for settings in ({"folder": tmp_path, "prompts": 2}, {"batch_size": 64, "prompts": 2}, {"prompts": 1}):
        again = guarded(Guard(truth, 1), **settings).searches
        assert [[(e.candidate.id, e.total, e.guard) for e in s.finals] for s in again] == rows[: len(again)]
        assert [s.stopped for s in again] == [s.stopped for s in whole.searches[: len(again)]]


def test_scores_that_are_not_finite_are_passed_over() -> None:
    def odd(media: Any, prompts: Any) -> Any:
        return torch.full((len(prompts),), float("nan"))

    search = guarded(Guard(odd, 1)).searches[0]
    assert search.stopped is None
    assert not search.dropped
    assert all(e.guard == {} for e in search.finals)


# ---------------------------------------------------------------- text and roles


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("guard:shapes", [Guard("shapes")]),
        (" Guard : shapes : patience = 2 , patience:8", [Guard("shapes", 2), Patience(8)]),
        (
            "guard:clip(model=ViT-B-32,device=cpu):drop=0.1",
            [Guard("clip(model=ViT-B-32,device=cpu)", 3, 0.1)],
        ),
        ("guard:calibrated:a b/c:patience=1", [Guard("calibrated:a b/c", 1)]),
    ],
)
def test_what_is_read(text: str, rules: list[Any]) -> None:
    assert Stop.parse(text) == Stop(tuple(rules))
    assert Stop.parse(str(Stop.parse(text))) == Stop(tuple(rules))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("guard:", "cannot read"),
        ("guard", "cannot read"),
        ("guard:shapes:patience=x", "cannot read 'patience=x'"),
        ("guard:shapes:wait=3", "cannot read 'wait=3'"),
        ("guard:shapes:patience=1:patience=2", "patience of guard twice"),
        ("guard:shapes:patience=0", "at least 1"),
        ("guard:shapes:drop=-1", "0 or more"),
        ("guard:shapes:drop=nan", "0 or more"),
    ],
)
def test_what_cannot_be_read(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Stop.parse(text)


def test_a_pipeline_has_its_guard_scored_and_recorded(tmp_path: Path) -> None:
    pipe = ZOO["stable_diffusion"].build()
    better = genscale.scale(
        pipe, "best_of_n", "compressibility", stop="guard:compressibility", candidates=2, out=tmp_path
    )
    asked = {"num_inference_steps": 2, "width": 16, "height": 16, "output_type": "np"}
    search = better("a star", generator=torch.Generator().manual_seed(0), **asked).search
    first = search.searches[0].finals[0]
    assert first.guard == first.scores
    assert search.ledger.verifier_calls["compressibility"] >= 3
    with pytest.raises(UsageError, match="verifier 'shappes' is unknown"):
        genscale.scale(pipe, "best_of_n", "compressibility", stop="guard:shappes")
    with pytest.raises(UsageError, match="another run"):
        genscale.scale(pipe, "best_of_n", "compressibility", candidates=2, out=tmp_path)(
            "a star", generator=torch.Generator().manual_seed(0), **asked
        )


def test_a_guard_of_the_command_line_imports_no_code(genscale: Any, tmp_path: Path) -> None:
    words = ("generate", "a red star", "--stop", "guard:os.path:exists", "--out", str(tmp_path / "run"))
    code, _, err = genscale(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert "has code of a module" in err
    assert list(tmp_path.iterdir()) == []
