"""Black-box searches over the initial noise: exact limits, known hills, known acceptance, and the Haar transform."""

from __future__ import annotations

import builtins
import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from genscale.algorithms.subspace_evolution import Subspace
from genscale.engine.archive import Archive, Entry
from genscale.engine.budget import Budget
from genscale.engine.drive import drive
from genscale.engine.engine import Engine
from genscale.engine.ledger import Ledger
from genscale.engine.prior import Prior
from genscale.engine.process import PromptProcess
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.numerics.haar import Plane, join, split
from genscale.numerics.noise_sphere import neighbour
from genscale.protocol.batches import Batch, Output
from genscale.samplers.annealing import Annealing, metropolis
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.cem_lowfreq import CemLowfreq
from genscale.samplers.cma_es import CmaEs
from genscale.samplers.snes import Snes, _utilities
from genscale.samplers.trust_region import TrustRegion, _perturbed
from tests import test_budget, test_samplers
from tests.analytic import SAMPLERS
from tests.quick import third

SHAPE = (4, 8, 8)
KINDS = (Annealing, CemLowfreq, CmaEs, Snes, TrustRegion)
NAMES = [n for n, s in SAMPLERS.items() if isinstance(s, KINDS)]


class Stay:
    """A solver whose clean latents are the initial noise, so that a verifier sees the noise itself."""

    def step(self, particles: Any, output: Tensor, draw: Any) -> tuple[Tensor, None]:
        return particles.x, None


def parts_of(seed: int, shape: tuple[int, ...]) -> dict[str, Any]:
    prior = Prior(torch.zeros(shape), torch.ones(shape), Key.from_seed(seed).fold("own").normal(shape))
    return {"evaluations": (1,), "prior": prior, "solver": Stay(), "view": "it has no noise levels"}


def run(
    sampler: Any,
    verifier: Any,
    budget: Budget | None = None,
    seed: int = 0,
    shape: tuple[int, ...] = SHAPE,
    batch_size: int = 64,
    ensemble: str = "weighted",
) -> SimpleNamespace:
    """A search of noise in one step of one evaluation. verifier: of noise [n, *shape], to n scores.

    Returns entries (finished candidates in order) with their noise, and the search.
    """
    seen: dict[int, Tensor] = {}
    members = tuple(
        WeightedVerifier(f"j{i}", lambda media, prompts, v=v: v(media.pixels.reshape(len(prompts), *shape)))
        for i, v in enumerate(verifier if isinstance(verifier, list) else [verifier])
    )
    roles, budget = Roles(VerifierSet(members, ensemble)), budget or Budget()
    search = Search.open(0, "", sampler, Key.from_seed(seed), budget, roles, **parts_of(seed, shape))
    archive = Archive(None, {})

    def decode(x: Tensor, prompts: Any) -> Media:
        return Media(x.reshape(len(x), 1, 1, -1).clone())

    engine = Engine(
        [search], roles, decode, budget=budget, archive=archive, ledger=Ledger(), batch_size=batch_size
    )

    def evaluate(batch: Batch) -> Output:
        for x, (_, c) in zip(batch.x, engine.evaluated, strict=True):
            seen[c.id] = x
        return Output(torch.zeros_like(batch.x), batch.x, len(batch.x))

    drive(engine, evaluate)
    entries: list[Entry] = [e for e in archive.entries if e.final]
    return SimpleNamespace(search=search, entries=entries, noise=seen, best=search.best().total)


def scripted(scores: list[float]) -> Any:
    """A verifier that gives the k-th noise it sees the k-th score."""
    given = iter(scores)
    return lambda x: [next(given) for _ in x]


def parabola(seed: int, low: bool) -> Any:
    """Minus the squared distance to a point of the sphere of typical noise, in the low band alone or in all."""
    goal = Key.from_seed(seed).fold("goal").normal(SHAPE)
    plane = Plane.of(SHAPE)

    def score(x: Tensor) -> Tensor:
        gap = [r - goal for r in x]
        return torch.stack([-(plane.split(g, 2)[0] if low else g).double().square().sum() for g in gap])

    return score


# ---------------------------------------------------------------- the Haar transform


@pytest.mark.parametrize(
    "shape", [(3,), (1,), (7, 4), (16, 8), (4, 8, 8), (2, 5, 7), (3, 2, 6, 10), (4, 1, 9)]
)
@pytest.mark.parametrize("level", [0, 1, 2, 4])
def test_haar_is_orthonormal_and_perfectly_undone(shape: tuple[int, ...], level: int) -> None:
    plane, d = Plane.of(shape), math.prod(shape)
    columns = []
    for i in range(d):
        unit = torch.eye(d, dtype=torch.float64)[i].view(shape)
        low, high = plane.split(unit, level)
        assert torch.allclose(plane.join(low, high), unit, atol=1e-12)
        columns.append(torch.cat([low.flatten(), *(h.flatten() for h in high)]))
    matrix = torch.stack(columns)
    assert matrix.shape == (d, d)
    assert torch.allclose(matrix @ matrix.T, torch.eye(d, dtype=torch.float64), atol=1e-12)


def test_the_low_band_holds_block_means() -> None:
    x = Key((1,)).normal((2, 8, 16)).double()
    low, _ = split(x, 2, (-2, -1))
    means = x.reshape(2, 2, 4, 4, 4).mean((2, 4))
    assert torch.allclose(low, 4 * means)
    assert torch.allclose(join(low, split(x, 2, (-2, -1))[1], (-2, -1)), x)


def test_bands_of_white_noise_are_white() -> None:
    x = torch.stack([Key((i,)).normal((4, 16, 16)) for i in range(200)]).double()
    low, high = split(x, 2, (-2, -1))
    for band in (low, *high):
        n = band.numel()
        assert abs(float(band.mean())) < 4.5 / math.sqrt(n)
        assert abs(float(band.square().mean()) - 1) < 4.5 * math.sqrt(2 / n)
    twin = split(x, 2, (-2, -1))[0] / 4  # the broken twin takes means, as an average pooling does
    assert abs(float(twin.square().mean()) - 1) > 0.5


def test_packed_latents_are_a_square_or_what_the_user_says_or_a_row() -> None:
    assert Plane.of((16, 3)) == Plane((16, 3), (4, 4, 3), (-3, -2))
    assert Plane.of((12, 3), rows=3).grid == (3, 4, 3)
    assert Plane.of((12, 3)).grid == (1, 12, 3)
    grid = Key((2,)).normal((4, 8, 8))  # the same image, packed token by token and not
    packed = grid.permute(1, 2, 0).reshape(64, 4)
    low = Plane.of((64, 4)).split(packed, 2)[0]
    assert torch.allclose(low.permute(2, 0, 1), Plane.of(grid.shape).split(grid, 2)[0])
    for shape, rows in (((12, 3), 5), ((4, 8, 8), 2), ((12, 3), 0)):
        with pytest.raises(UsageError, match="rows"):
            Plane.of(shape, rows)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", third(NAMES))
def test_the_checks_of_all_samplers_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    test_budget.test_cost_is_what_is_spent(name, monkeypatch)
    test_budget.test_never_one_over_and_always_a_winner(name)
    test_budget.test_samplers_go_on_while_the_budget_lasts(name)
    test_samplers.test_the_batch_size_changes_nothing(name, 0.3)
    test_samplers.test_company_changes_nothing(name)
    test_samplers.test_the_winner_is_the_best_of_the_archive(name)


@pytest.mark.parametrize(
    "sampler",
    [Annealing(turn=0.0, rounds=4), CemLowfreq(spread=0.0, rounds=4, level=2), Snes(share=0.0, rounds=4),
     CmaEs(share=0.0, rounds=4), TrustRegion(side=0.0, shortest=0.0, warmup=1, rounds=3)],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
def test_no_way_to_go_is_best_of_1(sampler: Any) -> None:
    made = run(sampler, lambda x: x[:, 0, 0, 0].double())
    assert len(made.entries) > 10
    assert all(torch.allclose(x, made.noise[0], atol=1e-5) for x in made.noise.values())


DEFAULTS = [Annealing(), CemLowfreq(level=1), Snes(dimensions=6), CmaEs(dimensions=6), TrustRegion()]


@pytest.mark.parametrize("sampler", DEFAULTS, ids=lambda s: type(s).__name__)
def test_the_own_noise_comes_first_and_the_noise_stays_on_its_shell(sampler: Any) -> None:
    """... under a verifier that is out for longer noise."""
    made = run(sampler, lambda x: x.double().flatten(1).norm(dim=1), Budget(nfe=150))
    ids = [e.candidate.id for e in made.entries]
    assert ids == list(range(150))
    assert made.entries[0].candidate.origin == "own"
    assert torch.equal(made.noise[0], parts_of(0, SHAPE)["prior"].own)
    typical = math.sqrt(math.prod(SHAPE))
    fresh = 4.5 * math.sqrt(0.5)  # 4.5 standard deviations of the length of standard normal noise
    for i, x in made.noise.items():
        candidate, length = made.entries[i].candidate, float(x.norm())
        assert abs(length - typical) < fresh
        if candidate.origin == "neighbour" and not isinstance(sampler, CemLowfreq):
            parent = float(made.noise[candidate.parent].norm())
            assert length == pytest.approx(parent, rel=1e-5)


def mean_best(sampler: Any, low: bool, seeds: range, nfe: int, deaf: bool = False) -> float:
    """Mean best true score. deaf: the sampler is told nothing, only the best of what it evaluated counts."""
    bests = []
    for seed in seeds:
        score = parabola(seed, low)
        if not deaf:
            bests.append(run(sampler, score, Budget(nfe=nfe), seed).best)
        else:
            noise = run(sampler, lambda x: [0.0] * len(x), Budget(nfe=nfe), seed).noise
            bests.append(float(score(torch.stack(list(noise.values()))).max()))
    return sum(bests) / len(bests)


@pytest.mark.parametrize(
    ("sampler", "low"),
    [(CemLowfreq(level=2), True), (Snes(), False), (CmaEs(), False), (Annealing(), False),
     (TrustRegion(batch=10, regions=3), False)],
    ids=lambda s: type(s).__name__ if not isinstance(s, bool) else "",
)  # fmt: skip
def test_a_hill_is_climbed_better_than_by_best_of_n(sampler: Any, low: bool) -> None:
    seeds, nfe = range(8), 150
    base, deaf = mean_best(BestOfN(), low, seeds, nfe), mean_best(sampler, low, seeds, nfe, deaf=True)
    searched = mean_best(sampler, low, seeds, nfe)
    error = math.sqrt(
        2 * 2 * (16 if low else 256) / len(seeds)
    )  # of a difference of single draws: above that of bests
    assert searched > base + error
    assert deaf < base + error / 2  # the twin that hears no scores wins nothing


def test_ranks_of_two_verifiers_are_enough() -> None:
    for sampler in DEFAULTS:
        score = parabola(0, True)
        two = [score, lambda x, score=score: 1000 * score(x) - 5]
        by_rank = run(sampler, two, Budget(nfe=60), ensemble="rank")
        alone = run(sampler, score, Budget(nfe=60))
        assert len(by_rank.entries) == 60
        if not isinstance(sampler, Annealing):  # which looks at differences, too
            assert [e.candidate for e in by_rank.entries] == [e.candidate for e in alone.entries]


# ---------------------------------------------------------------- evolution strategies


def test_a_point_of_the_subspace_is_on_the_sphere_at_the_expected_angle() -> None:
    base = Key((1,)).normal(SHAPE)
    space = Subspace.through(base, Key((2,)), 9, 0.3)
    rows = torch.cat([base[None] / base.norm(), space.directions]).flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(10), atol=1e-5)
    z = torch.nn.functional.normalize(Key((3,)).normal((20, 9)), dim=1) * 3  # of the length sqrt(9)
    noise = space.noise(z).flatten(1)
    assert torch.allclose(noise.norm(dim=1), base.norm().expand(20), rtol=1e-5)
    cosine = noise @ base.flatten() / base.norm() ** 2
    assert torch.allclose(cosine, torch.full((20,), math.sqrt(0.7)), atol=1e-5)
    assert Subspace.through(torch.ones(3), Key((2,)), 9, 0.3).dimensions == 2
    with pytest.raises(UsageError, match="no direction"):
        Subspace.through(torch.ones(1), Key((2,)), 9, 0.3)


def test_published_utilities() -> None:
    u = _utilities(torch.tensor([3.0, 1.0, 2.0, 0.0], dtype=torch.float64))
    raw = [math.log(3), math.log(3) - math.log(2), 0.0, 0.0]
    wanted = [r / sum(raw) - 0.25 for r in raw]
    assert u.tolist() == pytest.approx([wanted[0], wanted[2], wanted[1], wanted[3]])
    ties = _utilities(torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    assert ties.tolist() == pytest.approx([sum(wanted[:2]) / 2] * 2 + [sum(wanted[2:]) / 2] * 2)
    assert float(_utilities(torch.zeros(5)).abs().max()) < 1e-15


@pytest.mark.parametrize("sampler", [Snes(dimensions=5, generations=2), CmaEs(dimensions=5, generations=2)])
def test_a_point_can_be_made_again_from_its_record(sampler: Any) -> None:
    made = run(sampler, parabola(0, False), Budget(nfe=60))
    bases = set()
    for entry in made.entries[1:]:
        c = entry.candidate
        basis = Key(c.key[:-2]).fold("basis", int(c.details["basis"]))
        space = Subspace.through(made.noise[c.parent], basis, 5, c.details["share"])
        z = torch.tensor([[c.details[f"z{j}"] for j in range(5)]], dtype=torch.float64)
        assert torch.allclose(space.noise(z)[0], made.noise[c.id], atol=1e-5)
        bases.add((c.details["basis"], c.parent))
    assert len(bases) > 2
    totals = {e.candidate.id: e.total for e in made.entries}
    for basis, parent in bases:  # a basis goes through the best that was there before it
        first = min(e.candidate.id for e in made.entries[1:] if e.candidate.details["basis"] == basis)
        assert totals[parent] == max(t for i, t in totals.items() if i < first)


def test_cma_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cmaes":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'genscale\[cmaes\]'"):
        run(CmaEs(), lambda x: [0.0] * len(x))


# ---------------------------------------------------------------- the low band


def test_only_the_low_band_is_searched_and_begins_standard_normal() -> None:
    plane, firsts = Plane.of(SHAPE), []
    for seed in range(30):
        made = run(CemLowfreq(level=2, spread=0.8, rounds=2), parabola(seed, True), seed=seed)
        own = plane.split(made.noise[0], 2)[1]
        for i, x in made.noise.items():
            low, high = plane.split(x, 2)
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(high, own, strict=True))
            if i < 10:
                firsts.append(low.double())
    n = 30 * 16  # rows of one search share a part of the own noise: only searches are independent
    assert abs(float(torch.stack(firsts).square().mean()) - 1) < 4.5 * math.sqrt(2 / n)


def test_the_distribution_is_that_of_the_elites() -> None:
    sampler = CemLowfreq(population=6, elites=3, level=2, rounds=4)
    made = run(sampler, parabola(0, True))
    plane, process = Plane.of(SHAPE), PromptProcess(**parts_of(0, SHAPE))
    lows = {i: plane.split(x.double(), 2)[0] for i, x in made.noise.items()}
    totals = {e.candidate.id: e.total for e in made.entries}
    for entry in made.entries[6:]:
        c = entry.candidate
        before = [i for i in totals if i < 6 * c.details["generation"]]
        elites = [int(c.details[f"elite{j}"]) for j in range(3)]
        assert elites == sorted(before, key=lambda i: -totals[i])[:3]
        pool = torch.stack([lows[i] for i in elites])
        white = plane.split(process.noise(c).double(), 2)[0]
        band = pool.mean(0) + pool.std(0) * white
        k, own = band.numel(), float(lows[0].norm())
        low_end, high_end = min(own, math.sqrt(k) - 2), max(own, math.sqrt(k) + 2)
        assert torch.allclose(
            lows[c.id], band * (band.norm().clamp(low_end, high_end) / band.norm()), atol=1e-4
        )


def test_packed_latents_are_searched_as_the_picture_they_are() -> None:
    made = run(CemLowfreq(level=2, rounds=2), lambda x: x[:, 0, 0].double(), shape=(64, 4))
    moves = (made.noise[15] - made.noise[0]).reshape(2, 4, 2, 4, 4)  # blocks of 4 x 4 tokens move as one
    assert torch.allclose(moves, moves[:, :1, :, :1].expand_as(moves), atol=1e-5)
    with pytest.raises(UsageError, match="rows"):
        run(CemLowfreq(rows=5), lambda x: x[:, 0, 0].double(), shape=(64, 4))


# ---------------------------------------------------------------- annealing


def parents(made: SimpleNamespace) -> list[int]:
    return [e.candidate.parent for e in made.entries[1:]]


def test_temperature_0_climbs() -> None:
    scores = [1.0, *[0.5, 2.0, 1.5], *[2.0, 1.9, 2.5], *[0.0, 0.0, 0.0], *[3.0, 4.0, 3.5], *[0.0, 0.0, 0.0]]
    made = run(Annealing(proposals=3, temperature=0.0, rounds=5), scripted(scores))
    assert parents(made) == [0] * 3 + [2] * 3 + [6] * 6 + [11] * 3


@pytest.mark.parametrize("size", [1, 3])
def test_a_proposal_is_a_neighbour_and_steps_shrink_over_the_budget(size: int) -> None:
    made = run(Annealing(proposals=size, final=0.1), parabola(0, False), Budget(nfe=31))
    process = PromptProcess(**parts_of(0, SHAPE))
    angles = []
    for e in made.entries[1:]:
        c = e.candidate
        wanted = neighbour(made.noise[c.parent][None], c.details["cosine"], process.noise(c)[None])[0]
        assert torch.allclose(made.noise[c.id], wanted, atol=1e-6)
        angles.append(math.acos(c.details["cosine"]))
    assert (angles[0], angles[-1]) == pytest.approx((math.pi / 2, 0.1 * math.pi / 2))
    ratios = [b / a for a, b in pairwise(angles[::size])]
    assert ratios == pytest.approx([0.1 ** (1 / (30 / size - 1))] * len(ratios))


def accepted(d: float, temperature: float, runs: int) -> tuple[int, int]:
    """How often a proposal is accepted that is worse by d units of the first scores' spread, and of how many."""
    # Scores 1 and 0 have the standard deviation 1/2; the walk is at the better one where it did not take the other.
    sampler = Annealing(proposals=1, temperature=temperature, final=1.0, rounds=3)
    made = [
        parents(run(sampler, scripted([1.0, 0.0, 1.0 - d / 2, 0.0]), seed=s, shape=(5,))) for s in range(runs)
    ]
    stayed = [p for p in made if p[1] == 0]
    return sum(p[2] == 2 for p in stayed), len(stayed)


def test_what_is_worse_is_accepted_as_often_as_it_should() -> None:
    d, temperature = 0.15, 0.5
    p = math.exp(-d / temperature)
    taken, n = accepted(d, temperature, 400)
    assert n > 350
    share, error = taken / n, math.sqrt(p * (1 - p) / n)
    assert abs(share - p) < 3.5 * error
    barker, other_unit = 1 / (1 + math.exp(d / temperature)), math.exp(-d / 2 / temperature)
    for twin in (barker, other_unit):  # broken twins
        assert abs(share - twin) > 3.5 * error


def test_metropolis() -> None:
    assert metropolis(0.0, 1.0, 0.999)
    assert metropolis(-1.0, 1.0, 0.36)
    assert not metropolis(-1.0, 1.0, 0.37)
    assert metropolis(1e-9, 0.0, 0.99)
    assert not metropolis(0.0, 0.0, 0.0)


# ---------------------------------------------------------------- trust regions


def sides(made: SimpleNamespace) -> list[float]:
    return [e.candidate.details["side"] for e in made.entries if e.candidate.origin == "neighbour"]


def test_the_side_follows_its_rule() -> None:
    one = TrustRegion(
        regions=1, batch=1, warmup=1, side=1.0, shortest=0.6, longest=2.0, patience=2, factor=1.5
    )
    ups = list(range(9))
    made = run(one, scripted([float(u) for u in ups]), Budget(nfe=9))
    assert sides(made) == pytest.approx([1, 1, 1.5, 1.5, 2, 2, 2, 2])
    assert parents(made) == list(range(8))  # every success is the next centre
    made = run(one, scripted([9.0] + [0.0] * 10), Budget(nfe=11))
    #             two failures: 1 / 1.5; two more: the shortest; two more there: from the start
    assert sides(made) == pytest.approx([1, 1, 2 / 3, 2 / 3, 0.6, 0.6, 1, 1, 2 / 3, 2 / 3])
    assert parents(made) == [0] * 10
    made = run(one, scripted([1.0, 2.0, 0.0, 3.0, 0.0, 0.0, 0.0]), Budget(nfe=7))
    assert sides(made) == pytest.approx([1, 1, 1, 1, 1, 2 / 3])  # only rounds in a row count


def test_regions_are_the_best_so_far_and_carry_their_sides() -> None:
    two = TrustRegion(regions=2, batch=4, warmup=3, side=1.0, patience=1, factor=2.0, rounds=2)
    #        warm-up          around 2  1    2    1
    scores = [1.0, 4.0, 5.0, *[6.0, 0.0, 5.5, 0.0], *[0.0] * 4]
    made = run(two, scripted(scores))
    assert parents(made)[2:] == [2, 1, 2, 1, 3, 5, 3, 5]
    assert sides(made) == [1, 1, 1, 1, 2, 2, 2, 2]


def test_a_fifth_warms_up() -> None:
    for sampler, budget, wanted in ((TrustRegion(), Budget(nfe=100), 20), (TrustRegion(), Budget(nfe=3), 1),
                                    (TrustRegion(), Budget(nfe=1000), 80), (TrustRegion(rounds=16), None, 80),
                                    (TrustRegion(rounds=2), None, 10), (TrustRegion(rounds=0), None, 1)):  # fmt: skip
        made = run(sampler, parabola(0, True), budget)
        assert sum(e.candidate.origin != "neighbour" for e in made.entries) == wanted


def test_a_proposal_is_in_the_box_around_its_centre_and_on_its_sphere() -> None:
    made = run(TrustRegion(regions=2, rounds=3, warmup=4), parabola(0, False))
    process = PromptProcess(**parts_of(0, SHAPE))
    for e in made.entries[4:]:
        c, centre = e.candidate, made.noise[e.candidate.parent]
        x = _perturbed(process, c, centre)
        assert torch.allclose(x, made.noise[c.id], atol=1e-6)
        scale = (
            (x / centre).flatten().median()
        )  # of the numbers that were not perturbed: what the length cost
        gap = (x / scale - centre).abs()
        share = float((gap > 1e-5).double().mean())
        if c.details["share"] < 0.4:  # so that the median is one of those
            assert float(gap.max()) <= c.details["side"] / 2 + 1e-4
            assert abs(share - c.details["share"]) < 4.5 * math.sqrt(0.25 / 256)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("cls", "options"),
    [(cls, o) for cls in (Snes, CmaEs) for o in ({"population": 1}, {"dimensions": 0}, {"share": 1.5},
                                                 {"generations": 0}, {"rounds": -1})]
    + [(CemLowfreq, o) for o in ({"population": 1}, {"elites": 0}, {"elites": 11}, {"level": -1}, {"spread": 2.0},
                                 {"rounds": 0})]
    + [(Annealing, o) for o in ({"proposals": 0}, {"turn": 1.1}, {"final": 0.0}, {"temperature": -1.0},
                                {"temperature": math.inf}, {"rounds": -1})]
    + [(TrustRegion, o) for o in ({"regions": 0}, {"batch": 0}, {"warmup": 0}, {"side": 3.0}, {"shortest": 0.9},
                                  {"factor": 1.0}, {"patience": 0}, {"rounds": -1})],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(cls: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refused:
        cls(**options)
    text = str(refused.value)
    assert text.endswith(".")
    assert next(iter(options)) in text
    assert "\n" not in text
