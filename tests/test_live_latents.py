"""A search holds the latents of its population and of the candidates that it keeps, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from genscale.engine.archive import Entry
from genscale.engine.budget import Budget
from genscale.engine.plan import plan
from genscale.engine.process import PromptProcess
from genscale.engine.scoring import ScoreJob, Scoring
from genscale.engine.verifier_roles import Roles, verifier_set
from genscale.key import Key
from genscale.samplers.beam import Beam
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.dts_star import DtsStar
from genscale.samplers.evolution import Evolution
from genscale.samplers.smc import Smc
from genscale.samplers.svdd import Svdd
from genscale.toy import analytic
from tests.live_latents import DIM, held

KEEP = 2
WITHOUT = 3 + 1 + 0.5  # the prior's offset, scale and own latents; the own candidate, finished; scores
SEARCHES = {
    "smc": Smc(8),
    "svdd": Svdd(2, children=4),
    "beam": Beam(8),
    "dts_star": DtsStar(12),
    "best_of_n": BestOfN(12),
    "evolution": Evolution(start=6),
}
HEAVY = [pytest.param(name, marks=pytest.mark.slow) for name in ("dts_star", "best_of_n", "evolution")]


@pytest.mark.parametrize("name", ["smc", "svdd", "beam", *HEAVY])
def test_after_a_search_only_what_is_kept_is_held(name: str) -> None:
    found = held(SEARCHES[name], keep=KEEP, steps=8)
    entries = found.result.entries
    kept = [e.x for e in entries if e.x is not None]
    assert found.after < KEEP + WITHOUT
    assert all(e.x is None for e in entries if not e.final)
    assert 1 <= len(kept) <= KEEP + 1
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in kept)  # not a view of a whole batch


def planned(name: str) -> int:
    """Latents at the peak, by the formula of the plan."""
    roles = Roles(verifier_set(analytic.coordinate(0), "weighted"))
    process = analytic._process(analytic.gaussian(DIM), 8, Key.from_seed(0))
    made = plan(SEARCHES[name], process, Budget(), roles, 1, keep=KEEP, batch_size=4)
    assert made.held is not None
    assert made.held.bytes == 4 * DIM * made.held.latents
    return made.held.latents


@pytest.mark.parametrize("name", ["smc", "beam", pytest.param("svdd", marks=pytest.mark.slow), *HEAVY])
def test_a_plan_says_the_peak(name: str) -> None:
    measured, most = held(SEARCHES[name], free=True, keep=KEEP, steps=8, batch_size=4).peak, planned(name)
    assert most / 2 <= measured <= most


@pytest.mark.parametrize("name", ["smc"])
def test_a_peak_above_the_plan_would_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved, kept = PromptProcess.move, list[Any]()

    def keeping(self: PromptProcess, *given: Any) -> Any:
        kept.append(given)
        return moved(self, *given)

    monkeypatch.setattr(PromptProcess, "move", keeping)
    assert held(SEARCHES[name], free=True, keep=KEEP, steps=8, batch_size=4).peak > planned(name)


@pytest.mark.parametrize("name", ["smc", "svdd", *HEAVY])
def test_an_engine_that_keeps_what_it_scored_would_be_seen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = Scoring._entry

    def keeping(self: Scoring, job: ScoreJob, *scores: Any) -> Entry:
        entry = entered(self, job, *scores)
        entry.held_out["kept"] = job.search.particles.x[job.row]  # type: ignore[assignment]
        return entry

    monkeypatch.setattr(Scoring, "_entry", keeping)
    assert held(SEARCHES[name], keep=KEEP, steps=8).after >= KEEP + WITHOUT
