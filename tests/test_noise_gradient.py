"""Noise optimisation where the best noise is known in closed form, and what a run records of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genscale.algorithms.noise_ascent import FAILS
from genscale.engine.archive import read_archive
from genscale.engine.budget import Budget
from genscale.engine.prior import Prior
from genscale.engine.process import PromptProcess
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.numerics.optimisers import shell_gradient, shell_penalty
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.particles import draw
from genscale.results.result import SearchResult
from genscale.results.run_files import entry_dict
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.carinox import Carinox
from genscale.samplers.dflow import DFlow
from genscale.samplers.ditto import Ditto
from genscale.samplers.ditto2 import Ditto2
from genscale.samplers.dno import Dno, hybrid
from genscale.samplers.reno import Reno
from tests.analytic import DIM, Mixture, process_of, run

STEPS = 6
GAUSSIAN = Mixture(torch.tensor([[1.0, 2.0, -1.0]]), 0.5)
GOAL = torch.tensor([1.3, 1.6, -0.6])
PLAIN: dict[str, Any] = {"warmup": 0.0, "trials": 0}


def closeness(media: Media, prompts: Sequence[str]) -> Tensor:
    return -(media.pixels[:, :, 0, 0].double() - GOAL.double()).square().sum(1)


def constant(media: Media, prompts: Sequence[str]) -> Tensor:
    return 0.0 * media.pixels[:, :, 0, 0].double().sum(1)


CLOSE = Roles(VerifierSet((WeightedVerifier("close", closeness),)))


def generator() -> tuple[Tensor, float]:
    """The whole run on one Gaussian is affine, G(z) = a + b z: (a, b)."""
    times = process_of(STEPS)["solver"].times
    ends = []
    for x in (torch.zeros(1, DIM).double(), torch.ones(1, DIM).double()):
        for t, s in pairwise(times):
            x = x + (s - t) * GAUSSIAN.velocity(x, t)
        ends.append(x[0])
    gain = ends[1] - ends[0]
    assert torch.allclose(gain, gain[0])
    return ends[0], float(gain[0])


def slope(z: Tensor, reg: float = 0.0) -> Tensor:
    """Of r(G(z)) - reg penalty, float64."""
    a, b = generator()
    return -2 * b * (a + b * z.double() - GOAL.double()) - reg * shell_gradient(z.double())


def watched(sampler: Any, **settings: Any) -> tuple[Any, dict[int, Tensor]]:
    """A run on one Gaussian, and the latents of every candidate at step 0, which are its noise there."""
    starts: dict[int, Tensor] = {}

    def on_batch(batch: Any, rows: Any) -> None:
        if batch.step == 0:
            starts.update({i: x.detach().clone() for x, (p, i) in zip(batch.x, rows, strict=True) if p == 0})

    made = run(
        sampler, **{"roles": CLOSE, "mixture": GAUSSIAN, "on_batch": on_batch, "steps": STEPS} | settings
    )
    return made, starts


# ---------------------------------------------------------------- exact answers


OPTIMISERS = {
    "reno": Reno(iterations=40, lr=0.5, clip=None, reg=0.0, **PLAIN),
    "carinox": Carinox(iterations=40, starts=2, lr=0.5, clip=None, reg=0.0, **PLAIN),
    "ditto": Ditto(iterations=80, **PLAIN),
    "ditto2": Ditto2(iterations=80, opt_steps=6, **PLAIN),
    "dno": Dno(iterations=60, lr=0.1, clip=None, **PLAIN),
    "dno of a black box": Dno(iterations=60, lr=0.1, clip=None, blackbox=True, batch=6),
    "dflow": DFlow(iterations=12, reg=0.0, **PLAIN),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_finds_the_noise_of_the_best_picture(name: str) -> None:
    made, _ = watched(OPTIMISERS[name])
    base = next(e for e in made.searches[0].finals if e.candidate.id == 0)
    assert base.total < -0.1
    assert made.winners[0].total > -1e-3
    assert torch.allclose(made.winners[0].x, GOAL, atol=0.03)


@pytest.mark.parametrize(
    "sampler", [Reno(lr=0.3), DFlow(), Ditto(), Ditto2(opt_steps=3), Dno(lr=0.1), Carinox(lr=0.3)]
)
def test_so_do_trials(sampler: Any) -> None:
    made, _ = watched(sampler, budget=Budget(nfe=1200))
    plain, _ = watched(BestOfN(), budget=Budget(nfe=1200))
    assert made.winners[0].total > plain.winners[0].total


def test_the_penalty_moves_the_optimum_to_where_both_slopes_cancel() -> None:
    reg = 0.3
    _, starts = watched(Reno(iterations=100, lr=0.3, clip=None, reg=reg, **PLAIN))
    last = starts[max(starts)][None]
    assert float(slope(last, reg).norm()) < 1e-3
    assert float(slope(last).norm()) > 0.03  # without the penalty it would not end there


def test_reno_is_its_published_recipe() -> None:
    """torch's SGD with Nesterov's momentum, on the loss as written down, with torch's clipping of the gradient."""
    _, starts = watched(Reno(iterations=12, **PLAIN))
    a, b = generator()
    z = process_of(STEPS)["prior"].own.clone().requires_grad_()
    optimiser = torch.optim.SGD([z], lr=5.0, momentum=0.9, nesterov=True)
    assert torch.equal(
        starts[-1], starts[0]
    )  # the first gradient is taken at the noise of the pipeline's own run
    del starts[-1]
    for i in sorted(starts):
        assert torch.allclose(starts[i], z.detach(), atol=2e-4), i
        optimiser.zero_grad()
        reward = -(a + b * z.double() - GOAL.double()).square().sum()
        (-(reward - 0.01 * shell_penalty(z[None])[0])).backward()
        torch.nn.utils.clip_grad_norm_([z], 0.1)
        optimiser.step()
    assert len(starts) == 13
    twin = starts[1] - starts[0]
    assert float(twin.norm()) == pytest.approx(
        5 * 0.1 * 1.9, rel=1e-4
    )  # the first step of Nesterov's momentum


def test_injected_noises_are_optimised_too() -> None:
    made, starts = watched(Dno(iterations=20, lr=0.1, clip=None, **PLAIN))
    moved = made.winners[0].candidate.measured["moved"]
    only_initial = float((starts[made.winners[0].candidate.id] - starts[0]).norm()) / DIM**0.5
    assert moved > 0.02
    assert moved != pytest.approx(only_initial, rel=0.05)


# ---------------------------------------------------------------- black boxes


def test_the_hybrid_estimate_points_uphill() -> None:
    """Of an affine map with J J^T a multiple of 1 the mean direction is that of the gradient by the image."""
    rows, batch, mu, n = 1, 4, 0.01, 600
    x0 = torch.tensor([[0.2, -0.5, 0.9]])
    wanted = -2 * (x0[0] - GOAL)
    wanted = wanted / wanted.norm()

    def estimates(sign: float) -> Tensor:
        pulls = []
        for i in range(n):
            moved = x0 + mu * Key((7, i)).normal((batch, DIM))
            x = torch.cat([x0, moved])
            merits = -(x.double() - GOAL.double()).square().sum(1)
            pulls.append(
                hybrid(x, torch.cat([merits[:1], sign * merits[1:] + (1 - sign) * merits[:1]]), rows)[0][0]
            )
        return torch.stack(pulls)

    def off(found: Tensor) -> tuple[float, float]:
        """(length of the mean's part across the gradient; four times its standard error), and the sign along it."""
        mean, error = found.mean(0), found.std(0) / n**0.5
        along = float(mean @ wanted)
        across = mean - along * wanted
        assert float(across.norm()) < 4 * float(error.norm())
        return along, 4 * float(error.norm())

    along, error = off(estimates(1.0))
    assert along > error
    twin, error = off(estimates(-1.0))  # the wrong sign of the gains
    assert twin < -error


def test_a_black_box_climbs_a_score_without_a_gradient() -> None:
    def blind(media: Media, prompts: Sequence[str]) -> list[float]:
        return closeness(media, prompts).tolist()

    roles = Roles(VerifierSet((WeightedVerifier("blind", blind),)))
    made, _ = watched(Dno(iterations=40, lr=0.1, blackbox=True), roles=roles)
    assert made.winners[0].total > -0.02
    assert made.winners[0].candidate.origin in ("ascent", "mutant")
    with pytest.raises(UsageError, match="cannot be differentiated"):
        watched(Dno(iterations=2), roles=roles)


# ---------------------------------------------------------------- several rewards


def graded_of(each: Tensor, raw: Tensor, weights: Sequence[float]) -> tuple[Graded, Scores]:
    scores = Scores(raw, lambda r: r @ torch.tensor(weights, dtype=torch.float64))
    x = torch.zeros_like(each[0])
    return Graded(x, x, Prediction(x, x), scores, each=each), scores


def test_carinox_clips_every_reward_and_weighs_it_by_the_kind_of_prompt() -> None:
    process = PromptProcess(**process_of(), prompt="two dogs", verifiers=("hps", "mine", "vqa_score"))
    each = torch.stack(
        [torch.tensor([[100.0, 0, 0]]), torch.tensor([[0, 0.01, 0]]), torch.tensor([[0, 0, -3.0]])]
    )
    graded, scores = graded_of(each, torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64), [5.0, 1.0, 0.01])
    wanted = torch.tensor([0.1, 0.01, -3.0 * 0.01 * 0.93])
    assert torch.allclose(Carinox().slope(graded, process)[0, 0], wanted, atol=1e-6)
    merit = Carinox().merit(scores, process)
    assert float(merit) == pytest.approx(5 * 1.02 * 1 + 1 * 2 + 0.01 * 0.93 * 3)
    plain = Carinox(categories=False)
    assert float(plain.merit(scores, process)) == pytest.approx(5 * 1 + 2 + 0.03)
    other = PromptProcess(**process_of(), prompt="a red car", verifiers=("hps", "mine", "vqa_score"))
    assert float(Carinox().merit(scores, other)) == pytest.approx(5 * 0.4 + 2 + 0.01 * 1.14 * 3)


def test_the_prompt_reaches_the_search() -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []

    class Asking(BestOfN):
        def search(self, process: Any, key: Key) -> Any:
            seen.append((process.prompt, process.verifiers))
            yield from super().search(process, key)

    run(Asking(1), roles=CLOSE)
    assert seen == [("prompt 0", ("close",))]


# ---------------------------------------------------------------- what is returned, and recorded


@pytest.mark.parametrize("sampler", [Reno(lr=1e3, clip=None), Reno(lr=1e3, clip=None, **PLAIN), Dno(lr=50.0)])
def test_never_less_than_the_pipeline_alone(sampler: Any) -> None:
    """... though every step here leads far away."""
    made, _ = watched(sampler, budget=Budget(nfe=200))
    alone, _ = watched(BestOfN(1))
    own = next(e for e in made.searches[0].finals if e.candidate.id == 0)
    assert own.total == alone.winners[0].total
    assert torch.equal(own.x, alone.winners[0].x)
    assert made.winners[0].total >= own.total


def test_iterates_can_be_made_again_from_the_archive(tmp_path: Path) -> None:
    sampler = Ditto(iterations=5, starts=2, **PLAIN)
    made, starts = watched(sampler, folder=tmp_path)
    recipes = {e.candidate.id: e.candidate for e in made.searches[0].finals}
    found = {r["candidate"]: r for r in read_archive(tmp_path) if r["kind"] == "gradient"}
    process = PromptProcess(**process_of(STEPS))
    ends = [c for c in recipes.values() if c.details.get("iteration") == 5]
    assert len(ends) == 2
    for end in ends:
        line = [end]
        while line[-1].details["iteration"] > 0:
            line.append(recipes[line[-1].parent])
        root = line[-1]
        z = process.noise(draw(Key(()), 0) if root.parent == 0 else root)[None, None]
        optimiser = sampler.optimiser()
        for candidate in reversed(line[1:]):
            assert torch.allclose(z[0, 0], starts[candidate.id], atol=1e-6)
            gradient = load_file(tmp_path / found[candidate.id]["file"])["gradient"]
            z = optimiser.next(z, torch.zeros(1), process.to_noise(gradient)[:, None])
        assert torch.allclose(z[0, 0], starts[end.id], atol=1e-6)


def test_what_became_of_the_noise_is_recorded(tmp_path: Path) -> None:
    big = {"decode": lambda x, p: Media(x[:, :3, None, None])}
    parts = process_of(STEPS)
    wide = torch.Size((128,))
    own = Key((1,)).normal(tuple(wide))
    mixture = Mixture(torch.zeros(1, 128), 0.5)
    more = {"prior": Prior(torch.zeros(wide), torch.ones(wide), own), "solver": parts["solver"]}
    made = run(
        Ditto(iterations=4, **PLAIN),
        roles=CLOSE,
        folder=tmp_path,
        more=more,
        mixture=mixture,
        steps=STEPS,
        **big,
    )
    last = next(e for e in made.searches[0].finals if e.candidate.details.get("iteration") == 4)
    noise = last.candidate.measured
    assert set(noise) == {"length", "cosine", "moved", "plausibility"}
    assert 0 < noise["moved"] < 1
    assert 0 <= noise["plausibility"] <= 1
    record = next(
        r for r in read_archive(tmp_path) if r["kind"] == "score" and r["candidate"] == last.candidate.id
    )
    assert record["measured"] == noise
    result = SearchResult(
        tuple(made.searches), tuple(made.archive.entries), made.ledger, Budget(), 0, lambda e: None
    )  # type: ignore[arg-type,return-value]
    told = entry_dict(result, last)
    assert told is not None
    assert told["noise"] == noise
    assert "noise" not in (entry_dict(result, result.base()) or {})


def test_noise_of_another_scale() -> None:
    """Some pipelines begin at latents of std 14: a gradient by the latents is not that by their noise."""
    scale, own = torch.tensor([14.0, 0.0, 2.0]), torch.zeros(DIM)
    process = PromptProcess(**process_of() | {"prior": Prior(torch.ones(DIM), scale, own)})
    z, push = Key((2,)).normal((2, DIM)), Key((3,)).normal((2, DIM))
    candidates = [draw(Key(()), i) for i in (1, 2)]
    moved = process.start(candidates, z + push).x - process.start(candidates, z).x
    gradient = Key((4,)).normal((2, DIM))
    assert torch.allclose((moved * gradient).sum(1), (push * process.to_noise(gradient)).sum(1), atol=1e-4)


# ---------------------------------------------------------------- the plan


def test_all_starts_of_all_prompts_go_in_one_batch() -> None:
    made, _ = watched(Reno(iterations=2, starts=3, **PLAIN), prompts=4, batch_size=64)
    assert {len(b.prompts) for b in made.batches if b.grad} == {12}


def test_the_best_of_the_warm_up_starts() -> None:
    made, _ = watched(Reno(starts=2), budget=Budget(nfe=300))
    finals = made.searches[0].finals
    plain = [e for e in finals if e.candidate.origin != "ascent"]
    assert len(plain) >= int(0.7 * 300 / STEPS)
    best = sorted(plain, key=lambda e: -e.total)[:2]
    first = [e.candidate for e in finals if e.candidate.details.get("iteration") == 1]
    assert {c.parent for c in first} == {e.candidate.id for e in best}
    assert {c.key for c in first} == {e.candidate.key for e in best}


def test_a_start_without_a_better_trial_is_given_up_and_others_begin() -> None:
    roles = Roles(VerifierSet((WeightedVerifier("constant", constant),)))
    made, _ = watched(Reno(trials=2), budget=Budget(nfe=400), roles=roles)
    ascents = [e.candidate for e in made.searches[0].finals if e.candidate.origin == "ascent"]
    of_start = [c for c in ascents if c.key == ascents[0].key]
    assert len(of_start) == 2 * FAILS
    assert [c.details["share"] for c in of_start] == [0.25**i for i in range(4)]
    gradients = [b for b in made.batches if b.grad and b.step == 0]
    assert len({c.key for c in ascents}) == len(gradients) > 1  # a step is asked for once, and tried twice


def test_trials_end_no_lower_than_they_began() -> None:
    made, _ = watched(Reno(lr=3.0), budget=Budget(nfe=600))
    entries = {e.candidate.id: e for e in made.searches[0].finals}
    parents = {e.candidate.parent for e in entries.values() if e.candidate.origin == "ascent"}
    for parent in parents:  # where it went on from is better than where that came from
        before = entries[parent].candidate.parent
        assert before is None or entries[parent].total > entries[before].total


@pytest.mark.parametrize("nfe", [6, 12, 29, 47])
def test_too_little_for_a_turn_is_spent_on_plain_candidates(nfe: int) -> None:
    made, _ = watched(Reno(), budget=Budget(nfe=nfe))
    plain, _ = watched(BestOfN(), budget=Budget(nfe=nfe))
    assert [e.total for e in made.searches[0].finals] == [e.total for e in plain.searches[0].finals]
    enough, _ = watched(Reno(), budget=Budget(nfe=48))
    assert any(b.grad for b in enough.batches)


def test_published_numbers_where_nothing_limits_them() -> None:
    for sampler, turns in ((Reno(**PLAIN), 50), (Dno(**PLAIN), 100), (DFlow(**PLAIN), 20)):
        made, _ = watched(sampler)
        assert len([b for b in made.batches if b.grad and b.step == 0]) == turns
        assert made.searches[0].spent == sampler.cost(made.searches[0].process)


def test_ditto2_goes_through_few_calls_and_decodes_with_all() -> None:
    made, _ = watched(Ditto2(iterations=3, opt_steps=2, starts=3, finals=1, **PLAIN))
    assert sorted({b.step for b in made.batches if b.grad}) == [0, 3]
    ends = [e for e in made.searches[0].finals if e.candidate.origin == "ascent"]
    assert [e.candidate.details["iteration"] for e in ends] == [3.0]
    assert made.searches[0].spent == 6 + 3 * 3 * 2 * 4 + 6


# ---------------------------------------------------------------- refusals


def test_ranks_are_refused_before_anything_is_spent() -> None:
    batches: list[Any] = []
    roles = Roles(VerifierSet((WeightedVerifier("close", closeness),), "rank"))
    with pytest.raises(UsageError, match=r"ensemble .rank. has no gradient"):
        run(Reno(), roles=roles, on_batch=lambda batch, rows: batches.append(batch))
    assert batches == []


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Reno, {"iterations": 0}),
        (Reno, {"starts": 0}),
        (Reno, {"warmup": 1.0}),
        (Reno, {"trials": -1}),
        (Reno, {"lr": -1.0}),
        (Reno, {"clip": float("nan")}),
        (Ditto2, {"opt_steps": 0}),
        (Ditto2, {"finals": 0}),
        (Dno, {"mu": 0.0}),
        (Dno, {"batch": 0}),
        (DFlow, {"history": 0}),
    ],
)
def test_what_cannot_be_is_refused(cls: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        cls(**options)
