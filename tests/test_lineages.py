"""First ancestors of weighted candidates, beside the effective sample size; and VASR-Max, which selects few of them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from genscale.algorithms import particle_pass, tree_search
from genscale.algorithms.particle_pass import Pass
from genscale.algorithms.particle_pool import Pool
from genscale.engine.budget import Budget
from genscale.errors import UsageError
from genscale.protocol.population import Population
from genscale.samplers import fkc
from genscale.samplers.dts import Dts
from genscale.samplers.fk_steering import FkSteering
from genscale.samplers.fkc import Fkc
from genscale.samplers.importance import Importance
from genscale.samplers.particle_gibbs import ParticleGibbs
from genscale.samplers.smc import Smc
from genscale.samplers.svdd import Svdd
from genscale.samplers.vasr import Vasr
from tests.analytic import run
from tests.test_particle_law import LOG_Z, SEARCHES, TILTED, exactly, populations, z_scores

STEPS = 10
MODULES: tuple[ModuleType, ...] = (particle_pass, fkc, tree_search)


def with_roots(
    monkeypatch: pytest.MonkeyPatch, sampler: Any, budget: Budget | None = None
) -> tuple[Population, list[int]]:
    """The population of a search, and the first ancestors of its candidates by following who was branched from whom."""
    parent: dict[int, int] = {}
    for module in MODULES:
        whole = module.branch

        def noted(key: Any, i: int, of: Any, *rest: Any, whole: Any = whole) -> Any:
            made = whole(key, i, of, *rest)
            parent[made.id] = of.id
            return made

        monkeypatch.setattr(module, "branch", noted)
    population = run(sampler, steps=STEPS, budget=budget).searches[0].population
    assert population is not None
    roots = []
    for candidate in population.candidates:
        at = (
            candidate.id if candidate.id >= 0 else candidate.parent
        )  # candidate 0, off the pipeline's own path
        while at in parent:
            at = parent[at]
        roots.append(at)
    return population, roots


SAMPLERS = {
    "smc": Smc(8, strength=30.0, window=(0.1, 0.9), interval=0.1),
    "fk_steering": FkSteering(6),
    "children": Smc(4, children=3),
    "vasr": Vasr(8),
    "gibbs": ParticleGibbs(4, sweeps=4),
    "fkc": Fkc(12, ess=1.0),
    "dts": Dts(24),
    "svdd": Svdd(children=4),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_first_ancestors_are_those_that_copies_were_made_of(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    population, roots = with_roots(monkeypatch, SAMPLERS[name])
    assert list(population.ancestors) == roots
    weighted = {r for r, w in zip(roots, population.log_weights.tolist(), strict=True) if w > -math.inf}
    assert population.distinct_ancestors == len(weighted) <= len(population.candidates)
    assert population.as_dict()["distinct_ancestors"] == len(weighted)


def test_of_several_passes_they_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    population, roots = with_roots(monkeypatch, Smc(4), Budget(nfe=4 * STEPS * 3))
    assert len(population.candidates) == 12
    assert list(population.ancestors) == roots


def test_the_check_sees_lineages_that_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: rows that are taken without their first ancestors."""
    whole = Pool.take

    def twin(self: Pool, rows: Any) -> Pool:
        taken = whole(self, rows)
        taken.roots = self.roots[: len(taken.roots)]
        return taken

    monkeypatch.setattr(Pool, "take", twin)
    population, roots = with_roots(monkeypatch, SAMPLERS["smc"])
    assert list(population.ancestors) != roots


def test_the_effective_sample_size_hides_what_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Smc(
        16, strength=4.0, window=(0.1, 0.9), interval=0.1, ess=1.0, temper="constant", kernel="ddim(0.5)",
        scheme="multinomial",
    )  # fmt: skip
    collapsed, _ = with_roots(monkeypatch, sampler)
    assert collapsed.distinct_ancestors == 1
    assert collapsed.ess > 12
    plain = run(Importance(16, strength=0.0), steps=STEPS).searches[0].population
    assert plain.distinct_ancestors == plain.ess == 16
    assert replace(plain, ancestors=()).distinct_ancestors is None


def test_the_best_alone_has_one_ancestor() -> None:
    population = run(Svdd(3, children=3), steps=STEPS).searches[0].population
    assert population.distinct_ancestors == 1 < len(population.candidates)


# ---------------------------------------------------------------- VASR-Max


def offspring(monkeypatch: pytest.MonkeyPatch, sampler: Vasr) -> list[tuple[torch.Tensor, Counter[int]]]:
    """For every resampling the masses [n] before it, and how many offspring each row had."""
    found = []
    whole = Pass._survivors

    def noted(self: Pass, pool: Pool, step: int) -> Any:
        kept = whole(self, pool, step)
        assert kept is not None
        found.append((pool.log_w.clone(), Counter(kept[0])))
        return kept

    monkeypatch.setattr(Pass, "_survivors", noted)
    run(sampler, steps=STEPS)
    return found


@pytest.mark.parametrize(("elite", "kept"), [(0.25, 2), (0.3, 3), (0.01, 1), (1.0, 8)])
def test_the_largest_masses_share_all_offspring_evenly(
    elite: float, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = offspring(monkeypatch, Vasr(8, offspring="max", elite=elite))
    assert len(found) == 4
    for mass, counts in found:
        assert set(counts) == set(mass.argsort(descending=True)[:kept].tolist())
        assert sum(counts.values()) == 8
        assert max(counts.values()) - min(counts.values()) <= 1  # systematic: no chance but in the remainder


def test_by_mass_more_of_them_have_offspring(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check above would see of VASR itself."""
    found = offspring(monkeypatch, Vasr(8))
    assert any(set(c) != set(m.argsort(descending=True)[:2].tolist()) for m, c in found)


def test_it_is_biased_and_says_so() -> None:
    """By mass the evidence is exact (test_particle_law.py); what the largest masses would claim is not."""
    found = [s.population for s in populations(exactly(Vasr(), offspring="max"), SEARCHES // 2)]
    assert all(not p.has_evidence for p in found)
    claimed = [replace(p, has_evidence=True) for p in found]
    assert max(map(abs, z_scores(claimed, LOG_Z, TILTED.mean))) > 4


def test_failed_particles_have_no_offspring() -> None:
    sampler = Vasr(8, offspring="max", elite=0.5)
    dead = torch.tensor([-math.inf, 0.0, -math.inf, -math.inf], dtype=torch.float64)
    assert sampler.shares(dead).tolist() == [0.0, 1.0, 0.0, 0.0]
    assert sampler.shares(torch.full((4,), -math.inf)).tolist() == [0.25] * 4


@pytest.mark.parametrize(
    "options",
    [{"offspring": "best"}, {"elite": 0.0}, {"elite": 1.5}, {"offspring": "max", "scheme": "killing"},
     {"offspring": "max", "children": 2}],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Vasr(**options)
