"""Feynman-Kac correctors: the law that the weights of a mix name, exactly, and what becomes of it without them."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import genscale
from benchmarks.correctors import APART, LAWS, NARROW, WIDE, particles
from benchmarks.lines import Line, Target
from genscale.diffusion.corrector import even_times, increment, subdued
from genscale.diffusion.guidance import Cfg
from genscale.diffusion.kernels import Ddim
from genscale.diffusion.mixtures import Source, Tempered, Weighted, negate
from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule
from genscale.engine.budget import Budget
from genscale.engine.process import PromptProcess
from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError
from genscale.numerics.resampling import log_mean_exp, normalised
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.dts_star import DtsStar
from genscale.samplers.fkc import Fkc
from genscale.samplers.smc import Smc
from tests.analytic import Run, mixed, process_of, run
from tests.zoo import ZOO

# (churn, steps) of each; weights that sum to 1 are right with any churn
CASES = {
    "guidance, scale 2.5": (1.0, 100),
    "three models": (1.0, 100),
    "product": (2.0, 150),
    "annealed 2": (2.0, 150),
    "annealed 0.5": (1.0, 150),
}
GUIDANCE, N = "guidance, scale 2.5", 3000


def carried(laws: Any, weights: Any, churn: float, steps: int, seed: int, corrected: bool = True) -> Any:
    """(draws [N], log-weights): the sampler's arithmetic for many particles, without an engine."""
    x, log_w = particles(laws, weights, n=N, d=1, steps=steps, churn=churn, seed=seed, corrected=corrected)
    return x[:, 0], log_w


@functools.cache
def miss(law: Line, churn: float, steps: int) -> float:
    """What the integrator misses of one model alone."""
    return Target((law,), (1.0,)).distance(carried((law,), (1.0,), churn, steps, seed=2)[0])


@pytest.mark.parametrize("name", CASES)
def test_weighted_particles_have_the_law_that_the_weights_name(name: str) -> None:
    """Within 4 sigma of what so many exact draws miss by, beside what the integrator misses of one model alone."""
    (laws, weights), (churn, steps) = LAWS[name], CASES[name]
    target = Target(laws, weights)
    x, log_w = carried(laws, weights, churn, steps, seed=1)
    mean, sd = target.floor(N / 2)  # with fewer effective particles they are resampled
    allowed = mean + 4 * sd + miss(laws[-1], churn, steps)
    assert target.distance(x, normalised(log_w)) < allowed
    twin, _ = carried(laws, weights, churn, steps, seed=1, corrected=False)
    assert target.distance(twin) > allowed


def test_the_evidence_is_that_of_the_product() -> None:
    """With weights that sum to 1 the mean weight estimates the integral of prod q_i^w_i."""
    (laws, weights), (churn, steps) = LAWS[GUIDANCE], CASES[GUIDANCE]
    found = [float(log_mean_exp(carried(laws, weights, churn, steps, seed)[1])) for seed in range(4)]
    mean, error = sum(found) / 4, float(torch.tensor(found).std()) / 2
    assert abs(mean - Target(laws, weights).log_evidence) < 4 * error + 0.02
    assert error < 0.05 < Target(laws, weights).log_evidence - 0.5  # that without weights is 0


def test_increments() -> None:
    r = torch.tensor([1.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(increment(r, NoiseLevel(0.5, 0.5), NoiseLevel(0.8, 0.2)), r * math.log(4))
    torch.testing.assert_close(increment(r, NoiseLevel(0.9, 0.1), NoiseLevel(1.0, 0.0)), r / 2)
    assert torch.equal(
        increment(r, NoiseLevel(0.0, 1.0), NoiseLevel(0.5, 0.5)), torch.zeros(2, dtype=torch.float64)
    )
    assert torch.equal(subdued(r, 1.0, math.inf), r)
    assert subdued(r, 2.0, 0.5).tolist() == [0.5, -0.5]
    kappas = [t / (1 - t) for t in even_times(4, 50.0, 0.05)]
    assert kappas == pytest.approx([50.0, 5.0, 0.5, 0.05])


# ---------------------------------------------------------------- the sampler


def on(laws: Sequence[Line], weights: Sequence[float], sampler: Any, **more: Any) -> Run:
    names = ("", "b", "c")[: len(laws)]
    mix = Weighted(tuple(Source(model=n) for n in names), tuple(weights))
    models = dict(zip(names[1:], laws[1:], strict=True))
    return run(sampler, mix=mix, mixture=laws[0], models=models, **{"dim": 1, "batch_size": 4096} | more)


def test_the_sampler_is_that_and_says_the_evidence() -> None:
    laws, weights = LAWS[GUIDANCE]
    target = Target(laws, weights)
    distances = []
    for temperature in (1.0, math.inf):
        made = on(laws, weights, Fkc(300, kernel="ddim(1)", temperature=temperature), steps=50)
        population = made.searches[0].population
        distances.append(target.distance(population.totals, population.weights))
        assert made.ledger.evaluations == 300 * 50 * 2
        if temperature == 1:
            assert population.ess > 60
            assert population.log_evidence == pytest.approx(target.log_evidence, abs=0.3)
        else:
            assert math.isnan(population.log_evidence)
    mean, sd = target.floor(150)
    assert distances[0] < mean + 4 * sd < distances[1]


def test_weights_that_do_not_sum_to_1_start_narrower_and_on_even_levels() -> None:
    made = on((APART,), (2.0,), Fkc(400), steps=10)
    first = made.batches[0]
    kappas = [b.time / (1 - b.time) for b in made.batches]
    assert kappas == pytest.approx([50 * (kappas[-1] / 50) ** (i / 9) for i in range(10)])
    assert float(first.x.std()) == pytest.approx(50 / 51 / math.sqrt(2), rel=4 / math.sqrt(800))
    wide = on((APART,), (1.0,), Fkc(400), steps=10).batches[0]
    assert float(wide.x.std()) == pytest.approx(1.0, rel=4 / math.sqrt(800))


def test_without_a_verifier_the_first_is_drawn_by_the_weights() -> None:
    laws, weights = LAWS[GUIDANCE]
    hits, shares, firsts = [], [], []
    for seed in range(100):
        made = on(laws, weights, Fkc(6, ess=0.0, temperature=0.25), steps=8, seed=seed, roles=Roles())
        population = made.searches[0].population
        heaviest = population.candidates[int(population.weights.argmax())].id
        shares.append(float(population.weights.max()))
        hits.append(float(made.winners[0].candidate.id == heaviest))
        firsts.append(float(min(c.id for c in population.candidates) == heaviest))
    expected, error = sum(shares), math.sqrt(sum(s * (1 - s) for s in shares))
    assert abs(sum(hits) - expected) < 4 * error
    assert abs(sum(firsts) - expected) > 4 * error  # the twin: the first that was begun


def test_copies_part_and_the_window_holds() -> None:
    laws, weights = LAWS[GUIDANCE]
    made = on(laws, weights, Fkc(64, ess=1.0, window=(0.5, 0.8)), steps=20)
    population = made.searches[0].population
    assert [step for step, _ in population.resampled] == list(range(10, 17))
    assert len({round(t, 6) for t in population.totals.tolist()}) == 64
    assert len({c.id for c in population.candidates}) == 64


def test_clamps_keep_more_particles_in_many_dimensions() -> None:
    """The price of exactness: in 64 coordinates the weights of this mix collapse, unless they are held back."""
    laws, weights = LAWS[GUIDANCE]
    sizes = [
        on(laws, weights, Fkc(64, ess=0.0, kernel="ode", **options), steps=20, dim=64)
        .searches[0]
        .population.ess
        for options in ({}, {"temperature": 20.0}, {"clamp": 0.05})
    ]
    assert sizes[0] < 8
    assert min(sizes[1:]) > 16


@pytest.mark.parametrize(
    "options",
    [{"particles": 0}, {"levels": "odd"}, {"scheme": "x"}, {"ess": 1.5}, {"window": (0.6, 0.3)}, {"temperature": 0.0},
     {"clamp": 0.0}, {"kernel": "own"}, {"kernel": "glass(2)"}, {"kernel": "ode"}],
)  # fmt: skip
def test_fkc_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Fkc(**options)


def test_it_needs_a_mix_with_a_law() -> None:
    with pytest.raises(UsageError, match="there is none"):
        Fkc().grid(PromptProcess(**process_of()))
    with pytest.raises(UsageError, match="sum to 0"):
        on((WIDE, NARROW), (1.0, -1.0), Fkc(2))
    parts = process_of(dim=1)
    late = NoiseSchedule(parts["view"].schedule.alpha[3:], parts["view"].schedule.sigma[3:])
    parts |= {"view": replace(parts["view"], schedule=late), "evaluations": (1, 1, 1)}
    with pytest.raises(UsageError, match="does not begin at noise"):
        Fkc().stepping(PromptProcess(**mixed(parts, Tempered(2.0))))


def test_it_warns_where_it_is_not_exact() -> None:
    changing = PromptProcess(**mixed(process_of(), Cfg(3.0, 0.0, 0.5)))
    with pytest.warns(UserWarning, match="change along the run"):
        Fkc().stepping(changing)
    tempered = PromptProcess(**mixed(process_of(), Tempered(2.0)))
    with pytest.warns(UserWarning, match="churn below 1"):
        Fkc(kernel="ddim(0.5)").stepping(tempered)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Fkc().stepping(tempered) == Ddim(1.5)
        assert Fkc().stepping(PromptProcess(**mixed(process_of(), Cfg(3.0)))) == Ddim(0.5)


# ---------------------------------------------------------------- other samplers on mixes


def test_best_of_n_runs_the_mixed_flow() -> None:
    laws, weights = LAWS[GUIDANCE]
    made = on(laws, weights, BestOfN(5), steps=6)
    x = made.batches[0].x.clone()
    for i in range(6):
        t = 1 - i / 6
        x = x - sum(w * law.velocity(x, t) for w, law in zip(weights, laws, strict=True)) / 6
    finals = [e.total for e in made.searches[0].finals]
    assert finals == pytest.approx(x[:, 0].tolist(), abs=1e-5)
    assert made.winners[0].total == max(finals)


@pytest.mark.parametrize("sampler", [BestOfN(), Smc(), DtsStar(), Fkc()])
def test_budgets_count_every_source(sampler: Any) -> None:
    laws, weights = LAWS["three models"]
    for nfe in (18, 100, 217):
        made = on(laws, weights, sampler, steps=6, budget=Budget(nfe=nfe), batch_size=3)
        called = 3 * sum(len(b.prompts) for b in made.batches)
        assert made.ledger.evaluations == called == made.searches[0].spent <= nfe
        assert made.winners[0] is not None


def test_smc_tilts_the_mixed_law() -> None:
    """Weights (0.5, 0.5) of two normal laws of one width are a normal law between, also when noised; smc tilts that."""
    laws = (Line([-1.0], [0.8], [1.0]), Line([2.0], [0.8], [1.0]))
    smc = Smc(400, strength=1.0, scale=1.0, window=(0.2, 0.9), interval=0.1)
    population = on(laws, (0.5, 0.5), smc, steps=40).searches[0].population
    mean = float((population.weights * population.totals).sum())
    error = 0.8 / math.sqrt(population.ess / 2)  # resampled particles are kin: half of them count
    assert abs(mean - (0.5 + 0.8**2)) < 4 * error < 0.64  # tilted by exp(x): mean + variance


# ---------------------------------------------------------------- on pipelines


@pytest.mark.parametrize("name", ["stable_diffusion", "sd3", "wan"])
@pytest.mark.parametrize("mix", [{"guide": "cfg(3)"}, {"mix": negate("rain")}, {"mix": Tempered(1.2)}])
def test_it_runs_on_pipelines(name: str, mix: dict[str, Any]) -> None:
    """And what it says of its weights is so: those of a mix that is none are even, others are not."""
    entry = ZOO[name]
    scaled = genscale.scale(entry.build(), "fkc", particles=4, temperature=100.0, **mix)
    steps = (
        20 if name == "stable_diffusion" else 6
    )  # with few steps its scheduler begins far below pure noise
    arguments = entry.arguments(1) | {"output_type": "np", "num_inference_steps": steps}
    output = scaled(**arguments, generator=torch.Generator().manual_seed(0))
    population, planned = output.search.population(), scaled.plan(**arguments)
    assert output.search.ledger.evaluations == planned.nfe == 4 * planned.nfe_per_candidate
    assert len(population.candidates) == 4
    assert population.log_weights.isfinite().all()
    assert float(population.log_weights.std()) > 0
