"""The particle core: when it looks and at what, whom it keeps, what its options mean."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.algorithms.tempering import POTENTIALS, tempered, unit_of
from genscale.engine.budget import Budget
from genscale.engine.process import PromptProcess
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.particles import draw
from genscale.protocol.population import Population
from genscale.samplers.code import Code
from genscale.samplers.fk_steering import FkSteering
from genscale.samplers.importance import Importance
from genscale.samplers.particle_gibbs import ParticleGibbs
from genscale.samplers.rebirth import Rebirth
from genscale.samplers.smc import Smc
from genscale.samplers.svdd import Svdd
from tests.analytic import Mixture, process_of, run

STEPS = 10


def process(steps: int = STEPS) -> PromptProcess:
    return PromptProcess(**process_of(steps))


@pytest.mark.parametrize(
    ("window", "interval", "steps", "wanted"),
    [
        ((0.2, 0.8), 0.2, 100, [20, 40, 60, 80]),  # FK steering's of 100
        ((0.2, 0.8), 0.2, 10, [2, 4, 6, 8]),
        ((0.2, 0.8), 0.2, 28, [6, 11, 17, 22]),
        ((0.5, 0.875), 0.125, 8, [4, 5, 6]),  # the last step's estimate is the image itself
        ((0.0, 1.0), 0.0, 6, [1, 2, 3, 4]),
        ((0.5, 1.0), 0.0, 8, [4, 5, 6]),
        ((0.0, 1.0), 1.0, 8, []),
        ((0.2, 0.8), 0.2, 2, []),
        ((0.2, 0.8), 0.2, 1, []),
        ((0.5, 0.5), 0.1, 10, [5]),
    ],
)
def test_scoring_steps(window: Any, interval: float, steps: int, wanted: list[int]) -> None:
    assert ParticleFilter(window=window, interval=interval).scoring_steps(process(steps)) == wanted


def test_states_are_scored_as_they_are_and_decoded_only_there() -> None:
    """A preview is the clean estimate *at* its step, not that of the call before."""
    sampler = Smc(5, window=(0.4, 0.6), interval=0.1)
    made = run(sampler, steps=STEPS)
    times = process_of(STEPS)["solver"].times
    first = [e for e in made.archive.entries if e.step == 4]
    assert len(first) == 5
    for entry in first:
        x = process().start([draw(Key.from_seed(0).fold("prompt", 0), entry.candidate.id)]).x
        for t, s in pairwise(times[:5]):
            x = x + (s - t) * Mixture().velocity(x, t)
        assert entry.total == pytest.approx(float(Mixture().clean(x, times[4])[0, 0]), abs=1e-5)
    assert made.ledger.decodes == len(made.archive.entries) == 5 * (3 + 1)
    assert {e.step for e in made.archive.entries} == {4, 5, 6, STEPS}


@pytest.mark.parametrize(("sampler", "kept"), [(Svdd(2, children=4), 2), (Code(3, children=3), 3)])
def test_each_parent_keeps_its_best_child(sampler: Any, kept: int) -> None:
    made = run(sampler, steps=STEPS)
    entries = made.archive.entries
    scoring = sampler.scoring_steps(process())
    for step, following in pairwise(scoring):
        pool = [e for e in entries if e.step == step]
        assert len(pool) == kept * sampler.children
        groups = [pool[i : i + sampler.children] for i in range(0, len(pool), sampler.children)]
        best = {max(g, key=lambda e: e.total).candidate.id for g in groups}
        children = [e.candidate for e in entries if e.step == following]
        assert {c.parent if c.step == step else c.id for c in children} <= best
        assert len({c.id for c in children}) == len(children)
    assert sum(e.final for e in entries) == kept


def test_infinite_strength_keeps_the_best_of_all() -> None:
    made = run(Smc(3, children=2, strength=math.inf, interval=0.2, window=(0.4, 0.8)), steps=STEPS)
    entries = made.archive.entries
    pool = sorted((e for e in entries if e.step == 4), key=lambda e: -e.total)
    assert len(pool) == 6
    later = [e.candidate for e in entries if e.step == 6]
    assert {c.parent if c.step == 4 else c.id for c in later} == {e.candidate.id for e in pool[:3]}


def test_copies_part_and_originals_stay() -> None:
    made = run(Smc(8, ess=1.0), steps=STEPS, seed=2)
    finals = [e for e in made.archive.entries if e.final]
    assert len({round(e.total, 9) for e in finals}) == len(finals)  # no two are the same
    assert all(e.candidate.id != 0 for e in finals)  # candidate 0 would be the pipeline's own image


def test_rebirth_leaves_survivors_on_the_ode() -> None:
    """Who was never copied ends where the ODE ends; copies do not."""
    made = run(Rebirth(6, strength=0.5), steps=STEPS)
    plain = run(Importance(6, rest="ode"), steps=STEPS)
    ode = {e.candidate.id: e.total for e in plain.archive.entries if e.final}
    stayed = [e for e in made.archive.entries if e.final and e.candidate.origin == "prior"]
    assert stayed
    for entry in stayed:
        assert entry.total == pytest.approx(ode[entry.candidate.id], abs=1e-5)
    born = [e for e in made.archive.entries if e.final and e.candidate.origin == "branch"]
    assert born
    assert all(min(abs(e.total - v) for v in ode.values()) > 1e-4 for e in born)


def test_the_population_is_returned_with_its_weights() -> None:
    made = run(Smc(8, strength=2.0, scale=1.0), steps=STEPS)
    population = made.searches[0].population
    assert isinstance(population, Population)
    finals = [e for e in made.archive.entries if e.final]
    assert [c.id for c in population.candidates] == [e.candidate.id for e in finals]
    assert population.totals.tolist() == [e.total for e in finals]
    assert 1 <= population.ess <= 8
    assert run(Importance(8), steps=STEPS).searches[0].population is not None
    record = population.as_dict()
    assert sum(record["weights"].values()) == pytest.approx(1, abs=1e-5)


def test_importance_weights_are_those_of_the_tilt() -> None:
    made = run(Importance(8, strength=2.0, scale=0.5), steps=STEPS)
    population = made.searches[0].population
    assert torch.allclose(population.weights, torch.softmax(4 * population.totals, 0))


# ---------------------------------------------------------------- potentials and tempering


def test_potentials_pay_for_the_tilt_in_the_end() -> None:
    """Whatever was paid on the way, all potentials together are exp(strength R)."""
    rewards, paid = torch.tensor([[0.1, 0.9, 0.4], [1.0, 0.2, 0.3]]).double(), torch.zeros(2).double()
    at = [
        POTENTIALS[name](rewards, 2.0, paid + 0.5).tolist() for name in ("difference", "max", "sum", "reward")
    ]
    assert at[0] == pytest.approx([0.3, 0.1])
    assert at[1] == pytest.approx([1.8, 2.0])
    assert at[2] == pytest.approx([2.8, 3.0])
    assert at[3] == pytest.approx([0.8, 0.6])


def strength_of(rule: str, progress: float, **more: Any) -> float:
    zeros = torch.zeros(4, dtype=torch.float64)
    rewards = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    settings = {"log_w": zeros, "applied": zeros, "rewards": rewards, "reached": 0.0, "target": 0.5} | more
    return tempered(rule, 10.0, progress, 1.0, **settings)


def test_tempering() -> None:
    assert strength_of("constant", 0.1) == 10
    assert strength_of("increasing", 0.0) == 0
    assert strength_of("increasing", 0.5) == pytest.approx(10 * (math.sqrt(2) - 1))
    assert strength_of("increasing", 1.0) == 10
    assert strength_of("damped", 0.5) == pytest.approx(10 / (1 + 2 * 10 * 0.5))
    found = strength_of("adaptive", 0.5)
    weights = torch.softmax(found * torch.arange(4.0).double(), 0)
    assert float(1 / (weights**2).sum()) == pytest.approx(2.0, abs=1e-6)
    assert strength_of("adaptive", 0.5, target=0.1) == 10  # the ESS of 4 cannot fall to 0.4
    assert strength_of("adaptive", 0.5, reached=3.0) >= 3.0


def test_the_unit_of_scores() -> None:
    scores = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert unit_of(scores, "previews") == 1.0
    assert unit_of(scores, 0.25) == 0.25
    assert unit_of(torch.ones(3), "previews") == 1.0
    assert unit_of(torch.ones(1), "previews") == 1.0


def test_a_verifier_s_scale_does_not_matter() -> None:
    def loud(media: Any, prompts: Any) -> torch.Tensor:
        return 1000 * media.pixels[:, 0, 0, 0].double() - 7

    for sampler in (Smc(6), FkSteering()):
        quiet, noisy = run(sampler, steps=STEPS), run(sampler, steps=STEPS, verifier=loud)
        assert [e.candidate for e in quiet.archive.entries] == [e.candidate for e in noisy.archive.entries]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "options",
    [{"particles": 0}, {"children": 0}, {"group": "all"}, {"strength": -1.0}, {"potential": "min"}, {"temper": "hot"},
     {"scheme": "dice"}, {"ess": 0.0}, {"ess": 1.5}, {"window": (0.8, 0.2)}, {"window": (0.5,)}, {"interval": -0.1},
     {"scale": "loud"}, {"scale": 0.0}, {"scheme": "killing", "children": 2}, {"kernel": "ode"}, {"kernel": "own"},
     {"rest": "euler"}, {"rebirth": "what"}, {"proposal": "x"}, {"strength": float("nan")}, {"strength": math.inf},
     {"temper": "adaptive", "ess": 1.0}, {"temper": "adaptive", "potential": "max"},
     {"kernel": "glass(2)", "rebirth": "ddim(1)"}, {"rebirth": "glass(2)"}, {"kernel": "glass(2)", "proposal": print},
     {"rebirth": "ddim(1)", "proposal": print}, {"kernel": "sde(rbf, ve)"}],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(ParticleFilter(), **options)


def test_a_run_too_short_to_score_says_so() -> None:
    with pytest.warns(UserWarning, match="a run of 3 steps has none to score"):
        run(Smc(4), steps=3)


def test_glass_needs_calls_between_levels() -> None:
    made = PromptProcess(**process_of(STEPS) | {"off_grid": "this scheduler has no rule"})
    with pytest.raises(UsageError, match="glass is not possible"):
        Smc(kernel="glass(2)").grid(made)
    assert Smc(kernel="glass(1)").grid(made) is made


def test_schedulers_that_cannot_begin_in_the_middle_are_not_asked_to() -> None:
    from diffusers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler, UniPCMultistepScheduler

    from genscale.pipelines.solver import restarts

    assert all(
        map(restarts, (DDIMScheduler(), UniPCMultistepScheduler(), PNDMScheduler(skip_prk_steps=True)))
    )
    assert not restarts(PNDMScheduler())
    assert not restarts(LMSDiscreteScheduler(num_train_timesteps=50))
    bound = PromptProcess(**process_of(STEPS) | {"own_restarts": False})
    assert Smc().kernels(bound)[1] is not None
    assert Smc().kernels(process())[1] is None
    assert Importance().kernels(bound)[1] is None


def test_adaptive_tempering_resamples_where_it_meets_its_target() -> None:
    for seed in range(6):
        made = run(Smc(16, temper="adaptive", interval=0.0, window=(0.1, 0.9)), steps=STEPS, seed=seed)
        step, share = made.searches[0].population.resampled[0]
        assert share == pytest.approx(0.5, abs=1e-6)
        assert step == 1  # at the first scoring, not left to rounding


def test_a_gibbs_population_may_hold_a_candidate_twice() -> None:
    made = run(ParticleGibbs(3, sweeps=6), steps=STEPS)
    population = made.searches[0].population
    record = population.as_dict()
    assert sum(record["weights"].values()) == pytest.approx(1)
    assert record["log_evidence"] is None
    assert math.isnan(population.log_evidence)


def test_the_best_of_all_passes_has_all_the_weight_of_an_infinite_strength() -> None:
    made = run(Svdd(children=3), steps=STEPS, budget=Budget(nfe=200))
    population = made.searches[0].population
    assert len(population.candidates) > 2
    assert float(population.weights.max()) == 1
    assert float(population.totals[population.weights.argmax()]) == float(population.totals.max())
