"""Beam search: against enumeration, single trajectories and other samplers that are special cases of it."""

from __future__ import annotations

import inspect
import itertools
import math
from collections import Counter
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import genscale
from genscale.algorithms import beam_search
from genscale.algorithms.beam_search import BeamLevel
from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Transition, ddim_step
from genscale.diffusion.noise_schedule import NoiseLevel
from genscale.engine.budget import Budget
from genscale.engine.process import PromptProcess
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics import clustering
from genscale.numerics.clustering import covering, embedded, kmeans
from genscale.protocol.particles import draw
from genscale.samplers.beam import Beam
from genscale.samplers.dlbs import Dlbs
from genscale.samplers.importance import Importance
from genscale.samplers.successive_halving import SuccessiveHalving
from genscale.samplers.treeg import TreeG
from tests.analytic import DIM, Mixture, Run, process_of, run

STEPS = 8
LEVELS = (0.5, 0.625, 0.75)  # of 8 steps: 4, 5, 6


def process(steps: int = STEPS, **more: Any) -> PromptProcess:
    return PromptProcess(**process_of(steps) | more)


def by_step(made: Run) -> dict[int, list[Any]]:
    return {s: [e for e in made.archive.entries if e.step == s] for s in range(STEPS + 1)}


# ---------------------------------------------------------------- clusters


def blobs(sizes: list[int], seed: int, d: int = 5) -> tuple[Tensor, list[int]]:
    """Points around corners that are 100 spreads apart, shuffled, and where each belongs."""
    g = torch.Generator().manual_seed(seed)
    where = [j for j, n in enumerate(sizes) for _ in range(n)]
    where = [where[i] for i in torch.randperm(len(where), generator=g).tolist()]
    noise = torch.randn(len(where), d, generator=g, dtype=torch.float64)
    return 100 * torch.eye(d, dtype=torch.float64)[where] + noise, where


def same_partition(labels: Tensor, where: list[int]) -> bool:
    pairs = set(zip(labels.tolist(), where, strict=True))
    return len(pairs) == len(set(where)) == len(set(labels.tolist()))


UNEVEN = [40, 2, 3, 2]


def found(sizes: list[int]) -> list[bool]:
    pools = [blobs(sizes, seed) for seed in range(20)]
    return [same_partition(kmeans(x, len(sizes), Key((i,))), where) for i, (x, where) in enumerate(pools)]


@pytest.mark.parametrize("sizes", [[5, 5], [1, 1, 1], [10, 1, 4], UNEVEN])
def test_separated_clusters_are_found(sizes: list[int]) -> None:
    assert all(found(sizes))


def test_seeds_drawn_without_regard_to_distance_miss_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin of k-means++."""

    def uniform(points: Tensor, k: int, key: Key) -> Tensor:
        return points[(key.uniform(k) * len(points)).long()]

    monkeypatch.setattr(clustering, "_seeds", uniform)
    assert sum(found(UNEVEN)) < 10


def test_k_means_ends_where_no_point_is_nearer_to_another_centre() -> None:
    for seed in range(10):
        x = torch.randn(30, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        labels = kmeans(x, 4, Key((seed,)))
        centres = torch.stack([x[labels == j].mean(0) for j in range(4)])
        assert torch.equal(torch.cdist(x, centres).argmin(1), labels)


def test_as_many_clusters_as_there_are_different_points() -> None:
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0 + 1e-7], [5.0]])
    for k in (3, 4, 5):
        assert same_partition(kmeans(x, k, Key((k,))), [0, 0, 1, 1, 2])
    assert kmeans(torch.ones(4, 2), 3, Key((0,))).unique().numel() == 1
    assert kmeans(torch.arange(6.0)[:, None], 6, Key((0,))).unique().numel() == 6


@pytest.mark.parametrize("columns", [1 << 20, 50])
def test_the_embedding_keeps_all_distances(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(clustering, "COLUMNS", columns)
    x = torch.randn(7, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert embedded(x).shape == (7, 7)
    flat = x.double().flatten(1)
    assert torch.allclose(torch.cdist(embedded(x), embedded(x)), torch.cdist(flat, flat), atol=1e-6)
    few = torch.randn(9, 2, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(
        torch.cdist(embedded(few), embedded(few)), torch.cdist(few, few).double(), atol=1e-6
    )


# ---------------------------------------------------------------- whom to keep


def pools(seed: int) -> tuple[Tensor, Tensor, float, int]:
    g = torch.Generator().manual_seed(seed)
    n = int(torch.randint(2, 9, (1,), generator=g))
    scores = torch.randn(n, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 4, (n,), generator=g)
    weight = float(torch.rand(1, generator=g)) * 3 * (seed % 3)
    return scores, labels, weight, int(torch.randint(1, n + 1, (1,), generator=g))


@pytest.mark.parametrize("seed", range(60))
def test_the_choice_is_the_best_of_all_subsets(seed: int) -> None:
    scores, labels, weight, keep = pools(seed)

    def worth(rows: Any) -> float:
        return float(scores[list(rows)].sum()) + weight * len({int(labels[r]) for r in rows})

    chosen = covering(scores, labels, weight, keep)
    assert len(set(chosen)) == keep
    assert chosen == sorted(chosen)
    best = max(map(worth, itertools.combinations(range(len(scores)), keep)))
    assert worth(chosen) == pytest.approx(best, abs=1e-12)


def test_without_a_term_it_is_exactly_top_k() -> None:
    scores = torch.tensor([1.0, 3.0, 3.0, 0.1 + 0.2, 0.3, 3.0], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 1, 2, 1])
    assert covering(scores, labels, 0.0, 2) == [1, 2]  # among equals the first
    assert covering(scores, labels, 0.0, 5) == [0, 1, 2, 3, 5]  # by the last bit
    assert covering(scores, labels, 100.0, 3) == [0, 1, 4]


def modes(made: Run) -> Counter[int]:
    """Which component of the mixture each finished candidate is nearest to."""
    x = torch.stack([e.x for e in made.searches[0].finals])
    return Counter(torch.cdist(x, Mixture().means).argmin(1).tolist())


WIDE = Beam(width=24, survivors=3, branch=1, levels=(0.875,), diversity=1e6)


@pytest.mark.parametrize("seed", range(8))
def test_a_large_diversity_covers_every_cluster_and_none_covers_one(seed: int) -> None:
    """Scores grow along the first coordinate: without the term (the broken twin) only one of the modes is left."""
    covered, best = (run(s, steps=16, seed=seed, keep=9) for s in (WIDE, replace(WIDE, diversity=0.0)))
    assert modes(covered) == {0: 1, 1: 1, 2: 1}
    assert modes(best) == {0: 3}
    for made in (covered, best):  # the best preview goes on in both
        top = max((e for e in made.archive.entries if e.step == 14), key=lambda e: e.total).candidate
        assert any(top.id in (e.candidate.id, e.candidate.parent) for e in made.searches[0].finals)


def test_the_term_is_in_units_of_the_pool_s_spread() -> None:
    def loud(media: Any, prompts: Any) -> Tensor:
        return 1000 * media.pixels[:, 0, 0, 0].double() - 7

    sampler = Beam(width=12, survivors=(4, 3, 2), branch=3, diversity=3.0)
    quiet, noisy = run(sampler, steps=STEPS), run(sampler, steps=STEPS, verifier=loud)
    assert [e.candidate for e in quiet.archive.entries] == [e.candidate for e in noisy.archive.entries]
    other = run(replace(sampler, diversity=0.0), steps=STEPS)
    assert [e.candidate for e in quiet.archive.entries] != [e.candidate for e in other.archive.entries]


# ---------------------------------------------------------------- against enumeration


@dataclass(frozen=True)
class Toss(Transition):
    """One of two points, by the sign of the noise's first coordinate."""

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.std * noise[:, :1].sign().to(self.mean)


@dataclass(frozen=True)
class Coin:
    deterministic: bool = False

    def calls(self, start: NoiseLevel) -> int:
        return 1

    def transition(
        self, x: Tensor, x0: Tensor, eps: Tensor, start: NoiseLevel, stop: NoiseLevel
    ) -> Transition:
        base = ddim_step(x0, eps, stop, 0.9 * stop.sigma)
        return Toss(base.mean, base.std)


def waves(x: Tensor) -> Tensor:
    """Hills and valleys, so that what looks best on the way need not end best."""
    return (5 * x[..., 0]).sin() + (4 * x[..., 1]).cos() + (6 * x[..., 2]).sin()


def judged(media: Any, prompts: Any) -> Tensor:
    return waves(media.pixels[..., 0, 0].double())


def moved(x: Tensor, step: int, sign: float = 0.0) -> Tensor:
    """One step of the bed by hand: by the ODE, or a toss."""
    t, s = 1 - step / STEPS, 1 - (step + 1) / STEPS
    x0 = Mixture().clean(x, t)
    eps = (x - (1 - t) * x0) / t
    std = 0.9 * s * abs(sign)
    return (1 - s) * x0 + math.sqrt(s * s - std * std) * eps + std * sign


def previewed(x: Tensor, step: int) -> float:
    return float(waves(Mixture().clean(x, 1 - step / STEPS))[0])


def finished(x: Tensor) -> float:
    return float(waves(moved(x, 7))[0])


def at_the_first_level(seed: int) -> Tensor:
    x = process_of(STEPS, seed=seed)["prior"].own[None].double()
    for step in range(4):
        x = moved(x, step)
    return x


def ends(seed: int) -> list[float]:
    """Where each of the eight ways to toss three times leads."""
    found = []
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        x = at_the_first_level(seed)
        for step, sign in zip((4, 5, 6), signs, strict=True):
            x = moved(x, step, sign)
        found.append(finished(x))
    return found


def greedy(seed: int) -> float:
    """The better toss by its preview, twice; then the better end."""
    x = at_the_first_level(seed)
    for step in (4, 5):
        x = max((moved(x, step, sign) for sign in (-1.0, 1.0)), key=lambda y: previewed(y, step + 1))
    return max(finished(moved(x, 6, sign)) for sign in (-1.0, 1.0))


FULL = Beam(width=1, levels=LEVELS, survivors=math.inf, branch=8, kernel=Coin(), rest="ode")


@pytest.mark.parametrize("seed", range(3))
def test_the_full_width_is_exhaustive_search(seed: int) -> None:
    """With eight children at each of three tosses, all eight ends are among the finals, and nothing else is."""
    made = run(FULL, steps=STEPS, seed=seed, verifier=judged, batch_size=512)
    totals, all_ends = [e.total for e in made.searches[0].finals], ends(seed)
    assert made.winners[0].total == pytest.approx(max(all_ends), abs=1e-4)
    assert len(totals) == 8**3
    gaps = (torch.tensor(totals)[:, None] - torch.tensor(all_ends)).abs()
    assert float(gaps.amin(0).max()) < 1e-4
    assert float(gaps.amin(1).max()) < 1e-4


def test_a_beam_of_one_is_greedy_and_misses_what_the_full_width_finds() -> None:
    missed = []
    for seed in range(12):
        one = (
            run(replace(FULL, survivors=1, branch=24), steps=STEPS, seed=seed, verifier=judged)
            .winners[0]
            .total
        )
        assert one == pytest.approx(greedy(seed), abs=1e-4)
        missed.append(max(ends(seed)) - one)
    assert min(missed) > -1e-4
    assert max(missed) > 0.1


# ---------------------------------------------------------------- special cases


def test_one_state_and_one_child_is_a_single_trajectory() -> None:
    for kernel in ("ddim(0.5)", "sde(rbf)", "ode"):
        alone = Beam(width=1, survivors=1, branch=1, kernel=kernel, rest=kernel, lookahead=3)
        plain = Importance(1, rest=kernel)
        a, b = (run(s, steps=STEPS).searches[0].finals for s in (alone, plain))
        assert [e.candidate for e in a] == [e.candidate for e in b]
        assert torch.equal(a[0].x, b[0].x)


def test_without_branches_it_is_successive_halving() -> None:
    """With the same fractions, which mean the same model calls."""
    halving = SuccessiveHalving(16, (0.375, 0.5, 0.625))
    beam = Beam(width=16, levels=(0.375, 0.5, 0.625), survivors=0.5, branch=1, kernel="ode", rest="ode")
    a, b = (run(s, steps=STEPS) for s in (beam, halving))
    assert a.searches[0].spent == b.searches[0].spent == 80
    assert a.searches[0].calls == b.searches[0].calls
    ours, theirs = (sorted(e.total for e in m.archive.entries) for m in (a, b))
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert torch.allclose(a.winners[0].x, b.winners[0].x, atol=1e-5)


def test_a_beam_of_every_step_is_the_particle_filter_of_infinite_strength() -> None:
    """TreeG by two cores: the best 3 of 12 at every step."""
    kernels = {"kernel": "ddim(1)", "rest": "ddim(1)"}
    ours = Beam(
        width=12,
        levels=tuple(s / STEPS for s in range(1, 7)),
        survivors=3,
        branch=(4, 4, 4, 4, 4, 1),
        **kernels,
    )
    theirs = ParticleFilter(3, 4, "global", math.inf, "reward", interval=0.0, window=(0.0, 1.0), **kernels)
    a, b = (run(s, steps=STEPS) for s in (ours, theirs))
    assert [(e.candidate, e.step, e.total) for e in a.archive.entries] == [
        (e.candidate, e.step, e.total) for e in b.archive.entries
    ]
    assert torch.equal(a.winners[0].x, b.winners[0].x)
    every = run(TreeG(12, survivors=3, branch=4), steps=STEPS)
    previews = [(e.candidate, e.total) for e in every.archive.entries if not e.final]
    assert previews == [(e.candidate, e.total) for e in a.archive.entries if not e.final]
    assert len(every.searches[0].finals) == 12


# ---------------------------------------------------------------- schedules and costs


def test_branch_keep_and_width_by_level() -> None:
    made = run(Beam(width=20, levels=LEVELS, survivors=(0.2, 3, 2), branch=(2, 1, 4)), steps=STEPS)
    entries = by_step(made)
    assert [len(entries[s]) for s in (4, 5, 6, 8)] == [20, 8, 3, 8]
    assert made.searches[0].spent == 20 * 5 + 8 * 1 + 3 * 1 + 8 * 1
    assert made.searches[0].calls == 20 + 8 + 3 + 8
    # Who goes on, or has children, is among the best.
    for (before, after), keep in zip(pairwise((4, 5, 6, 8)), (4, 3, 2), strict=True):
        best = {e.candidate.id for e in sorted(entries[before], key=lambda e: -e.total)[:keep]}
        gone_on = {e.candidate.id for e in entries[after]} & {e.candidate.id for e in entries[before]}
        parents = {e.candidate.parent for e in entries[after] if e.candidate.step == before}
        assert parents | gone_on == best
    assert all(e.candidate.origin == "branch" for e in entries[8] if e.candidate.step == 6)


def test_children_of_one_state_part() -> None:
    made = run(Beam(width=1, levels=(0.5,), survivors=1, branch=5), steps=STEPS)
    assert len({round(e.total, 6) for e in made.searches[0].finals}) == 5


@pytest.mark.parametrize(
    ("sampler", "nfe"),
    [
        (Dlbs(), 8 * 8 + 8 * (5 + 5 + 4 + 3 + 2 + 1)),
        (Dlbs(lookahead=1), 8 * 8),
        (TreeG(), 16 * 8),
        (Beam(), 16 * 5 + 8 + 4 + 4),  # an eighth, rounded up, by four
        (Beam(width=16, survivors=0.25, branch=4), 16 * 8),
        (Beam(width=16, survivors=0.5, branch=1, kernel="ode"), 16 * 5 + 8 + 4 + 2),
        (Beam(width=4, levels=(0.5,), survivors=1, branch=2, lookahead=2), 4 * 6 + 2 * 3),
        (Beam(width=4, levels=(0.5,), survivors=1, branch=2, lookahead=99), 4 * 8 + 2 * 3),
        # glass: two calls a transition between the first level and a step after the last
        (Beam(width=4, survivors=2, branch=2, kernel="glass(2)"), 4 * 5 + 4 * 2 + 4 * 2 + 4 * (1 + 1)),
    ],
)  # fmt: skip
def test_costs_by_hand(sampler: Any, nfe: int) -> None:
    assert sampler.cost(process()) == nfe
    assert run(sampler, steps=STEPS).searches[0].spent == nfe


@pytest.mark.parametrize(
    ("lookahead", "steps"),
    [(1, [4]), (2, [4, 6]), (3, [4, 5, 6]), (4, [4, 5, 6, 7]), (9, [4, 5, 6, 7])],
)
def test_a_look_ahead_spends_what_it_says_where_it_says(lookahead: int, steps: list[int]) -> None:
    sampler = Beam(width=3, levels=(0.5,), survivors=1, branch=1, lookahead=lookahead, kernel="ode")
    assert BeamLevel(4, 1, 1, lookahead, 0.0).ahead(process()) == steps
    seen: Counter[int] = Counter()
    run(sampler, steps=STEPS, on_batch=lambda batch, rows: seen.update([batch.step] * len(rows)))
    plain = {0: 3, 1: 3, 2: 3, 3: 3, 4: 3, 5: 1, 6: 1, 7: 1}
    assert seen == {s: n + 3 * (s in steps[1:]) for s, n in plain.items()}


def test_a_whole_look_ahead_sees_where_the_ode_ends() -> None:
    sampler = Beam(width=5, survivors=math.inf, branch=1, kernel="ode", rest="ode", lookahead=99)
    entries = by_step(run(sampler, steps=STEPS))
    ends = [e.total for e in entries[8]]
    for step in (4, 5, 6):
        assert [e.total for e in entries[step]] == pytest.approx(ends, abs=1e-5)
    short = by_step(run(replace(sampler, lookahead=1), steps=STEPS))
    assert [e.total for e in short[4]] != pytest.approx(ends, abs=1e-3)


def test_a_look_ahead_is_nobody_s_state() -> None:
    """It changes who is kept, never the states themselves; and nothing is evaluated twice."""
    seen: set[tuple[int, int]] = set()

    def on_batch(batch: Any, rows: Any) -> None:
        for _, i in rows:
            assert (i, batch.step) not in seen
            seen.add((i, batch.step))

    whole = Beam(width=6, survivors=math.inf, branch=1, kernel="ode", rest="ode")
    ahead = run(replace(whole, lookahead=3), steps=STEPS, on_batch=on_batch)
    assert torch.equal(ahead.winners[0].x, run(whole, steps=STEPS).winners[0].x)


@pytest.mark.parametrize("nfe", [8, 11, 20, 50, 93, 94, 95, 187, 188, 300])
def test_the_first_beam_is_the_largest_that_is_paid_for(nfe: int) -> None:
    sampler = Beam(survivors=0.25, branch=2)
    search = run(sampler, steps=STEPS, budget=Budget(nfe=nfe)).searches[0]
    assert nfe - STEPS < search.spent <= nfe
    wide = process(left=lambda: (nfe, None), open_ended=True)
    n = sampler.plan(wide)
    assert sampler.spend(wide, n + 1) > nfe
    assert n == 0 or sampler.spend(wide, n) <= nfe


def test_a_budget_is_spent_on_further_beams_from_fresh_noise() -> None:
    sampler = Beam(width=8, survivors=2, branch=2)
    one = run(sampler, steps=STEPS)
    cost = one.searches[0].spent
    made = run(sampler, steps=STEPS, budget=Budget(nfe=3 * cost))
    noises = [e.candidate for e in made.archive.entries if e.step == 4]
    assert made.searches[0].spent == 3 * cost
    assert len(noises) == len({c.key for c in noises}) == 24
    first = [(e.candidate, e.total) for e in one.archive.entries]
    assert [(e.candidate, e.total) for e in made.archive.entries][: len(first)] == first


def test_a_narrow_beam_has_the_same_shape() -> None:
    sampler = Beam(width=16, survivors=(8, 4, 2), branch=2)
    assert [sampler.pools(process(), n) for n in (16, 8, 4, 2, 1)] == [
        [16, 16, 8, 4], [8, 8, 4, 2], [4, 4, 2, 2], [2, 2, 2, 2], [1, 2, 2, 2]
    ]  # fmt: skip
    spends = [sampler.spend(process(), n) for n in range(1, 17)]
    assert spends == sorted(spends)
    assert replace(sampler, width=None).pools(process(), 5) == [5, 10, 8, 4]  # no width to be narrower than
    assert Beam(survivors=0.07, branch=1).pools(process(), 100)[1] == 7  # not 8 by rounding


@pytest.mark.parametrize(
    ("steps", "expected"), [(20, [10, 12, 15]), (8, [4, 5, 6]), (6, [3, 4]), (4, [2]), (3, [])]
)
def test_levels_of_short_runs(steps: int, expected: list[int]) -> None:
    sampler = Beam(levels=LEVELS, survivors=(0.5, 0.4, 0.3), branch=(4, 3, 2))
    made = sampler.schedule(process(steps))
    assert [level.step for level in made] == expected
    if steps == 4:
        assert (made[0].survivors, made[0].branch) == (
            0.4,
            3,
        )  # 5/8 of 4 falls on step 2, too; 3/4 on the last but one
    assert [level.step for level in TreeG().schedule(process(steps))] == list(range(1, steps - 1))


def test_a_run_too_short_to_branch_says_so() -> None:
    with pytest.warns(UserWarning, match="a run of 3 steps has none to branch"):
        made = run(Beam(width=4), steps=3)
    assert made.searches[0].spent == 12
    assert made.searches[0].finals[0].candidate.origin == "own"


def test_clusters_are_those_of_the_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are kept, in the space of what was scored."""
    seen: list[tuple[int, int]] = []
    original = beam_search.kmeans

    def spy(points: Tensor, k: int, key: Key) -> Tensor:
        seen.append((len(points), k))
        return original(points, k, key)

    monkeypatch.setattr(beam_search, "kmeans", spy)
    run(Beam(width=9, survivors=(4, 2, 8), branch=2, diversity=(1.0, 0.0, 1.0)), steps=STEPS)
    assert seen == [(9, 4)]  # no weight at the second level, and nobody to drop at the third


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 0}, "width=0 must be at least 1"),
        ({"levels": ()}, "levels=.* must be increasing"),
        ({"levels": (0.5, 0.5)}, "must be increasing"),
        ({"levels": (0.0, 0.5)}, "between 0 and 1"),
        ({"levels": (0.5, 1.0)}, "between 0 and 1"),
        ({"levels": "all"}, "or 'every'"),
        ({"survivors": (1, 2)}, "one for each of levels"),
        ({"branch": (1, 2, 3, 4)}, "one for each of levels"),
        ({"levels": "every", "branch": (2, 2, 2)}, "branch=.* must be one number"),
        ({"survivors": 0.0}, "survivors=.* must be shares below 1"),
        ({"survivors": 2.5}, "whole numbers"),
        ({"survivors": math.nan}, "survivors"),
        ({"survivors": (4, 2, 0)}, "survivors"),
        ({"branch": 0}, "branch=0 must be whole numbers"),
        ({"branch": 1.5}, "branch=1.5"),
        ({"lookahead": 0}, "lookahead=0"),
        ({"diversity": -1.0}, "diversity=-1.0 must be 0 or more"),
        ({"diversity": math.inf}, "and finite"),
        ({"diversity": math.nan}, "diversity"),
        ({"kernel": "ode"}, r"every branch of an ODE is the same.*kernel='ddim\(0.5\)'"),
        ({"kernel": "ddim(0)", "branch": (1, 1, 2)}, "leaves nothing to branch"),
        ({"kernel": "own", "branch": 1}, "kernel 'own' leaves nothing to branch.*branch=1 with kernel='ode'"),
        ({"rest": "what"}, "unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Beam(**{"levels": LEVELS} | options)


def test_glass_needs_calls_between_levels() -> None:
    bound = process(off_grid="this scheduler has no rule")
    with pytest.raises(UsageError, match="glass is not possible"):
        Beam(kernel="glass(2)").grid(bound)
    assert Beam(kernel="glass(1)").grid(bound) is bound


def test_noises_are_the_candidates_own() -> None:
    """What a beam begins with is what best_of_n would draw: by number, so that a wider beam has the same first ones."""
    starts: dict[int, Tensor] = {}

    def on_batch(batch: Any, rows: Any) -> None:
        if batch.step == 0:
            starts.update({i: x for x, (_, i) in zip(batch.x, rows, strict=True)})

    run(Beam(width=5), steps=STEPS, on_batch=on_batch)
    key = Key.from_seed(0).fold("prompt", 0)
    for i in range(5):
        assert torch.equal(starts[i], process().start([draw(key, i)]).x[0])
        assert starts[i].shape == (DIM,)


def test_its_options_can_be_given_to_scale() -> None:
    """... which has words of its own, `keep` among them."""
    assert not {f.name for f in fields(Beam)} & set(inspect.signature(genscale.scale).parameters)
    assert genscale.scale(object(), "beam", survivors=(4, 2, 1)).sampler == Beam(survivors=(4, 2, 1))
