"""What a population claims: an unbiased estimate of the evidence is claimed only by samplers held to a closed form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch

from genscale.algorithms.tree_search import TreeSearch
from genscale.protocol.population import Population
from genscale.samplers.ab_mcts import AbMcts
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.dts import Dts
from genscale.samplers.dts_star import DtsStar
from genscale.samplers.fkc import Fkc
from genscale.samplers.importance import Importance
from genscale.samplers.smc import Smc
from tests.analytic import SAMPLERS, run
from tests.quick import quick
from tests.test_particle_law import BED, CLAIM, STRENGTH, TILTED, Exact, exactly, populations, z_scores
from tests.test_twist import TWISTED

# The samplers whose evidence and means are tested against a closed form: in the tables of test_particle_law.py and
# test_twist.py, and in test_fkc.py (test_the_sampler_is_that_and_says_the_evidence).
HELD = {type(s) for s in (*CLAIM.values(), *TWISTED.values())} | {Fkc}


def claiming(samplers: Iterable[Any]) -> Iterator[type]:
    """Types of the samplers that claim evidence on the mixture, with scores in their own unit where they can be."""
    for sampler in samplers:
        has = {f.name for f in fields(sampler)}
        search = run(replace(sampler, scale=1.0) if "scale" in has else sampler, batch_size=64).searches[0]
        if search.population is not None and search.population.has_evidence:
            yield type(sampler)


@dataclass(frozen=True)
class Claims(BestOfN):
    """A new sampler that claims evidence, and that no test knows."""

    def search(self, process: Any, key: Any) -> Any:
        yield from super().search(process, key)
        return replace(Population.empty(), has_evidence=self.wave != 1)


def weighting() -> list[Any]:
    """One configuration, the first, of every registered sampler."""
    first: dict[type, Any] = {}
    for sampler in SAMPLERS.values():
        first.setdefault(type(sampler), sampler)
    return list(first.values())


def test_who_claims_evidence_is_held_to_a_closed_form() -> None:
    found = set(claiming(weighting()))
    assert found <= HELD, f"add to CLAIM of test_particle_law.py: {found - HELD}"
    assert {Smc, Importance, Fkc} <= found  # the check has something to see


@pytest.mark.slow
def test_so_is_every_configuration() -> None:
    assert set(claiming(SAMPLERS.values())) <= HELD


def test_the_check_sees_a_new_sampler_that_claims() -> None:
    assert not set(claiming([Claims(2)])) <= HELD
    assert set(claiming([Claims(2, wave=1)])) <= HELD  # it claims nothing


def on_the_bed(sampler: TreeSearch) -> Any:
    return replace(sampler, strength=STRENGTH, scale=1.0, kernel=Exact(), rest=Exact(), levels=(0.25, 0.5))


@pytest.mark.parametrize("sampler", [Dts(20), Dts(20, strength=math.inf), DtsStar(20), AbMcts(20)])
def test_trees_claim_none(sampler: Any) -> None:
    """Nor is one written to run.json; that of DTS* was -log n."""
    population = run(sampler).searches[0].population
    assert population is not None
    assert not population.has_evidence
    assert math.isnan(population.log_evidence)
    assert population.as_dict()["log_evidence"] is None


def tree_z(claims: bool) -> float:
    """z of the evidence that a tree would claim: NaN where it claims none."""
    _, log_z = BED.tilted(STRENGTH)
    found = [s.population for s in populations(on_the_bed(Dts(rollouts=32)), 80)]
    claimed = [replace(p, has_evidence=p.has_evidence or claims) for p in found]
    return z_scores(claimed, log_z, TILTED.mean)[0]


@pytest.mark.slow
def test_the_closed_form_sees_a_tree_that_claims() -> None:
    """The broken twin: the tree's estimate of Z is about three quarters of it."""
    assert math.isnan(tree_z(claims=False))
    assert tree_z(claims=True) < -4


@pytest.mark.parametrize("name", quick(CLAIM, ("importance", "smc")))
def test_a_unit_from_the_particles_own_scores_claims_none(name: str) -> None:
    """With scale="previews" the target depends on the particles, which biases the estimate of its Z."""
    fixed, pooled = (
        populations(replace(exactly(CLAIM[name]), scale=scale), 1)[0].population
        for scale in (1.0, "previews")
    )
    assert fixed.has_evidence
    assert not pooled.has_evidence


def ratios(unit: str | float, n: int = 8, searches: int = 20_000) -> torch.Tensor:
    """(estimate of Z) / Z of importance sampling with n exact draws each, Z being that of the unit that was used."""
    scores = BED.draw(n * searches, 0).reshape(searches, n)
    used = scores.std(1, correction=0) if unit == "previews" else torch.full((searches,), float(unit))
    weight = BED.weights.log() + BED.means / used[:, None] + (BED.std / used[:, None]) ** 2 / 2
    return (scores / used[:, None]).exp().mean(1) / weight.exp().sum(1)


@pytest.mark.parametrize(("unit", "biased"), [(1.0, False), ("previews", True)])
def test_why_the_unit_matters(unit: Any, biased: bool) -> None:
    found = ratios(unit)
    z = float((found.mean() - 1) / (found.std() / math.sqrt(len(found))))
    assert (z < -10) if biased else (abs(z) < 4), z
