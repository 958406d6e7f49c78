"""`candidates=N` sets the size of every sampler, under the sampler's own name for it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

from genscale.engine.process import PromptProcess
from genscale.errors import UsageError
from genscale.plugins import candidates, options, registry
from genscale.plugins.catalog import plugin_records
from tests.analytic import process_of, run
from tests.quick import NUMBERS

NAMES = list(registry.found("sampler"))
# What ends a search soon where its default runs until a budget ends it, or for hundreds of evaluations.
SHORT: dict[str, dict[str, Any]] = {
    **{name: {"iterations": 2} for name in ("carinox", "dflow", "ditto", "ditto2", "dno", "reno")},
    "rollover": {"calls": 80},
    "nlg": {"repeats": 2},
    **NUMBERS,
}


def spent(name: str, n: int) -> int:
    """NFE of a whole search on the closed-form model, without a budget."""
    sampler = registry.make("sampler", name, {"candidates": n, **SHORT.get(name, {})})
    return run(sampler, batch_size=64).ledger.nfe


@dataclass(frozen=True)
class Mute:
    """A third party's sampler that does not say what `candidates` sets."""

    swarm: int = 4


@dataclass(frozen=True)
class Telling:
    """One that says so."""

    swarm: int = 4
    share: float = 0.5

    size_option: ClassVar[str] = "swarm"

    @classmethod
    def sized(cls, n: int) -> dict[str, Any]:
        return {"share": 1 / n}


@pytest.fixture
def third_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.entry_points
    points = [EntryPoint(n, f"{__name__}:{n.title()}", "genscale.samplers") for n in ("mute", "telling")]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [*real(group=group), *(points if "samplers" in group else [])]
    )
    assert __name__ in sys.modules


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_takes_it_as_its_own_size(name: str) -> None:
    cls = registry.load("sampler", name)
    known = [f.name for f in fields(cls)]
    own = candidates.size_option(cls) or "candidates"
    assert own in known
    assert getattr(registry.make("sampler", name, {"candidates": 16}), own) == 16
    assert registry.make("sampler", name, {"candidates": 16}) == registry.make(
        "sampler", name, {own: 16, **candidates.followers(cls, 16)}
    )
    typed = options.typed("sampler", name, cls, {"candidates": "16"})  # as the command line gives it
    assert typed[own] == 16
    assert (own == "candidates") == ("candidates" in typed)
    assert set(candidates.followers(cls, 16)) < set(known)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "rollover"])  # its calls are a field of their own
def test_more_candidates_cost_more(name: str) -> None:
    assert spent(name, 3) < spent(name, 9)


def test_rollover_shares_its_calls_among_its_chains() -> None:
    few, many = (registry.make("sampler", "rollover", {"candidates": n, "calls": 80}) for n in (2, 5))
    ends = [len(run(sampler, batch_size=64).searches[0].finals) for sampler in (few, many)]
    assert ends[0] < ends[1]


@pytest.mark.parametrize(
    "name", [n for n in NAMES if not registry.load("sampler", n).needs & {"mix", "branches"}]
)
def test_a_plan_costs_at_least_as_much(name: str) -> None:
    process = PromptProcess(**process_of())
    costs = [registry.make("sampler", name, {"candidates": n}).cost(process) for n in (2, 4, 16, 64)]
    known = [cost for cost in costs if cost is not None]  # some depend on the scores
    assert known == sorted(known)


@pytest.mark.parametrize("name", NAMES)
def test_the_listing_says_what_it_sets(name: str) -> None:
    (record,) = plugin_records("sampler", name)
    if "candidates" in record["options"]:
        assert record["candidates"] == ""
    else:
        assert record["candidates"].startswith(f"sets {registry.load('sampler', name).size_option}")


def test_the_page_of_a_sampler_says_it(genscale: Any) -> None:
    code, out, err = genscale("samplers", "smc")
    assert (code, err) == (0, "")
    assert any("--candidates" in line and "sets particles" in line for line in out.splitlines())
    assert json.loads(genscale("samplers", "dlbs", "--json")[1])["candidates"] == (
        "sets width, and survivors in proportion"
    )


def test_the_share_that_goes_on_stays_the_same() -> None:
    assert registry.make("sampler", "dlbs", {"candidates": 8}) == registry.make("sampler", "dlbs", {})
    assert registry.make("sampler", "treeg", {"candidates": 16}) == registry.make("sampler", "treeg", {})
    assert registry.make("sampler", "dlbs", {"candidates": 16}).survivors == 8
    assert registry.make("sampler", "dlbs", {"candidates": 16, "survivors": 3}).survivors == 3
    evolution = registry.make("sampler", "evolution", {"candidates": 42})
    assert (evolution.start, evolution.sizes, evolution.elites) == (42, 26, 5)


def test_the_size_is_given_once() -> None:
    with pytest.raises(UsageError, match="candidates=4 and particles=8 set the same option of sampler 'smc'"):
        registry.make("sampler", "smc", {"candidates": 4, "particles": 8})
    cls = registry.load("sampler", "smc")
    with pytest.raises(UsageError, match="give one of them"):
        options.typed("sampler", "smc", cls, {"candidates": "4", "particles": "8"})


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "4"])
def test_it_is_a_number_of_candidates(n: Any) -> None:
    with pytest.raises(UsageError, match="whole number of at least 1"):
        registry.make("sampler", "smc", {"candidates": n})


def test_none_is_the_default() -> None:
    assert registry.make("sampler", "zero_order", {"candidates": None}).neighbours == 4


@pytest.mark.usefixtures("third_parties")
def test_a_plug_in_says_what_it_sets_or_is_refused() -> None:
    assert registry.make("sampler", "telling", {"candidates": 8}) == Telling(8, 1 / 8)
    assert registry.make("sampler", "telling", {"candidates": 8, "share": 0.3}) == Telling(8, 0.3)
    for make in (
        lambda: registry.make("sampler", "mute", {"candidates": 8}),
        lambda: options.typed("sampler", "mute", Mute, {"candidates": "8"}),
    ):
        with pytest.raises(UsageError) as caught:
            make()
        assert str(caught.value) == (
            "sampler 'mute' has no option 'candidates': set its own (swarm), or name the one that is meant in its "
            "class, as in size_option = 'particles'."
        )


def test_verifiers_have_no_size() -> None:
    with pytest.raises(UsageError, match="has no option 'candidates'"):
        registry.make("verifier", "shapes", {"candidates": 8})
