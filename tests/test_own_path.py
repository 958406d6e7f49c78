"""Candidate 0 is the pipeline's own result: a sampler that moves it otherwise and keeps its id reports no base."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genscale.diffusion.kernels import Ddim
from genscale.engine.budget import Budget
from genscale.engine.own_path import OwnPath
from genscale.engine.plan import plan
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.key import Key
from genscale.protocol.answers import Graded, Prediction
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import OWN, Candidate, Particles, draw
from genscale.protocol.population import Population
from genscale.protocol.queries import Denoise, Gradient, Query, Score, Solve
from genscale.samplers.best_of_n import BestOfN
from tests.analytic import Run, process_of, run

KERNEL = Ddim(1.0)
Answers = Generator[Query, Any, Particles]


def by_solve(process: Process, start: Particles) -> Answers:
    return (yield Solve(start, None, KERNEL))


def by_ode(process: Process, start: Particles) -> Answers:
    """DDIM without noise: not necessarily the pipeline's own scheduler."""
    return (yield Solve(start, None, Ddim(0.0)))


def by_move(process: Process, start: Particles) -> Answers:
    halfway: Particles = yield Solve(start, 2)
    prediction: Prediction = yield Denoise(halfway)
    return (yield Solve(process.move(halfway, prediction, KERNEL)))


def by_take(process: Process, start: Particles) -> Answers:
    halfway: Particles = yield Solve(start, 2)
    prediction: Prediction = yield Denoise(halfway)
    return (yield Solve(process.take(halfway, process.transition(halfway, prediction, KERNEL))))


def by_renoise(process: Process, start: Particles) -> Answers:
    clean: Particles = yield Solve(start)
    return (yield Solve(process.renoise(clean, 1, clean.candidates)))


def by_noise(process: Process, start: Particles) -> Answers:
    return (yield Solve(process.start(start.candidates, -process.noise(start.candidates[0])[None])))


def by_estimate(process: Process, start: Particles) -> Answers:
    halfway: Particles = yield Solve(start, 2)
    prediction: Prediction = yield Denoise(halfway)
    return (yield Solve(process.estimate(halfway, prediction, halfway.candidates)))


def by_hand(process: Process, start: Particles) -> Answers:
    """Latents that the sampler computes by itself: no method of the process sees this."""
    halfway: Particles = yield Solve(start, 2)
    graded: Graded = yield Gradient(halfway)
    return (yield Solve(replace(halfway, x=halfway.x + 0.1 * graded.gradient)))


def by_hand_at_the_end(process: Process, start: Particles) -> Answers:
    clean: Particles = yield Solve(start)
    return replace(clean, x=clean.x + 0.25)


MOVES = [by_solve, by_ode, by_move, by_take, by_renoise, by_noise, by_estimate, by_hand, by_hand_at_the_end]


@dataclass(frozen=True)
class Forgetful:
    """Moves candidate 0 and never gives it another id."""

    move: Callable[[Process, Particles], Answers]

    needs = frozenset({"noise", "schedule"})

    def search(self, process: Process, key: Key) -> Generator[Query, Any, Population | None]:
        finished = yield from self.move(process, process.start([draw(key, 0)]))
        scores = yield Score(finished)
        return Population(finished.candidates, torch.zeros(1, dtype=torch.float64), scores.total)

    def cost(self, process: Process) -> int | None:
        return None


def score_tensor(pixels: torch.Tensor, prompts: Any) -> torch.Tensor:
    return pixels[:, 0, 0, 0].double()


def first(media: Any, prompts: Any) -> torch.Tensor:
    return score_tensor(media.pixels, prompts)


first.score_tensor = score_tensor  # type: ignore[attr-defined]


def forgetful(move: Any, **options: Any) -> Run:
    return run(Forgetful(move), verifier=first, **options)


def ids(made: Run, prompt: int = 0) -> list[int]:
    return [e.candidate.id for e in made.searches[prompt].finals]


@pytest.mark.parametrize("move", MOVES)
def test_a_forgetful_sampler_reports_no_base(move: Any) -> None:
    made = forgetful(move)
    assert ids(made) == [-1]
    own = run(BestOfN(1)).searches[0].finals[0]
    assert (
        move is by_ode or made.searches[0].finals[0].total != own.total
    )  # here the ODE is the model's scheduler
    candidate = made.searches[0].finals[0].candidate
    population = made.searches[0].population
    assert population is not None
    assert population.candidates == (candidate,)
    assert candidate.parent == OWN


@pytest.mark.parametrize("move", MOVES)
def test_without_the_mechanism_its_base_is_false(move: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: what the test above would find."""
    monkeypatch.setattr(OwnPath, "leave", lambda self, candidates, *more: tuple(candidates))
    monkeypatch.setattr(OwnPath, "checked", lambda self, particles: particles)
    assert ids(forgetful(move)) == [OWN]


@pytest.mark.parametrize("move", [by_hand, by_hand_at_the_end])
def test_latents_changed_by_hand_are_seen_by_their_bytes_alone(
    move: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OwnPath, "checked", lambda self, particles: particles)
    assert ids(forgetful(move)) == [OWN]


@dataclass(frozen=True)
class Stepwise:
    """The pipeline's own path, seen at every step, with previews and predictions on the way."""

    needs = frozenset({"noise", "schedule"})

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        particles = process.start([draw(key, 0), draw(key, 1)])
        for step in range(1, process.steps):
            prediction: Prediction = yield Denoise(particles)
            yield Score(replace(particles, x0=prediction.x0))
            particles = yield Solve(particles, step)
        finished = yield Solve(particles)
        yield Score(finished[[1, 0]])

    def cost(self, process: Process) -> int | None:
        return None


@pytest.mark.parametrize("churn", [0.0, 0.5])
def test_the_own_path_keeps_its_id_at_every_step(churn: float) -> None:
    made, plain = run(Stepwise(), churn=churn), run(BestOfN(2), churn=churn)
    assert ids(made) == [1, OWN]
    assert {e.candidate.id for e in made.archive.entries} == {OWN, 1}
    totals = {e.candidate.id: e.total for e in plain.searches[0].finals}
    assert {e.candidate.id: e.total for e in made.searches[0].finals} == totals


@dataclass(frozen=True)
class Many:
    """Candidate 0 leaves its path several times, beside candidates that the sampler draws and branches."""

    needs = frozenset({"noise", "schedule"})

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        start = process.start([draw(key, i) for i in range(3)])
        clean = yield Solve(start)
        yield Score(clean)
        finished = yield Solve(start[[0]], None, KERNEL)
        yield Score(finished)
        clean = clean[[0]]
        for step in (1, 2, 2):
            finished = yield Solve(process.renoise(clean, step, clean.candidates))
            yield Score(finished)

    def cost(self, process: Process) -> int | None:
        return None


def test_each_departure_has_its_own_id_whatever_the_batch_size() -> None:
    found = []
    for batch_size in (1, 3, 8):
        made = run(Many(), batch_size=batch_size, prompts=2)
        assert ids(made) == [0, 1, 2, -1, -2, -3, -3]  # asked for again, the same
        found.append([e.candidate for s in made.searches for e in s.finals])
    assert found[0] == found[1] == found[2]
    keys = {c.id: c.key for c in found[0] if c.id <= 0}
    assert len(set(keys.values())) >= 4


def test_a_resumed_run_finds_them_again(tmp_path: Path) -> None:
    whole = run(Many(), folder=tmp_path / "whole")
    run(Many(), folder=tmp_path / "cut", budget=Budget(nfe=26))
    resumed = run(Many(), folder=tmp_path / "cut")
    assert [e.candidate for e in resumed.archive.entries] == [e.candidate for e in whole.archive.entries]
    assert [e.total for e in resumed.archive.entries] == [e.total for e in whole.archive.entries]
    assert whole.ledger.evaluations > resumed.ledger.evaluations > 0
    again = run(Many(), folder=tmp_path / "cut")
    assert again.ledger.evaluations == 0


def test_no_sampler_can_draw_these_ids() -> None:
    with pytest.raises(ValueError, match="a key is folded"):
        draw(Key((0,)), -1)


def test_a_plan_counts_a_search_that_leaves_the_path() -> None:
    for move in MOVES:
        roles = Roles(VerifierSet((WeightedVerifier("first", first),)))
        planned = plan(Forgetful(move), process_of(), Budget(), roles, 1)
        made = forgetful(move)
        assert planned.nfe == made.searches[0].spent
        assert planned.candidates == 1


def test_latents_that_are_not_numbers_stay_on_the_path() -> None:
    """A pipeline whose own run overflows still shows its own image."""
    path, x = OwnPath(), torch.full((1, 3), torch.nan)
    particles = Particles(x, 2, (Candidate(OWN, "own"),))
    path.record(particles)
    assert path.checked(replace(particles, x=x.clone())).candidates[0].id == OWN
    assert path.checked(replace(particles, x=x.half())).candidates[0].id == -1
