"""EvoSearch on the bed: what it spends, where its states come from, whom it chooses, and what a mutation does."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import genscale
import genscale.samplers.evolution as evolution
from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.diffusion.prediction import View
from genscale.engine.budget import Budget
from genscale.engine.plan import plan
from genscale.engine.process import PromptProcess
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.noise_sphere import mix
from genscale.plugins import options as sampler_options
from genscale.protocol.answers import Prediction, Scores
from genscale.protocol.particles import Particles, draw
from genscale.protocol.queries import Score
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.evolution import Evolution, Schedule, exchanged, winner
from tests.analytic import DIM, Mixture, Run, process_of, run
from tests.quick import quick
from tests.test_budget import random_run
from tests.test_particle_pipelines import fine
from tests.test_samplers import TOLERANCE, has_marginal
from tests.zoo import ZOO, with_scheduler

STEPS = 10
SMALL = Evolution(levels=(0.0, 0.3, 0.6), start=8, sizes=(6, 6, 6), elites=2)
VARIANTS = {
    "small": SMALL,
    "published": Evolution(),
    "noise only, own scheduler": Evolution(levels=(0.0, 0.0, 0.0), start=4, sizes=5, elites=1, kernel="own"),
    "twice at a level": replace(SMALL, levels=(0.3, 0.3, 0.9)),
    "ode": replace(SMALL, kernel="ode"),
    "glass": replace(SMALL, kernel="glass(2)", start=5, sizes=4),
    "paper": replace(SMALL, mutation_rule="paper", kernel="sde(rbf)"),
    "copies": replace(SMALL, mutation=0.0),
    "random parents": replace(SMALL, tournament=1, elites=0),
}


def watched(sampler: Any, **settings: Any) -> tuple[Run, dict[tuple[int, int], list[Tensor]]]:
    """A run of one prompt that keeps everything, and what the model saw: (candidate, step) -> latents."""
    seen: dict[tuple[int, int], list[Tensor]] = {}

    def on_batch(batch: Any, rows: Any) -> None:
        for x, (_, i) in zip(batch.x, rows, strict=True):
            seen.setdefault((i, batch.step), []).append(x)

    return run(sampler, on_batch=on_batch, **{"steps": STEPS, "keep": 10_000, **settings}), seen


def finals(made: Run) -> dict[int, Any]:
    return {e.candidate.id: e for e in made.searches[0].finals}


# ---------------------------------------------------------------- cost


def random_schedule(rng: random.Random) -> tuple[Evolution, int, Any]:
    steps, count = rng.randrange(1, 13), rng.randrange(4)
    levels = tuple(sorted(rng.choice((0.0, rng.random())) for _ in range(count)))
    elites = rng.randrange(3)
    sizes = tuple(elites + rng.randrange(1, 5) for _ in levels)
    sampler = Evolution(levels, rng.randrange(1, 7), sizes, elites, rng.randrange(1, 5))
    guided = tuple(rng.choice((1, 2)) for _ in range(steps))
    return sampler, steps, guided


@pytest.mark.parametrize("seed", range(40))
def test_it_spends_k_start_t_and_k_g_times_what_is_left_of_the_run_less_the_elites(seed: int) -> None:
    sampler, steps, guided = random_schedule(random.Random(seed))
    wanted = sampler.start * sum(guided)
    for level, size in zip(sampler.levels, sampler.sizes, strict=True):
        wanted += (size - sampler.elites) * sum(guided[min(round(level * steps), steps - 1) :])
    evaluated = 0

    def on_batch(batch: Any, rows: Any) -> None:
        nonlocal evaluated
        evaluated += guided[batch.step] * len(rows)

    made = run(sampler, steps=steps, guided=guided, on_batch=on_batch)
    search = made.searches[0]
    assert evaluated == search.spent == sampler.cost(search.process) == wanted
    assert search.calls == sampler.start + sum(k - sampler.elites for k in sampler.sizes)


def test_the_published_schedule_costs_what_the_notes_say() -> None:
    """5,000 steps at T = 50, of which elites that are not run again save 5 (50 + 30 + 20 + 10)."""
    process = PromptProcess(**process_of(50))
    assert Evolution().cost(process) == 5000 - 550
    assert PromptProcess(**process_of(50, guided=2)).nfe() * 89 == 2 * Evolution().cost(process)


@pytest.mark.parametrize("name", VARIANTS)
def test_nobody_is_run_or_judged_twice(name: str) -> None:
    """... elites least of all: what more of them save is what their places would have cost."""
    sampler = VARIANTS[name]
    made, seen = watched(sampler)
    calls = Counter({(i, step): len(xs) for (i, step), xs in seen.items()})
    glass = 2 if name == "glass" else 1
    assert all(n == (1 if step == 0 else glass) for (_, step), n in calls.items())
    judged = Counter(e.candidate.id for e in made.archive.entries)
    assert set(judged.values()) == {1}
    assert all(e.final for e in made.archive.entries)
    assert made.searches[0].spent == sampler.cost(made.searches[0].process)


def test_an_elite_costs_nothing() -> None:
    more, fewer = (run(replace(SMALL, elites=n), steps=STEPS).searches[0] for n in (2, 1))
    assert fewer.spent - more.spent == 10 + 7 + 4
    assert fewer.finished - more.finished == 3


# ---------------------------------------------------------------- limits


def test_founders_alone_are_best_of_n() -> None:
    alone = Evolution(levels=(), start=9, kernel="own")
    for churn in (0.0, 0.3):
        one, other = (run(s, churn=churn, keep=99) for s in (alone, BestOfN(9)))
        for a, b in zip(one.searches[0].finals, other.searches[0].finals, strict=True):
            assert (a.candidate, a.total) == (b.candidate, b.total)
            assert torch.equal(a.x, b.x)
    budget = Budget(nfe=100)
    one, other = (run(s, budget=budget) for s in (alone, BestOfN()))
    assert [e.candidate for e in one.searches[0].finals] == [e.candidate for e in other.searches[0].finals]


@pytest.mark.parametrize("kernel", ["ode", "own"])
def test_mutation_0_is_the_parent_bit_for_bit(kernel: str) -> None:
    made, seen = watched(Evolution((0.0, 0.0), 4, 5, 1, mutation=0.0, kernel=kernel))
    children = [e for e in finals(made).values() if e.candidate.parent not in (None, 0)]
    assert len(children) >= 4
    for entry in children:
        parent = finals(made)[entry.candidate.parent]
        assert torch.equal(entry.x, parent.x)
        assert all(
            torch.equal(seen[entry.candidate.id, s][0], seen[parent.candidate.id, s][0]) for s in range(STEPS)
        )


def test_mutation_0_parts_on_a_stochastic_kernel() -> None:
    made, _ = watched(VARIANTS["copies"])
    assert {e.candidate.origin for e in finals(made).values()} == {"prior", "branch"}
    assert len({e.total for e in finals(made).values()}) == len(finals(made))


def test_a_mutant_on_the_ode_is_no_copy() -> None:
    made, _ = watched(VARIANTS["ode"])
    assert len({e.total for e in finals(made).values()}) == len(finals(made))


def test_mutation_1_at_the_root_is_fresh_noise() -> None:
    made, seen = watched(Evolution((0.0,), 4, 6, 0, mutation=1.0, kernel="own"))
    process = PromptProcess(**process_of(STEPS))
    for entry in finals(made).values():
        if entry.candidate.origin == "mutant":
            assert torch.equal(seen[entry.candidate.id, 0][0], process.noise(entry.candidate))


# ---------------------------------------------------------------- states


def begins_on_its_parent_s_way(made: Run, seen: Any) -> bool:
    """Copies begin with exactly what the model saw of their parent at that step."""
    children = [e.candidate for e in finals(made).values() if e.candidate.step > 0]
    assert len({c.step for c in children}) == 2
    return all(torch.equal(seen[c.id, c.step][0], seen[c.parent, c.step][0]) for c in children)


def test_states_are_kept_before_the_step_of_their_level() -> None:
    assert begins_on_its_parent_s_way(*watched(VARIANTS["copies"]))
    assert begins_on_its_parent_s_way(*watched(VARIANTS["copies"], batch_size=64))


def test_the_check_sees_states_kept_after_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: the public code's off by one."""
    original = evolution._Run._children

    def late(self: Any, step: int, size: int) -> Any:
        if step > 0:
            for i, s in enumerate(self.states[step]):
                moved = self.process.move(s.particles, s.prediction, self.kernel)
                self.states[step][i] = replace(s, particles=replace(moved, step=step))
        return original(self, step, size)

    monkeypatch.setattr(evolution._Run, "_children", late)
    assert not begins_on_its_parent_s_way(*watched(VARIANTS["copies"]))


@pytest.mark.parametrize("name", ["small", "ode", "noise only, own scheduler", "twice at a level"])
def test_a_mutant_can_be_made_again_from_its_recipe(name: str) -> None:
    sampler = VARIANTS[name]
    made, seen = watched(sampler)
    process, entries = PromptProcess(**process_of(STEPS)), finals(made)

    def noise(c: Any) -> Tensor:
        if c.origin != "mutant":
            return process.noise(draw(Key.from_seed(0).fold("prompt", 0), 0) if c.parent == 0 else c)
        return mix(noise(entries[c.parent].candidate), c.details["mutation"], process.noise(c)[None])[0]

    mutants = [e.candidate for e in entries.values() if e.candidate.origin == "mutant"]
    for c in mutants:
        if c.step == 0:
            assert torch.equal(seen[c.id, 0][0], noise(c))
            continue
        t, x = 1 - c.step / STEPS, seen[c.parent, c.step][0]
        clean = Mixture().clean(x[None], t)[0]
        eps = (x.double() - (1 - t) * clean) / t
        b, z = c.details["mutation"], Key(c.key).fold("mutation").normal((DIM,)).double()
        wanted = (1 - t) * clean + t * (math.sqrt(1 - b**2) * eps + b * z)
        assert torch.allclose(seen[c.id, c.step][0].double(), wanted, atol=1e-5)
    assert len(mutants) == sum(n for _, n in sampler._whole(process).generations)


def test_the_first_step_alone_is_mutated_as_noise() -> None:
    """A schedule that begins further down mutates states from its first generation on."""
    made, seen = watched(replace(SMALL, levels=(0.3,), sizes=6))
    for entry in finals(made).values():
        if entry.candidate.origin == "mutant":
            assert entry.candidate.step == 3
            assert (entry.candidate.id, 0) not in seen


def test_mutants_of_a_prior_that_is_no_standard_normal() -> None:
    """Image-to-image: the noise is mutated, the image behind it is not."""
    parts = process_of(STEPS)
    offset, scale = torch.tensor([3.0, -1.0, 0.5]), torch.tensor([0.5, 2.0, 0.0])
    own = offset + scale * parts["prior"].own
    process = PromptProcess(**parts | {"prior": replace(parts["prior"], offset=offset, scale=scale, own=own)})
    ask = Evolution((0.0,), 4, 4, 0, kernel="own").search(process, Key((7,)))
    founders = next(ask).particles  # type: ignore[union-attr]
    solved = ask.send(founders).particles  # type: ignore[union-attr]
    assert isinstance(ask.send(replace(solved, step=STEPS)), Score)
    children = ask.send(Scores(torch.arange(4.0)[:, None].double(), lambda raw: raw[:, 0])).particles
    noise = {c.id: process.noise(c) for c in (*founders.candidates, *children.candidates)}
    for x, c in zip(children.x, children.candidates, strict=True):
        mixed = mix(noise[c.parent], 0.2, noise[c.id][None])[0]
        assert torch.allclose(x, offset + scale * mixed, atol=1e-6)


def test_all_ancestors_compete_with_the_score_of_what_they_became() -> None:
    made, _ = watched(replace(SMALL, start=4, sizes=40, elites=0))
    entries = finals(made)
    for step in (3, 6):
        parents = {e.candidate.parent for e in entries.values() if e.candidate.step == step}
        assert {entries[p].candidate.step for p in parents} == {s for s in (0, 3, 6) if s < step}
    # A tournament of all: the parent of a generation is the best that was there before it.
    greedy, _ = watched(replace(SMALL, tournament=1000))
    entries, best = finals(greedy), None
    order = list(entries.values())
    for step in (0, 3, 6):
        born = [e for e in order if e.candidate.step == step and e.candidate.origin == "mutant"]
        before = order[: order.index(born[0])]
        best = max(before, key=lambda e: e.total).candidate.id
        assert {e.candidate.parent for e in born} == {best}
    assert greedy.winners[0].total == max(e.total for e in order)


# ---------------------------------------------------------------- tournaments


def law(n: int, entrants: int) -> Tensor:
    """Of the winner's rank: C(n - 1 - r, entrants - 1) / C(n, entrants)."""
    return torch.tensor(
        [math.comb(n - 1 - r, entrants - 1) / math.comb(n, entrants) for r in range(n)], dtype=torch.float64
    )


def follows(ranks: list[int], wanted: Tensor) -> bool:
    """Frequencies of every rank within 4.5 standard errors."""
    counts = torch.bincount(torch.tensor(ranks), minlength=len(wanted)).double()
    error = (len(ranks) * wanted * (1 - wanted)).sqrt()
    gap = (counts - len(ranks) * wanted).abs()
    return bool((gap <= 4.5 * error + 1e-9).all())


@pytest.mark.parametrize("entrants", [1, 2, 3, 5, 7])
def test_the_winners_of_tournaments(entrants: int) -> None:
    ranking = [3, 6, 0, 1, 5, 2, 4]
    ranks = [ranking.index(winner(ranking, entrants, Key((1, i)))) for i in range(20_000)]
    assert follows(ranks, law(7, entrants))
    if entrants == 3:
        assert not follows(ranks, law(7, 2))


def test_more_entrants_than_there_are() -> None:
    assert {winner([2, 0, 1], 9, Key((i,))) for i in range(50)} == {2}


def parents_ranks(seed: int) -> list[int]:
    """Ranks, among 10 founders, of the parents of 3000 mutants."""
    made = run(Evolution((0.0,), 10, 3000, 0), steps=1, seed=seed, batch_size=4096)
    entries = made.searches[0].finals
    order = sorted(entries[:10], key=lambda e: -e.total)
    ranks = {e.candidate.id: r for r, e in enumerate(order)}
    return [ranks[e.candidate.parent] for e in entries[10:]]


def test_parents_are_chosen_by_tournaments_of_three() -> None:
    assert follows(parents_ranks(0), law(10, 3))


def test_the_check_sees_the_near_greedy_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: the best of a random 90 % of the population, as in the public code."""
    monkeypatch.setattr(
        evolution, "winner", lambda ranking, entrants, key: winner(ranking, int(0.9 * len(ranking)), key)
    )
    ranks = parents_ranks(0)
    assert not follows(ranks, law(10, 3))
    assert ranks.count(0) > 0.85 * len(ranks)


# ---------------------------------------------------------------- mutation


def states(n: int, step: int) -> tuple[PromptProcess, Particles, Prediction]:
    """Exact draws of the bed's marginal at a step of 10, with the model's exact prediction."""
    process, mixture, g = PromptProcess(**process_of(STEPS)), Mixture(), torch.Generator().manual_seed(step)
    t = 1 - step / STEPS
    which = torch.randint(len(mixture.means), (n,), generator=g)
    clean = mixture.means[which] + mixture.std * torch.randn(n, DIM, generator=g)
    x = (1 - t) * clean + t * torch.randn(n, DIM, generator=g)
    particles = replace(process.start([draw(Key((5,)), i + 1) for i in range(n)]), x=x, step=step)
    x0 = mixture.clean(x, t)
    return process, particles, Prediction(x0.float(), ((x - (1 - t) * x0) / t).float())


def mutants(spec: Evolution, step: int, n: int = 8_000) -> Tensor:
    process, particles, prediction = states(n, step)
    one = evolution._Run(spec, Schedule(1, ()), process, Key((5,)), 0)
    return one._mutated(particles, [prediction[: n // 2], prediction[n // 2 :]]).x


@pytest.mark.parametrize("b", [0.2, 0.3])
@pytest.mark.parametrize("step", [0, 1, 3, 6, 9])
def test_a_mutant_has_the_law_of_its_level(step: int, b: float) -> None:
    x = mutants(replace(SMALL, mutation=b), step)
    assert has_marginal(x, 1 - step / STEPS)
    assert float((x - states(len(x), step)[1].x).norm(dim=1).mean()) > 0.9 * b * (1 - step / STEPS)


@pytest.mark.parametrize("step", [1, 3, 6])
def test_the_check_of_the_law_sees_noise_that_is_only_added(step: int) -> None:
    """Broken twins: the paper's rule; x + sigma z; and the same with half of that noise."""
    t = 1 - step / STEPS
    assert not has_marginal(mutants(replace(SMALL, mutation_rule="paper"), step), t)
    _, particles, _ = states(8_000, step)
    z = torch.randn(particles.x.shape, generator=torch.Generator().manual_seed(0))
    assert not has_marginal(particles.x + t * z, t)
    assert not has_marginal(particles.x + 0.5 * t * z, t)


@pytest.mark.slow
def test_what_the_exchange_does_to_the_covariance() -> None:
    """Cov(x) - sigma^2 (1 - sqrt(1 - b^2))^2 (1 - Cov(eps)) for any b: seen where b is large."""
    b, t, n = 0.95, 0.5, 100_000
    _, particles, prediction = states(n, 5)
    z = torch.randn(n, DIM, generator=torch.Generator().manual_seed(1))
    x, eps = exchanged(particles.x, prediction, t, b, z).double(), prediction.eps.double()
    taken = t**2 * (1 - math.sqrt(1 - b**2)) ** 2 * (torch.eye(DIM) - torch.cov(eps.T))
    wanted = torch.cov(particles.x.double().T) - taken
    products = (x - x.mean(0))[:, :, None] * (x - x.mean(0))[:, None]
    error = products.std(0) / math.sqrt(n)
    assert float(((torch.cov(x.T) - wanted) / error).abs().max()) < 4.5
    assert float(((torch.cov(x.T) - wanted - taken) / error).abs().max()) > 4.5
    assert not has_marginal(x, t)


def test_nothing_is_exchanged_for_0_and_pure_noise_is_mixed() -> None:
    _, particles, prediction = states(16, 4)
    z = torch.randn(16, DIM)
    assert torch.equal(exchanged(particles.x, prediction, 0.6, 0.0, z), particles.x)
    noise = torch.randn(16, DIM)
    mixed = exchanged(noise, Prediction(torch.zeros(16, DIM), noise), 1.0, 0.3, z)
    assert torch.allclose(mixed, mix(noise, 0.3, z), atol=1e-6)


def test_the_exchange_does_not_ask_how_levels_are_written() -> None:
    """In coordinates of alpha = 1 a mutant is the same but for its scale."""
    process, particles, prediction = states(8, 4)
    levels = process.schedule
    scaled = NoiseSchedule(torch.ones_like(levels.alpha[1:]), (levels.sigma / levels.alpha)[1:])
    z = torch.randn(8, DIM)
    other = exchanged(particles.x / 0.4, prediction, scaled.level(3).sigma, 0.4, z)
    assert torch.allclose(other * 0.4, exchanged(particles.x, prediction, 0.6, 0.4, z), atol=1e-6)
    assert isinstance(process.view, View)


# ---------------------------------------------------------------- batches, company, budgets, resume


@pytest.mark.parametrize("name", VARIANTS)
def test_batches_and_company_change_nothing(name: str) -> None:
    budget = Budget(nfe=150)
    one = run(VARIANTS[name], budget=budget, batch_size=1, steps=STEPS)
    for batch_size, prompts in ((2, 1), (64, 1), (5, 3)):
        other = run(VARIANTS[name], budget=budget, batch_size=batch_size, prompts=prompts, steps=STEPS)
        for a, b in zip(one.searches[0].finals, other.searches[0].finals, strict=True):
            assert (a.candidate, a.nfe) == (b.candidate, b.nfe)
            assert a.total == pytest.approx(b.total, abs=TOLERANCE)


@pytest.mark.parametrize("name", VARIANTS)
def test_budgets_are_never_exceeded(name: str) -> None:
    rng = random.Random(name)
    for _ in range(25):
        settings, roles = random_run(rng)
        budget = settings["budget"]
        made = run(VARIANTS[name], roles=roles, **settings)
        parts = process_of(settings["steps"], settings["guided"])
        planned = plan(VARIANTS[name], parts, budget, roles, settings["prompts"])
        for search in made.searches:
            enough = (budget.nfe or 10**9) >= search.process.nfe()
            enough = enough and (budget.verifier_calls or 10**9) >= roles.calls
            spent_calls = search.calls_left is not None and search.calls_left < roles.calls
            assert search.spent <= (budget.nfe or search.spent)
            assert search.calls <= (budget.verifier_calls or search.calls)
            assert (search.best() is not None) == enough
            assert (planned.nfe, planned.verifier_calls) == (search.spent, search.calls)
            assert search.nfe_left is None or search.nfe_left < search.process.nfe() or spent_calls


@pytest.mark.parametrize("budget", [Budget(nfe=100), Budget(verifier_calls=12)])
def test_a_small_budget_shrinks_all_populations_alike(budget: Budget) -> None:
    sampler = Evolution((0.0, 0.5), 16, (18, 10), 2)
    made = run(sampler, steps=STEPS, budget=budget)
    process, search = PromptProcess(**process_of(STEPS)), made.searches[0]
    whole = sampler._whole(process)
    assert whole == Schedule(16, ((0, 16), (5, 8)))
    entries = search.finals
    found = [sum(e.candidate.origin == "mutant" and e.candidate.step == s for e in entries) for s in (0, 5)]
    assert found[0] in (2 * found[1], 2 * found[1] - 1, 2 * found[1] + 1)
    assert found[0] >= 3
    left = (search.nfe_left, search.calls_left)
    assert left[0] is None or left[0] < 10
    assert left[1] is None or left[1] == 0


def test_shrunk_schedules_grow_step_by_step_to_the_whole() -> None:
    whole = Schedule(42, ((0, 21), (20, 21), (30, 21), (40, 25)))
    before = 0
    for places in range(1, whole.places + 1):
        one = whole.shrunk(places)
        assert one.founders >= 1
        assert before <= one.places
        assert abs(one.places - places) <= 3
        before = one.places
    assert whole.shrunk(whole.places) == whole


def test_a_large_budget_begins_again_from_fresh_noise() -> None:
    cost = SMALL.cost(PromptProcess(**process_of(STEPS)))
    assert cost is not None
    made = run(SMALL, steps=STEPS, budget=Budget(nfe=2 * cost + 25))
    entries = made.searches[0].finals
    founders = [e.candidate for e in entries if e.candidate.parent in (None, 0)]
    assert len(founders) == 2 * 8 + 2
    # 8 founders, then 4 mutants each; candidate 0, which is not the pipeline's own on another kernel, has an id below 0
    second = [c.id for c in founders[8:16]]
    assert second == list(range(20, 28))
    assert all(e.candidate.parent >= 20 for e in entries if e.candidate.id > 27 and e.candidate.parent)
    assert made.searches[0].spent == 2 * cost + 20


def test_candidate_0_is_the_pipeline_s_own_only_on_its_own_scheduler() -> None:
    assert 0 in finals(watched(VARIANTS["noise only, own scheduler"])[0])
    made, _ = watched(SMALL)
    assert 0 not in finals(made)
    assert sum(e.candidate.parent == 0 for e in finals(made).values()) == 1
    assert [e.candidate.origin for e in run(SMALL, budget=Budget(nfe=6)).searches[0].finals] == ["own"]


class CutOff(Exception):
    pass


@pytest.mark.parametrize("name", ["small", "glass", "noise only, own scheduler", "paper"])
def test_cut_off_and_resume(tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"budget": Budget(nfe=140), "steps": STEPS, "batch_size": 3, "keep": 99}
    whole, _ = watched(VARIANTS[name], **settings)
    total, saved = len(whole.batches), 0
    for k, after in enumerate(random.Random(name).sample(range(1, total), 6)):
        done = 0

        def on_batch(batch: Any, rows: Any, after: int = after) -> None:
            nonlocal done
            done += 1
            if done > after:
                raise CutOff

        folder = tmp_path / str(k)
        with pytest.raises(CutOff):
            run(VARIANTS[name], folder=folder, on_batch=on_batch, **settings)
        again = run(VARIANTS[name], folder=folder, **settings)
        saved += whole.ledger.evaluations - again.ledger.evaluations
        assert finals(again).keys() == finals(whole).keys()
        for i, b in finals(whole).items():
            a = finals(again)[i]
            assert (a.candidate, a.total, a.nfe) == (b.candidate, b.total, b.nfe)
            assert torch.equal(a.x, b.x)
    assert saved > whole.ledger.evaluations


def test_a_larger_budget_does_not_take_another_plan_s_states_for_its_own(tmp_path: Path) -> None:
    """Numbers of candidates mean others under another plan; what is read back must be one's own all the same."""
    run(SMALL, folder=tmp_path, steps=STEPS, budget=Budget(nfe=60))
    again = run(SMALL, folder=tmp_path, steps=STEPS, budget=Budget(nfe=140))
    fresh = run(SMALL, steps=STEPS, budget=Budget(nfe=140))
    assert again.ledger.evaluations < fresh.ledger.evaluations
    assert finals(again).keys() == finals(fresh).keys()  # in another order: what is known is entered first
    for i, b in finals(fresh).items():
        assert (finals(again)[i].candidate, finals(again)[i].total) == (b.candidate, b.total)


# ---------------------------------------------------------------- real pipelines


@pytest.mark.parametrize("kernel", quick(["ddim(1)", "ode", "own"], ["own"]))
@pytest.mark.parametrize("name", ["sd3", "flux", "sdxl", "wan", "sd_img2img", "sd_inpaint4", "Heun", "UniPC"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_on_real_pipelines(name: str, kernel: str) -> None:
    """One ancestry and one winner for microbatches of 1 and of 8, at exactly the cost that was told."""
    family = name if name in ZOO else "stable_diffusion"
    sampler = Evolution((0.0, 0.0) if kernel == "own" else (0.0, 0.4, 0.7), 4, 3, 1, kernel=kernel)
    found = []
    for batch_size in (1, 8):
        pipe = ZOO[family].build()
        if family != name:
            scheduler = "HeunDiscreteScheduler" if name == "Heun" else "UniPCMultistepScheduler"
            pipe = with_scheduler(pipe, scheduler)
        scaled = genscale.scale(pipe, sampler, fine, batch_size=batch_size)
        arguments = ZOO[family].arguments(1) | {"output_type": "np", "num_inference_steps": 6}
        found.append(scaled(**arguments | {"generator": torch.Generator().manual_seed(0)}).search)
    one, many = found
    assert [(e.candidate, e.step) for e in one.entries] == [(e.candidate, e.step) for e in many.entries]
    totals = [[s.total(e) for e in s.entries] for s in found]
    assert totals[0] == pytest.approx(totals[1], abs=1e-3)
    assert len(set(totals[0])) == len(totals[0])
    assert one.ledger.evaluations == sampler.cost(one.searches[0].process) == many.ledger.evaluations


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"levels": (0.5, 0.2, 0.3, 0.4)}, "do not decrease"),
        ({"levels": (0.0, 0.4, 0.6, 1.0)}, r"\[0, 1\)"),
        ({"levels": (-0.1, 0.4, 0.6, 0.8)}, r"\[0, 1\)"),
        ({"levels": (0.0, 0.4)}, "as many as there are levels"),
        ({"start": 0}, "start"),
        ({"tournament": 0}, "tournament"),
        ({"elites": -1}, "elites"),
        ({"elites": 26}, "fewer elites"),
        ({"sizes": 5}, "larger sizes"),
        ({"mutation": 1.1}, "share"),
        ({"mutation": float("nan")}, "share"),
        ({"mutation_rule": "gauss"}, "exchange, paper"),
        ({"kernel": "euler"}, "unknown"),
        ({"kernel": "own"}, r"kernel='ddim\(1\)' or 'ode', or levels=0"),
        ({"kernel": "ode", "mutation": 0.0}, "mutation > 0"),
        ({"kernel": "ddim(0)", "mutation_rule": "paper"}, r"'ddim\(1\)'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        Evolution(**options)
    text = str(refused.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert ". " not in text


@pytest.mark.parametrize(
    "options",
    [{"kernel": "ode"}, {"kernel": "own", "levels": (0.0,), "sizes": 9}, {"mutation": 0.0}, {"levels": ()},
     {"mutation_rule": "paper"}, {"sizes": 6}, {"kernel": "ode", "mutation": 0.0, "levels": (0.0,), "sizes": 9}],
)  # fmt: skip
def test_good_options(options: dict[str, Any]) -> None:
    assert replace(Evolution(**options)) == Evolution(**options)


def test_sizes_from_the_command_line() -> None:
    for text, wanted in (("8", 8), ("26,26,26,30", (26, 26, 26, 30))):
        assert sampler_options.typed("sampler", "evolution", Evolution, {"sizes": text}) == {"sizes": wanted}
