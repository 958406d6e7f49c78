"""The samplers, each against what can be computed without it, and a conformance table over all of them."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from genscale.engine.budget import Budget
from genscale.engine.process import PromptProcess
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.noise_sphere import neighbour
from genscale.plugins import registry
from genscale.protocol.particles import draw
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.search_over_paths import SearchOverPaths
from genscale.samplers.zero_order import ZeroOrder
from tests.analytic import DIM, SAMPLERS, Mixture, Run, process_of, run
from tests.quick import quick, third

TOLERANCE = 1e-6  # between batch sizes; the bed computes in float64 and steps in float32


def cosine(a: Any, b: Any) -> float:
    return float((a @ b) / (a.norm() * b.norm()))


def outcome(made: Run) -> list[tuple[int, float]]:
    return [(w.candidate.id, w.total) for w in made.winners]


# ---------------------------------------------------------------- every sampler


def test_the_table_holds_every_registered_sampler() -> None:
    registered = {p.load() for p in registry.found("sampler").values() if p.value.startswith("genscale.")}
    assert {type(s) for s in SAMPLERS.values()} == registered


@pytest.mark.parametrize("name", registry.found("sampler"))
def test_a_sampler_is_a_frozen_dataclass_that_says_what_it_costs(name: str) -> None:
    cls = registry.load("sampler", name)
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    sampler = registry.make("sampler", name, {})  # published defaults: it works without options
    assert replace(sampler) == sampler
    assert cls.needs <= {"noise", "schedule", "mix", "branches", "gradient"}
    assert "Cost in NFE" in cls.__doc__
    told = "".join(
        c.__doc__ or "" for c in cls.__mro__ if is_dataclass(c)
    )  # presets leave shared fields to their core
    for field in fields(cls):
        assert f"{field.name}:" in told or f"{field.name}, " in told, f"no docstring explains {field.name}"


@pytest.mark.parametrize("churn", quick([0.0, 0.3], [0.3]))
@pytest.mark.parametrize("name", third(SAMPLERS))
def test_the_batch_size_changes_nothing(name: str, churn: float) -> None:
    budget = Budget(nfe=100)
    one = run(SAMPLERS[name], budget=budget, batch_size=1, churn=churn)
    for batch_size in (2, 5, 64):
        many = run(SAMPLERS[name], budget=budget, batch_size=batch_size, churn=churn)
        assert [w.candidate for w in many.winners] == [w.candidate for w in one.winners]
        for a, b in zip(many.archive.entries, one.archive.entries, strict=True):
            assert (a.candidate, a.step, a.final, a.nfe) == (b.candidate, b.step, b.final, b.nfe)
            assert a.total == pytest.approx(b.total, abs=TOLERANCE)
        assert torch.allclose(many.winners[0].x, one.winners[0].x, atol=TOLERANCE)


@pytest.mark.parametrize("name", third(SAMPLERS))
def test_company_changes_nothing(name: str) -> None:
    budget = Budget(nfe=60)
    alone, together = (run(SAMPLERS[name], budget=budget, prompts=n, batch_size=5) for n in (1, 3))
    a, b = alone.searches[0], together.searches[0]
    assert [(e.candidate, e.nfe) for e in a.finals] == [(e.candidate, e.nfe) for e in b.finals]
    assert [e.total for e in a.finals] == pytest.approx([e.total for e in b.finals], abs=TOLERANCE)
    assert a.best().candidate == b.best().candidate
    assert len({s.best().total for s in together.searches}) == 3  # prompts are not copies of each other


@pytest.mark.parametrize("name", third(SAMPLERS))
def test_the_seed_decides_all(name: str) -> None:
    results = [outcome(run(SAMPLERS[name], budget=Budget(nfe=60), seed=s, churn=0.2)) for s in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0] != results[2]


@pytest.mark.parametrize("name", third(SAMPLERS))
def test_the_winner_is_the_best_of_the_archive(name: str) -> None:
    made = run(SAMPLERS[name], budget=Budget(nfe=120))
    finals = [e for e in made.archive.entries if e.final]
    assert made.winners[0].total == max(e.total for e in finals)
    assert made.winners[0].x is not None
    ids = [e.candidate.id for e in finals]
    assert len(set(ids)) == len(ids)
    for candidate in (e.candidate for e in finals):  # parents come before their children
        if candidate.id < 0:  # what became of candidate 0 off the pipeline's own path
            assert candidate.parent == 0
        else:
            assert candidate.parent is None or candidate.parent < candidate.id


@pytest.mark.parametrize(
    "name", [n for n, s in SAMPLERS.items() if isinstance(s, BestOfN | ZeroOrder) and "pruned" not in n]
)
def test_more_budget_is_never_worse(name: str) -> None:
    """More of the same search; pruning, paths and particles make another plan for another budget."""
    sampler = SAMPLERS[name]
    totals = [run(sampler, budget=Budget(nfe=n)).winners[0].total for n in (6, 30, 60, 200)]
    assert totals == sorted(totals)


# ---------------------------------------------------------------- best of n


def carried(candidate_id: int, steps: int = 6) -> torch.Tensor:
    """A candidate's clean latents, by a plain loop without the engine."""
    process, key = process_of(steps), Key.from_seed(0).fold("prompt", 0)
    start = PromptProcess(**process).start([draw(key, candidate_id)]).x
    x, times = start, process["solver"].times
    for t, s in pairwise(times):
        x = x + (s - t) * Mixture().velocity(x, t)
    return x[0]


def test_best_of_n_is_the_argmax_over_independent_candidates() -> None:
    latents = torch.stack([carried(i) for i in range(20)])
    made = run(BestOfN(20))
    assert made.winners[0].candidate.id == int(latents[:, 0].argmax())
    assert torch.allclose(made.winners[0].x, latents[latents[:, 0].argmax()], atol=TOLERANCE)
    assert [e.total for e in made.searches[0].finals] == pytest.approx(latents[:, 0].tolist(), abs=TOLERANCE)


def test_candidate_0_is_the_pipeline_s_own() -> None:
    made = run(BestOfN(1))
    assert made.winners[0].candidate.origin == "own"
    x = process_of()["prior"].own[None]
    for t, s in pairwise(process_of()["solver"].times):
        x = x + (s - t) * Mixture().velocity(x, t)
    assert torch.equal(made.winners[0].x, x[0])


def test_more_candidates_are_never_worse() -> None:
    totals = [run(BestOfN(n)).winners[0].total for n in (1, 2, 4, 8, 16, 32)]
    assert totals == sorted(totals)
    assert totals[0] < totals[-1]


def test_waves_change_nothing() -> None:
    assert outcome(run(BestOfN(20, wave=3))) == outcome(run(BestOfN(20, wave=64)))


def test_survivors_of_1_prune_nothing() -> None:
    plain, pruned = run(BestOfN(9)), run(BestOfN(9, prune=(0.3, 0.6), survivors=1.0))
    assert outcome(plain) == outcome(pruned)
    assert (plain.searches[0].spent, plain.searches[0].calls) == (
        pruned.searches[0].spent,
        pruned.searches[0].calls,
    )


def test_pruning_drops_the_worst_previews() -> None:
    made = run(BestOfN(8, prune=(0.34, 0.67)))
    previews = [[e for e in made.archive.entries if e.step == step] for step in (3, 5, 6)]
    assert [len(p) for p in previews] == [8, 4, 2]
    for before, after in pairwise(previews):
        best = sorted(before, key=lambda e: -e.total)[: len(after)]
        assert {e.candidate.id for e in after} == {e.candidate.id for e in best}
    assert made.searches[0].spent == 8 * 3 + 4 * 2 + 2 * 1


def test_previews_are_the_clean_estimates() -> None:
    """A preview scores E[x0 | x] of the last model call, not the noisy latents."""
    made = run(BestOfN(2, prune=(0.5,)))
    preview = next(e for e in made.archive.entries if not e.final)
    process, times = PromptProcess(**process_of()), process_of()["solver"].times
    x = process.start([draw(Key.from_seed(0).fold("prompt", 0), 0)]).x
    for t, s in pairwise(times[:4]):
        x = x + (s - t) * Mixture().velocity(x, t)
    assert preview.total == pytest.approx(float(Mixture().clean(x, times[3])[0, 0]), abs=1e-5)


@pytest.mark.parametrize("calls", range(1, 20))
def test_pruning_plans_for_verifier_calls(calls: int) -> None:
    made = run(BestOfN(9, prune=(0.3, 0.6)), budget=Budget(verifier_calls=calls))
    assert made.searches[0].finished >= 1
    assert made.searches[0].calls <= calls


@pytest.mark.parametrize(
    "options",
    [{"candidates": 0}, {"prune": (0.6, 0.3)}, {"prune": (0.0,)}, {"prune": (0.3, 0.3)}, {"survivors": 0.0},
     {"survivors": 1.5}, {"wave": 0}],
)  # fmt: skip
def test_best_of_n_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BestOfN(**options)


# ---------------------------------------------------------------- zero order


def scores_of(order: list[float]) -> Any:
    """A verifier that gives the k-th image it sees the k-th of these scores."""
    given = iter(order)
    return lambda media, prompts: [next(given) for _ in prompts]


def noises(made: Run) -> dict[int, torch.Tensor]:
    """Initial noise of each candidate that was evaluated: its latents at step 0."""
    return made.starts  # type: ignore[attr-defined,no-any-return]


def climb(sampler: ZeroOrder, scores: list[float] | None = None, **settings: Any) -> Run:
    """Run and keep the latents that each candidate started from."""
    starts: dict[int, torch.Tensor] = {}

    def on_batch(batch: Any, rows: Any) -> None:
        if batch.step == 0:
            for x, (_, i) in zip(batch.x, rows, strict=True):
                assert i not in starts, "a candidate was generated twice"
                starts[i] = x

    verifier = {} if scores is None else {"verifier": scores_of(scores)}
    made = run(sampler, on_batch=on_batch, **verifier, **settings)
    made.starts = starts  # type: ignore[attr-defined]
    return made


def test_neighbours_at_cosine_1_are_the_pivot() -> None:
    made = climb(ZeroOrder(neighbours=3, cosine=1.0, rounds=1))
    for i in (1, 2, 3):
        assert torch.equal(noises(made)[i], noises(made)[0])
    assert len({e.total for e in made.searches[0].finals}) == 1
    assert made.winners[0].candidate.id == 0


@pytest.mark.parametrize("c", [0.95, 0.5, 0.0, -0.3])
def test_the_cosine_is_kept_exactly(c: float) -> None:
    """... and the length too, over moves that build on each other; every score is better than the last."""
    made = climb(ZeroOrder(neighbours=2, cosine=c, rounds=5), scores=[float(i) for i in range(11)])
    x = {i: v.double() for i, v in noises(made).items()}
    for entry in made.searches[0].finals[1:]:
        parent = entry.candidate.parent
        assert parent == max(0, 2 * ((entry.candidate.id - 1) // 2))
        assert cosine(x[entry.candidate.id], x[parent]) == pytest.approx(c, abs=1e-6)
        assert float(x[entry.candidate.id].norm()) == pytest.approx(float(x[0].norm()), rel=1e-6)
        assert entry.candidate.origin == "neighbour"
        assert entry.candidate.details == {"cosine": c}


def test_a_candidate_can_be_made_again_from_its_recipe() -> None:
    made = climb(ZeroOrder(rounds=6))
    process = PromptProcess(**process_of())
    recipes = {e.candidate.id: e.candidate for e in made.searches[0].finals}

    def noise(i: int) -> torch.Tensor:
        c = recipes[i]
        if c.origin != "neighbour":
            return process.noise(c)
        return neighbour(noise(c.parent)[None], c.details["cosine"], process.noise(c)[None])[0]

    for i in recipes:
        assert torch.equal(noise(i), noises(made)[i])


def test_it_restarts_after_patience_and_answers_with_the_best_ever() -> None:
    #         pivot  round 1      round 2      restart      round 4
    scores = [5.0, *[1.0, 2.0], *[3.0, 4.0], *[0.5, 0.75], *[0.6, 0.7]]
    made = climb(ZeroOrder(neighbours=2, rounds=4, patience=2), scores=scores)
    origins = [e.candidate.origin for e in made.searches[0].finals]
    assert origins == ["own"] + ["neighbour"] * 4 + ["prior"] * 2 + ["neighbour"] * 2
    assert [e.candidate.parent for e in made.searches[0].finals] == [None, 0, 0, 0, 0, None, None, 6, 6]
    assert made.winners[0].candidate.id == 0


def test_patience_1_restarts_at_once() -> None:
    scores = [5.0, *[1.0, 2.0], *[0.5, 0.75], *[0.8, 0.7], *[0.1, 0.2], *[0.0, 0.0]]
    made = climb(ZeroOrder(neighbours=2, rounds=5), scores=scores)
    parents = [e.candidate.parent for e in made.searches[0].finals]
    assert parents == [None, 0, 0, None, None, 4, 4, 5, 5, None, None]


def test_an_equal_score_does_not_move_the_pivot() -> None:
    made = climb(ZeroOrder(neighbours=2, rounds=2, patience=5), scores=[1.0, 1.0, 1.0, 1.0, 1.0])
    assert [e.candidate.parent for e in made.searches[0].finals] == [None, 0, 0, 0, 0]
    assert made.winners[0].candidate.id == 0


def test_zero_order_climbs() -> None:
    """Against best-of-n's law: on the smooth bed, steps from the best beat fresh draws near the base."""
    gains = [run(ZeroOrder(rounds=6), seed=s).winners[0].total for s in range(8)]
    base = [run(BestOfN(1), seed=s).winners[0].total for s in range(8)]
    assert all(g >= b for g, b in zip(gains, base, strict=True))
    assert sum(gains) > sum(base)


@pytest.mark.parametrize("options", [{"neighbours": 0}, {"patience": 0}, {"rounds": -1}, {"cosine": 1.5}])
def test_zero_order_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ZeroOrder(**options)


# ---------------------------------------------------------------- search over paths


@pytest.mark.parametrize("steps", [50, 100])
def test_published_rounds_on_a_fine_grid(steps: int) -> None:
    """0.11 -> back to 0.89 -> 0.08 -> 0.86 -> ... : four rounds, each level the nearest of the grid."""
    process = PromptProcess(**process_of(steps))
    sampler = SearchOverPaths()
    times = process.schedule.linear_time
    rounds = sampler._rounds(process)
    assert len(rounds) == 4
    for (back, until), (there, here) in zip(
        rounds, [(0.89, 0.08), (0.86, 0.05), (0.83, 0.02), (0.80, 0.0)], strict=True
    ):
        assert abs(float(times[back]) - there) <= 0.5 / steps + 1e-9
        assert abs(float(times[until]) - here) <= 1 / steps + 1e-9
    assert abs(float(times[sampler._begin(process)]) - 0.11) <= 0.5 / steps + 1e-9
    assert rounds[-1][1] == steps


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 10, 30])
@pytest.mark.parametrize(("paths", "branches"), [(1, 1), (1, 3), (2, 2), (3, 1)])
def test_every_round_makes_progress_and_ends_clean(steps: int, paths: int, branches: int) -> None:
    sampler = SearchOverPaths(paths=paths, branches=branches)
    process = PromptProcess(**process_of(steps))
    at = sampler._begin(process)
    for back, until in sampler._rounds(process):
        assert 0 <= back < until <= steps
        assert back <= at < until
        at = until
    made = run(sampler, steps=steps)
    assert made.searches[0].finished >= paths
    assert all(e.step == steps for e in made.searches[0].finals)
    assert made.searches[0].spent == sampler.cost(process)


def test_survivors_are_the_best_previews_and_children_know_their_parents() -> None:
    made = run(SearchOverPaths(paths=2, branches=3), steps=50)
    entries = made.archive.entries
    rounds = [entries[i : i + 6] for i in range(0, len(entries), 6)]
    assert [len(r) for r in rounds] == [6, 6, 6, 6]
    parents = {0, 1}
    for generation in rounds:
        assert {e.candidate.parent for e in generation} == parents
        assert all(e.candidate.origin == "renoised" for e in generation)
        assert [e.candidate.parent for e in generation].count(min(parents)) == 3
        parents = {e.candidate.id for e in sorted(generation, key=lambda e: -e.total)[:2]}
    assert all(e.final for e in rounds[-1])


def renoised(n: int, start: int, back: int) -> torch.Tensor:
    """Latents at step `start` drawn from the mixture's exact marginal, taken back to step `back`."""
    process, steps = PromptProcess(**process_of(10)), 10
    mixture, g = Mixture(), torch.Generator().manual_seed(0)
    t = 1 - start / steps
    which = torch.randint(len(mixture.means), (n,), generator=g)
    clean = mixture.means[which] + mixture.std * torch.randn(n, DIM, generator=g)
    x = (1 - t) * clean + t * torch.randn(n, DIM, generator=g)
    candidates = [draw(Key((1,)), i + 1) for i in range(n)]
    particles = replace(process.start(candidates), x=x, step=start)
    return process.renoise(particles, back, candidates).x


def has_marginal(x: torch.Tensor, t: float) -> bool:
    """Mean and second moments of the mixture at time t, within 4.5 standard errors."""
    x, mixture = x.double(), Mixture()
    means = (1 - t) * mixture.means.double()
    var = ((1 - t) * mixture.std) ** 2 + t**2
    wanted_mean = means.mean(0)
    wanted_second = (means[:, :, None] * means[:, None, :]).mean(0) + var * torch.eye(DIM)
    second = x[:, :, None] * x[:, None, :]
    gaps = [(x.mean(0) - wanted_mean) / (x.std(0) / math.sqrt(len(x)))]
    gaps.append(((second.mean(0) - wanted_second) / (second.std(0) / math.sqrt(len(x)))).flatten())
    return float(torch.cat(gaps).abs().max()) < 4.5


@pytest.mark.parametrize("start", [3, 8])
def test_renoising_keeps_the_law(start: int) -> None:
    x = renoised(4000, start, back=2)
    assert has_marginal(x, t=0.8)
    assert not has_marginal(x, t=0.7)
    assert not has_marginal(1.15 * x, t=0.8)


def test_the_check_of_the_law_sees_a_wrong_kernel() -> None:
    """The broken twin: noise of std sigma_t, as if the latents had none of their own."""
    x = renoised(4000, start=3, back=2)
    kept = 0.2 / 0.3 * 0.7
    more = kept * torch.randn(4000, DIM, generator=torch.Generator().manual_seed(1))
    assert not has_marginal(x + more, t=0.8)


def test_renoising_forgets_the_solver_s_history() -> None:
    process = PromptProcess(**process_of(6))
    seen: list[Any] = []

    class Watch:
        def step(self, particles: Any, output: Any, draw: Any) -> Any:
            seen.append((particles.step, particles.candidates[0].origin, particles.memory is None))
            return process_of(6)["solver"].step(particles, output, draw)

    import tests.analytic as bed

    patched = pytest.MonkeyPatch()
    original = bed.process_of
    patched.setattr(
        bed, "process_of", lambda *a, **k: original(*a, **k) | {"solver": _Timed(Watch(), process)}
    )
    try:
        run(SearchOverPaths(), steps=6)
    finally:
        patched.undo()
    starts = [(step, origin) for step, origin, fresh in seen if fresh]
    assert {origin for _, origin in starts} == {"own", "renoised"}
    assert all((step == 0) == (origin == "own") or origin == "renoised" for step, origin in starts)
    assert any(not fresh for *_, fresh in seen)


class _Timed:
    """A solver with the bed's times."""

    def __init__(self, solver: Any, process: Any) -> None:
        self.step, self.times = solver.step, process.solver.times


class _Bound:
    """The bed's solver, as one that computes nonsense in the middle of a run without its memory."""

    def __init__(self) -> None:
        self.solver = process_of(6)["solver"]
        self.times = self.solver.times

    def step(self, particles: Any, output: Any, draw: Any) -> Any:
        assert particles.step == 0 or particles.memory is not None, "restarted"
        return self.solver.step(particles, output, draw)


def test_a_solver_that_cannot_restart_is_not_asked_to() -> None:
    bound = {"solver": _Bound(), "own_restarts": False}
    made, free = run(SearchOverPaths(), more=bound), run(SearchOverPaths())
    # The bed's solver is Euler's, which is what the ODE of its levels is solved by.
    for a, b in zip(made.archive.entries, free.archive.entries, strict=True):
        # Stepped by a kernel, candidate 0 is off the scheduler's path, and its children have another parent.
        assert (a.candidate.parent, b.candidate.parent) == (-1, 0) or a.candidate.parent == b.candidate.parent
        assert replace(a.candidate, parent=b.candidate.parent) == b.candidate
        assert a.total == pytest.approx(b.total, abs=1e-5)
    assert made.searches[0].spent == free.searches[0].spent
    plain = run(SearchOverPaths(), budget=Budget(nfe=6), more=bound)  # no rounds: nothing is restarted
    assert torch.equal(plain.winners[0].x, run(BestOfN(1)).winners[0].x)
    with pytest.raises(
        AssertionError, match="restarted"
    ):  # the broken twin: the scheduler is believed to restart
        run(SearchOverPaths(), more=bound | {"own_restarts": True})


@pytest.mark.parametrize(
    "scheduler", ["LMSDiscreteScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler"]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_schedulers_of_pipelines_are_restarted_only_where_they_can(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import genscale
    from genscale.pipelines.solver import SchedulerSolver
    from tests.zoo import ZOO, with_scheduler

    seen: list[bool] = []
    step = SchedulerSolver.step

    def watched(self: Any, particles: Any, output: Any, draw: Any) -> Any:
        seen.append(particles.step > 0 and particles.memory is None)
        return step(self, particles, output, draw)

    monkeypatch.setattr(SchedulerSolver, "step", watched)
    pipe = with_scheduler(ZOO["stable_diffusion"].build(), scheduler)
    pipe.scheduler.register_to_config(skip_prk_steps=False)  # only PNDM reads it
    sampler = SearchOverPaths(start=0.4, forward=0.3, backward=0.5)  # to levels between the noise and the end
    scaled = genscale.scale(pipe, sampler, lambda m, p: m.pixels.flatten(1).mean(1))
    call = ZOO["stable_diffusion"].arguments(1) | {"num_inference_steps": 8, "output_type": "np"}
    search = scaled(**call, generator=torch.Generator().manual_seed(3)).search
    assert len(search.entries) >= 4
    assert all(math.isfinite(e.total) for e in search.entries)
    assert any(seen) == (scheduler == "DPMSolverMultistepScheduler")


def test_branches_of_pure_noise_are_never_made() -> None:
    """start=0.9 lies nearest to the first level of a coarse grid, where there is nothing to branch."""
    sampler = SearchOverPaths(start=0.9, forward=0.05, backward=0.5)
    made = run(sampler, steps=4)
    previews = [e for e in made.archive.entries if e.candidate.parent is not None]
    assert sampler._begin(made.searches[0].process) == 1
    assert len({round(e.total, 9) for e in previews}) > 1
    assert made.searches[0].spent == sampler.cost(made.searches[0].process)


@pytest.mark.parametrize(
    "options",
    [{"paths": 0}, {"branches": 0}, {"start": 0.0}, {"start": 0.3}, {"forward": 0.0}, {"backward": 0.78}],
)
def test_search_over_paths_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SearchOverPaths(**options)


def test_a_schedule_that_cannot_be_read_is_refused_before_anything_is_spent() -> None:
    from genscale.engine.search import Search

    roles = Roles(VerifierSet((WeightedVerifier("a", lambda media, prompts: [0.0] * len(prompts)),)))
    parts = process_of() | {"view": "this scheduler has no noise levels"}
    with pytest.raises(UsageError, match="no noise levels"):
        Search.open(0, "", SearchOverPaths(), Key((0,)), Budget(), roles, **parts)
