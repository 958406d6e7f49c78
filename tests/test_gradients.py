"""Gradients: exact on the analytic bed, priced, independent of company, and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genscale.diffusion.kernels import Ddim, Glass, Kernel, Own
from genscale.engine.archive import read_archive
from genscale.engine.budget import Budget
from genscale.engine.events import BatchHalved, Denoised, Differentiated, Dropped
from genscale.engine.plan import plan
from genscale.engine.process import PromptProcess
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.protocol.answers import Graded
from genscale.protocol.particles import draw
from genscale.protocol.queries import BACKWARD, Gradient, Score, Solve
from tests.analytic import DIM, Full, Mixture, first_coordinate, process_of, run

STEPS = 6
GOAL = torch.tensor([0.7, -0.4, 1.1])


def closeness(media: Media, prompts: Sequence[str]) -> Tensor:
    """Minus the squared distance to GOAL."""
    return -(media.pixels[:, :, 0, 0].double() - GOAL.double()).square().sum(1)


def slope(media: Media, prompts: Sequence[str]) -> Tensor:
    return (media.pixels[:, :, 0, 0].double() * torch.tensor([1.0, -2.0, 0.5])).sum(1)


CLOSE = Roles(VerifierSet((WeightedVerifier("close", closeness),)))
BOTH = Roles(VerifierSet((WeightedVerifier("close", closeness, 0.5), WeightedVerifier("slope", slope, -2.0))))


@dataclass
class Query:
    """Brings n candidates to a step, asks one Gradient, and finishes them. asked: makes the question."""

    asked: Callable[[Any], Gradient] = Gradient
    n: int = 5
    step: int = 2
    answers: list[Graded] = field(default_factory=list)
    particles: list[Any] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)

    def search(self, process: Any, key: Key) -> Any:
        particles = process.start([draw(key, i) for i in range(self.n)])
        particles = yield Solve(particles, self.step, Ddim(0.0))
        self.particles.append(particles)
        graded = yield self.asked(particles)
        self.modes.append(torch.is_grad_enabled())
        self.answers.append(graded)
        yield Score((yield Solve(particles)))

    def cost(self, process: Any) -> int | None:
        return None


def answer_of(
    asked: Callable[[Any], Gradient] = Gradient, step: int = 2, **settings: Any
) -> tuple[Any, Graded]:
    sampler = Query(asked, step=step)
    run(sampler, **{"roles": CLOSE, "batch_size": 4, **settings})
    return sampler.particles[0], sampler.answers[0]


def chain(x: Tensor, calls: Sequence[int], kernel: Kernel, noises: Tensor | None = None) -> Tensor:
    """The clean estimate of the last call, float64 and written out anew, for finite differences."""
    levels, mixture = process_of(STEPS)["view"].schedule, Mixture()
    for i, call in enumerate(calls):
        level = levels.level(call)
        x0 = mixture.clean(x, level.sigma)
        if i + 1 == len(calls):
            return x0
        made = kernel.transition(
            x, x0, (x - level.alpha * x0) / level.sigma, level, levels.level(calls[i + 1])
        )
        x = made.mean if noises is None else made.mean + made.std * noises[i]
    raise AssertionError


def differences(f: Callable[[Tensor], Tensor], at: Tensor, h: float = 1e-5) -> Tensor:
    """Central differences of f: [n, ...] -> [n], whose rows do not depend on each other; float64."""
    at, found = at.double().contiguous(), torch.zeros(at.shape, dtype=torch.float64)
    for i in range(at[0].numel()):
        step = torch.zeros_like(at)
        step.flatten(1)[:, i] = h
        found.flatten(1)[:, i] = (f(at + step) - f(at - step)) / (2 * h)
    return found


def quadratic(x0: Tensor) -> Tensor:
    return -(x0 - GOAL.double()).square().sum(1)


def off(a: Tensor, b: Tensor) -> float:
    """Relative distance."""
    return float((a.double() - b.double()).norm() / b.double().norm())


# ---------------------------------------------------------------- exact


@pytest.mark.parametrize("step", [0, 2, 5])
@pytest.mark.parametrize("through", ["model", "decoder"])
def test_one_gaussian_in_closed_form(through: str, step: int) -> None:
    gaussian = Mixture(torch.tensor([[1.0, 2.0, -1.0]]), 0.5)
    if through == "decoder" and step == 0:
        pytest.skip("pure noise")
    particles, graded = answer_of(lambda p: Gradient(p, through=through), step, mixture=gaussian)
    t = 1 - step / STEPS
    alpha, x = 1 - t, particles.x.double()
    gain = alpha * 0.25 / (alpha**2 * 0.25 + t**2)
    x0 = gaussian.means.double() + gain * (x - alpha * gaussian.means.double())
    wanted = -2 * (x0 - GOAL.double()) * (gain if through == "model" else 1 / alpha if alpha else math.nan)
    assert torch.allclose(graded.gradient.double(), wanted, atol=2e-6 * float(wanted.abs().max() + 1e-3))
    assert torch.allclose(graded.x0.double(), x0, atol=1e-6)
    assert graded.scores is not None
    assert torch.allclose(graded.scores.total, quadratic(x0), atol=1e-5)
    assert torch.allclose(graded.prediction.x0.double(), x0, atol=1e-6)


CALLS = {"one call": (2,), "the next": (2, 3), "the whole run": (0, 1, 2, 3, 4, 5), "in jumps": (1, 3, 5)}


@pytest.mark.parametrize("name", CALLS)
def test_unrolled_gradients_are_finite_differences(name: str) -> None:
    calls = CALLS[name]
    particles, graded = answer_of(lambda p: Gradient(p, calls[1:]), calls[0])
    wanted = differences(lambda x: quadratic(chain(x, calls, Ddim(0.0))), particles.x)
    assert off(graded.gradient, wanted) < 1e-5
    assert torch.allclose(graded.x0.double(), chain(particles.x.double(), calls, Ddim(0.0)), atol=1e-5)
    if len(calls) > 1:  # a broken twin: only the last call is differentiated
        last = differences(lambda x: quadratic(chain(x, calls[-1:], Ddim(0.0))), particles.x)
        assert off(last, wanted) > 0.01


class Blocked(Mixture):
    """A broken twin: no gradient through the denoiser's clean estimate."""

    def velocity(self, x: Tensor, t: float) -> Tensor:
        return (x - self.clean(x.detach(), t).to(x.dtype)) / t


@pytest.mark.parametrize("name", CALLS)
def test_a_model_that_blocks_the_way_back_is_seen(name: str) -> None:
    calls = CALLS[name]
    particles, graded = answer_of(lambda p: Gradient(p, calls[1:]), calls[0], mixture=Blocked())
    wanted = differences(lambda x: quadratic(chain(x, calls, Ddim(0.0))), particles.x)
    assert off(graded.gradient, wanted) > 0.1


def test_the_gradient_of_the_noises() -> None:
    calls, kernel = (1, 3, 4), Ddim(0.8)
    noises = Key((3,)).normal((2, 5, DIM))
    particles, graded = answer_of(lambda p: Gradient(p, calls[1:], kernel, noises=noises), calls[0])
    assert graded.noises is not None
    x = differences(lambda x: quadratic(chain(x, calls, kernel, noises.double())), particles.x)
    assert off(graded.gradient, x) < 1e-5

    def of_noises(z: Tensor) -> Tensor:
        return quadratic(chain(particles.x.double(), calls, kernel, z.transpose(0, 1)))

    z = differences(of_noises, noises.transpose(0, 1)).transpose(0, 1)
    assert off(graded.noises, z) < 1e-5
    other = answer_of(lambda p: Gradient(p, calls[1:], kernel, noises=noises + 0.5), calls[0])[1]
    assert off(other.noises, graded.noises) > 0.01


def test_without_noises_those_of_the_keys_are_taken() -> None:
    kernel, step = Ddim(0.8), 2
    particles, graded = answer_of(lambda p: Gradient(p, (3,), kernel), step)
    keys = [Key(c.key).fold("kernel", step).normal((DIM,)) for c in particles.candidates]
    given = answer_of(lambda p: Gradient(p, (3,), kernel, noises=torch.stack(keys)[None]), step)[1]
    assert torch.equal(graded.gradient, given.gradient)
    assert graded.noises is None
    steady = answer_of(lambda p: Gradient(p, (3,), noises=torch.stack(keys)[None]), step)[1]
    assert steady.noises is not None
    assert not steady.noises.any()  # the ode uses none


def test_what_is_pulled_back() -> None:
    calls, pull = (1, 2, 4), Key((5,)).normal((5, DIM))
    counted = Query(lambda p: Gradient(p, calls[1:], pull=pull), step=calls[0])
    made = run(counted, roles=CLOSE)
    wanted = differences(
        lambda x: (chain(x, calls, Ddim(0.0)) * pull.double()).sum(1), counted.particles[0].x
    )
    assert off(counted.answers[0].gradient, wanted) < 1e-5
    assert counted.answers[0].scores is None
    assert made.ledger.verifier_calls == {"close": 5}  # the finished ones
    assert made.ledger.decodes == 5
    through = answer_of(lambda p: Gradient(p, through="decoder", pull=pull), 3)[1]
    assert torch.allclose(through.gradient, pull / 0.5)


def test_every_verifier_by_itself() -> None:
    particles, graded = answer_of(lambda p: Gradient(p, (4,), each=True), roles=BOTH)
    whole = answer_of(lambda p: Gradient(p, (4,)), roles=BOTH)[1]
    assert graded.each is not None
    assert whole.each is None
    assert graded.each.shape == (2, 5, DIM)
    wanted = differences(lambda x: quadratic(chain(x, (2, 4), Ddim(0.0))), particles.x)
    assert off(graded.each[0], wanted) < 1e-5
    assert off(0.5 * graded.each[0] - 2 * graded.each[1], graded.gradient) < 1e-6
    assert off(whole.gradient, graded.gradient) < 1e-6


@pytest.mark.parametrize("calls", [(), (3, 4, 5)])
def test_a_step_along_it_raises_the_score(calls: tuple[int, ...]) -> None:
    def at(x: Tensor) -> Tensor:
        return quadratic(chain(x, (2, *calls), Ddim(0.0)))

    particles, graded = answer_of(lambda p: Gradient(p, calls))
    x, step = particles.x.double(), 1e-6 * graded.gradient.double()
    assert bool((at(x + step) > at(x)).all())
    assert bool((at(x - step) < at(x)).all())
    rise = (at(x + step) - at(x)) / step.square().sum(1)
    assert torch.allclose(rise, torch.full_like(rise, 1e6), rtol=0.01)


# ---------------------------------------------------------------- batches


def same(a: Graded, b: Graded) -> None:
    assert off(a.gradient, b.gradient) < 1e-6
    assert torch.allclose(a.x0, b.x0, atol=1e-6)
    assert a.scores is not None
    assert b.scores is not None
    assert torch.allclose(a.scores.raw, b.scores.raw, atol=1e-6)


@pytest.mark.parametrize("through", ["model", "decoder"])
def test_neither_batch_size_nor_company_matter(through: str) -> None:
    def asked(particles: Any) -> Gradient:
        return Gradient(particles, (4, 5) if through == "model" else (), through=through)

    alone = Query(asked)
    run(alone, roles=CLOSE, batch_size=16)
    for size, prompts in ((1, 1), (3, 1), (16, 3), (4, 2)):
        other = Query(asked)
        made = run(other, roles=CLOSE, batch_size=size, prompts=prompts)
        same(other.answers[0], alone.answers[0])
        assert max(len(b.prompts) for b in made.batches) <= size
        if size == 16:
            assert len({b.prompts for b in made.batches}) == 1  # all 15 rows go together
            assert len(made.batches[0].prompts) == 15


def test_questions_of_other_kinds_go_apart() -> None:
    kinds = [(), (4,), (3, 4)]

    def asked(particles: Any) -> Gradient:
        return Gradient(particles, kinds[len(seen)])

    seen: list[int] = []

    @dataclass
    class Different(Query):
        def search(self, process: Any, key: Key) -> Any:
            mine = kinds[len(seen)]
            seen.append(1)
            return Query(lambda p: Gradient(p, mine), 2, answers=self.answers).search(process, key)

    several = Different()
    made = run(several, roles=CLOSE, batch_size=16, prompts=3)
    graded = [b for b in made.batches if b.grad]
    assert [(b.step, len(b.prompts), b.checkpoint) for b in graded] == [
        (2, 2, False), (2, 2, True), (4, 2, True), (2, 2, True), (3, 2, True), (4, 2, True),
    ]  # fmt: skip


@pytest.mark.parametrize("fits", [1, 2, 3])
@pytest.mark.parametrize("where", ["model", "decoder"])
def test_memory_may_run_out_at_any_call(where: str, fits: int) -> None:
    events: list[Any] = []
    whole, small = Query(lambda p: Gradient(p, (3, 5))), Query(lambda p: Gradient(p, (3, 5)))
    one = run(whole, roles=CLOSE, batch_size=16, prompts=2)
    settings = {"fits": fits} if where == "model" else {"decode": Full(fits)}
    made = run(small, roles=CLOSE, batch_size=16, prompts=2, on_event=events.append, **settings)
    same(small.answers[0], whole.answers[0])
    same(small.answers[1], whole.answers[1])
    assert any(isinstance(e, BatchHalved) for e in events)
    assert [s.spent for s in made.searches] == [s.spent for s in one.searches]
    assert made.ledger.backwards == one.ledger.backwards
    if where == "model":
        assert made.ledger.evaluations == one.ledger.evaluations
    else:
        assert made.ledger.evaluations > one.ledger.evaluations  # what was lost was done, too


def test_one_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="gradient of one candidate does not fit"):
        run(Query(Gradient), roles=CLOSE, decode=Full(0))


@pytest.mark.parametrize("mode", [True, False])
def test_a_search_is_without_a_graph(mode: bool) -> None:
    """... whatever the mode of who drives the engine."""
    sampler = Query(lambda p: Gradient(p, (4,), noises=torch.ones(1, 5, DIM), each=True))
    with torch.set_grad_enabled(mode):
        run(sampler, roles=BOTH)
        assert torch.is_grad_enabled() == mode
    assert sampler.modes == [False]
    answer = sampler.answers[0]
    assert answer.scores is not None
    assert answer.noises is not None
    assert answer.each is not None
    assert answer.each_noises is not None
    parts = (
        answer.gradient,
        answer.x0,
        answer.prediction.x0,
        answer.prediction.eps,
        answer.noises,
        answer.each,
    )
    for t in (*parts, answer.each_noises, answer.scores.raw):
        assert not t.requires_grad
    assert answer.gradient.dtype == answer.noises.dtype == answer.each.dtype == torch.float32
    assert answer.scores.raw.dtype == torch.float64


# ---------------------------------------------------------------- prices


class Counting(Mixture):
    """Counts the rows it is asked for, also those that a checkpoint computes again."""

    rows = 0

    def velocity(self, x: Tensor, t: float) -> Tensor:
        Counting.rows += len(x)
        return super().velocity(x, t)


PRICES = {
    # step, more calls, through, each: of guidance (1, 2, 1, 2, 1, 2), forwards + passes x (again + 2 x forwards)
    "one call": ((2, (), "model", False), 1 + 2 * 1),
    "a guided call": ((1, (), "model", False), 2 + 2 * 2),
    "decoder": ((3, (), "decoder", False), 2),
    "three calls": ((2, (3, 5), "model", False), 5 + 5 + 2 * 5),
    "each of one call": ((2, (), "model", True), 1 + 2 * (2 * 1)),
    "each of three": ((2, (3, 5), "model", True), 5 + 2 * (5 + 2 * 5)),
}


@pytest.mark.parametrize("name", PRICES)
def test_prices_and_the_ledger(name: str) -> None:
    (step, calls, through, each), price = PRICES[name]
    guided = (1, 2, 1, 2, 1, 2)
    sampler = Query(lambda p: Gradient(p, calls, through=through, each=each), 5, step)
    Counting.rows = 0
    events: list[Any] = []
    made = run(
        sampler,
        roles=BOTH,
        guided=guided,
        prompts=2,
        batch_size=3,
        mixture=Counting(),
        on_event=events.append,
    )
    process = made.searches[0].process
    assert process.gradient_nfe(step, calls, through, each) == price
    plain = 5 * (sum(guided[:step]) + sum(guided[step:]))
    assert [s.spent for s in made.searches] == [plain + 5 * price] * 2
    assert [s.calls for s in made.searches] == [5 * (2 + 2)] * 2
    assert made.ledger.evaluations + BACKWARD * made.ledger.backwards == sum(s.spent for s in made.searches)
    passes = 0 if through == "decoder" else 2 if each else 1
    assert made.ledger.as_dict()["backwards"] == 10 * passes * sum(guided[i] for i in (step, *calls))
    again = passes * len(calls) + passes if calls else 0
    assert Counting.rows == 10 * (STEPS + 1 + len(calls) + again)  # the model counts a guided row once
    assert made.ledger.verifier_calls == {"close": 20, "slope": 20}
    assert made.ledger.decodes == 20
    assert [e.evaluations for e in events if isinstance(e, Denoised)][-1] == made.ledger.nfe
    assert sum(e.rows for e in events if isinstance(e, Differentiated)) == 10
    planned = plan(Query(sampler.asked, 5, step), process_of(STEPS, guided), Budget(), BOTH, 2)
    assert (planned.nfe, planned.verifier_calls, planned.candidates) == (made.searches[0].spent, 20, 5)


@dataclass
class Frugal(Query):
    """Sends queries until the budget is spent."""

    counts: list[int] = field(default_factory=list)
    left: list[Any] = field(default_factory=list)

    def search(self, process: Any, key: Key) -> Any:
        particles = process.start([draw(key, i) for i in range(self.n)])
        try:
            while True:
                graded = yield self.asked(particles)
                self.counts.append(len(graded))
                self.left.append((process.nfe_left, process.calls_left))
        except BudgetExhausted:
            self.counts.append(0)


@pytest.mark.parametrize(
    ("asked", "budget", "counts", "left"),
    [
        (Gradient, Budget(nfe=26), [5, 3, 0], (2, None)),
        (Gradient, Budget(nfe=30), [5, 5, 0], (0, None)),
        (Gradient, Budget(nfe=2), [0], None),
        (lambda p: Gradient(p, (1,)), Budget(nfe=47), [5, 0], (7, None)),
        (lambda p: Gradient(p, (1,), each=True), Budget(nfe=100), [5, 2, 0], (2, None)),
        (Gradient, Budget(verifier_calls=13), [5, 1, 0], (None, 1)),
        (Gradient, Budget(nfe=29, verifier_calls=16), [5, 3, 0], (5, 0)),
        (lambda p: Gradient(p, pull=torch.ones(len(p), DIM)), Budget(nfe=20, verifier_calls=1), [5, 1, 0], (2, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [2, 16])
def test_no_more_rows_than_the_budget_pays(
    asked: Any, budget: Budget, counts: list[int], left: Any, size: int
) -> None:
    sampler = Frugal(asked, counts=[])
    made = run(sampler, roles=BOTH, budget=budget, batch_size=size)
    assert sampler.counts == counts
    if left is not None:
        assert sampler.left[-1] == left
    assert made.searches[0].spent <= (budget.nfe or 10**9)


@dataclass
class Climb:
    """Steps of gradient ascent on the initial noise, then the run from there; ends with what time allows."""

    n: int = 3
    rounds: int = 3
    calls: tuple[int, ...] = (3,)
    served: list[int] = field(default_factory=list)

    def search(self, process: Any, key: Key) -> Any:
        particles = process.start([draw(key, i) for i in range(self.n)])
        try:
            for _ in range(self.rounds):
                graded = yield Gradient(particles, self.calls)
                self.served.append(len(graded))
                particles = particles[: len(graded)]
                particles = replace(particles, x=particles.x + 0.1 * graded.gradient)
        except BudgetExhausted:
            self.served.append(0)
        yield Score((yield Solve(particles)))

    def cost(self, process: Any) -> int | None:
        return None


@pytest.mark.parametrize("seconds", [1, 9, 14, 20, 30, 45, 60, 90, 1000])
def test_seconds(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A row of a call takes a second, one that is recomputed and differentiated takes as long as it is charged."""
    import genscale.engine.archive

    now = [0.0]
    monkeypatch.setattr(genscale.engine.archive.time, "monotonic", lambda: now[0])

    def work(batch: Any, rows: Any) -> None:
        now[0] += len(rows) * (2 + BACKWARD if batch.grad else 1)

    sampler = Climb()
    made = run(sampler, roles=CLOSE, budget=Budget(seconds=seconds), on_batch=work)
    assert made.winners[0] is not None
    if seconds == 1000:
        assert sampler.served == [3, 3, 3]
        assert made.searches[0].finished == 3
    if seconds >= 14:  # else the first candidate alone takes longer
        assert now[0] <= seconds
    else:
        assert made.searches[0].finished == 1


# ---------------------------------------------------------------- resume


class CutOff(Exception):
    pass


def test_a_killed_run_goes_on_as_it_was(tmp_path: Path) -> None:
    def cut(after: int) -> Any:
        left = [after]

        def on_batch(batch: Any, rows: Any) -> None:
            if left[0] == 0:
                raise CutOff
            left[0] -= 1

        return on_batch

    def made(folder: Path, after: int = 10**6) -> Any:
        settings = {"roles": CLOSE, "prompts": 2, "batch_size": 4, "churn": 0.3, "budget": Budget(nfe=110)}
        return run(Climb(), folder=folder, on_batch=cut(after), **settings)

    whole = made(tmp_path / "whole")
    gradients = 2 * 3 * 3
    assert sum(r["kind"] == "gradient" for r in read_archive(tmp_path / "whole")) == gradients
    for after in range(len(whole.batches)):
        folder = tmp_path / str(after)
        with pytest.raises(CutOff):
            made(folder, after)
        kept = sum(r["kind"] == "gradient" for r in read_archive(folder))
        resumed = made(folder)
        for a, b in zip(resumed.winners, whole.winners, strict=True):
            assert a.candidate == b.candidate
            assert a.total == b.total
            assert torch.equal(a.x, b.x)
        assert [s.spent for s in resumed.searches] == [s.spent for s in whole.searches]
        assert [s.calls for s in resumed.searches] == [s.calls for s in whole.searches]
        assert resumed.ledger.backwards == 2 * (gradients - kept)
        names = {p.name for p in (folder / "latents").iterdir()}
        assert names == {p.name for p in (tmp_path / "whole" / "latents").iterdir()}


@pytest.mark.parametrize(
    "asked",
    [
        lambda p: Gradient(p, (4,), Ddim(0.7), noises=torch.ones(1, 5, DIM), each=True),
        lambda p: Gradient(p, through="decoder"),
        lambda p: Gradient(p, pull=torch.ones(5, DIM)),
    ],
)
def test_all_of_an_answer_comes_back(tmp_path: Path, asked: Any) -> None:
    first, again, other = (
        Query(asked),
        Query(asked),
        Query(lambda p: replace(asked(p), particles=replace(p, x=p.x + 1))),
    )
    run(first, roles=BOTH, folder=tmp_path)
    made = run(again, roles=BOTH, folder=tmp_path)
    assert made.ledger.evaluations == made.ledger.backwards == 0
    a, b = first.answers[0], again.answers[0]
    for name in ("gradient", "x0", "noises", "each", "each_noises"):
        one, two = getattr(a, name), getattr(b, name)
        assert (one is None) == (two is None)
        assert one is None or torch.equal(one, two)
    assert torch.equal(a.prediction.eps, b.prediction.eps)
    assert (a.scores is None) == (b.scores is None)
    if a.scores is not None and b.scores is not None:
        assert torch.equal(a.scores.total, b.scores.total)
    made = run(other, roles=BOTH, folder=tmp_path)  # at other latents it is another question
    assert made.ledger.evaluations > 0
    assert not torch.equal(other.answers[0].gradient, a.gradient) or "decoder" not in str(asked)


# ---------------------------------------------------------------- refusals


def undifferentiable(media: Media, prompts: Sequence[str]) -> list[float]:
    return media.pixels[:, 0, 0, 0].detach().double().tolist()  # type: ignore[no-any-return]


def not_a_number(media: Media, prompts: Sequence[str]) -> Tensor:
    return (media.pixels[:, 0, 0, 0].double() * 0).sqrt() + media.pixels[:, 1, 0, 0]


class OnTensors:
    """A verifier whose images are judged by a function of tensors."""

    def __call__(self, media: Media, prompts: Sequence[str]) -> list[float]:
        return self.score_tensor(media.pixels, prompts).tolist()  # type: ignore[no-any-return]

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return -(pixels[:, :, 0, 0].double() - GOAL.double()).square().sum(1, keepdim=True)


def test_score_tensor_is_used_where_there_is_one() -> None:
    wanted = answer_of()[1]
    same(answer_of(roles=Roles(VerifierSet((WeightedVerifier("t", OnTensors()),))))[1], wanted)

    def listed(media: Media, prompts: Sequence[str]) -> list[Tensor]:
        return list(closeness(media, prompts))

    same(answer_of(roles=Roles(VerifierSet((WeightedVerifier("t", listed),))))[1], wanted)


def panel(verifier: Any, ensemble: str = "weighted") -> Roles:
    return Roles(
        VerifierSet(
            (WeightedVerifier("judge", verifier), WeightedVerifier("first", first_coordinate)), ensemble
        )
    )


class Detached(Mixture):
    def velocity(self, x: Tensor, t: float) -> Tensor:
        return super().velocity(x, t).detach()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"roles": panel(undifferentiable)},
            "verifier 'judge' cannot be differentiated: search with one that has",
        ),
        ({"roles": panel(closeness, "rank")}, "has no gradient: use the weighted ensemble"),
        ({"roles": Roles()}, "name a verifier for the search"),
        ({"decode": lambda x, p: Media(x.detach()[:, :, None, None])}, "images keep no graph"),
        ({"mixture": Detached()}, "model's output keeps no graph"),
    ],
)
def test_what_has_no_gradient_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        answer_of(**settings)


def test_a_gradient_that_is_not_finite_is_zero_and_its_candidate_is_dropped() -> None:
    events: list[Any] = []
    particles, graded = answer_of(roles=panel(not_a_number), on_event=events.append)
    assert graded.failed is not None
    assert graded.failed.all()
    assert not graded.gradient.any()
    assert graded.scores.total.tolist() == [-math.inf] * len(particles)
    told = {e.failure.candidate.id: e.text for e in events if isinstance(e, Dropped)}
    assert set(told) == {c.id for c in particles.candidates}
    assert told[-1] == (
        "candidate -1 of 'prompt 0' was dropped: the gradient is not finite (it holds NaN or inf)."
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda p: Gradient(p, (2,)), "must increase"),
        (lambda p: Gradient(p, (4, 3)), "must increase"),
        (lambda p: Gradient(p, (6,)), "before step 6"),
        (lambda p: Gradient(p, (3,), Own()), "one model call"),
        (lambda p: Gradient(p, (3,), Glass(2)), "one model call"),
        (lambda p: Gradient(p, through="vae"), "'model' or 'decoder'"),
        (lambda p: Gradient(p, (3,), through="decoder"), "takes one model call"),
        (lambda p: Gradient(p, noises=torch.zeros(1, 5, DIM)), "noises must be"),
        (lambda p: Gradient(p, pull=torch.zeros(4, DIM)), "pull must have shape"),
        (lambda p: Gradient(p, pull=torch.zeros(5, DIM), each=True), "excludes each=True"),
    ],
)
def test_a_sampler_s_mistakes(asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        answer_of(asked)


def test_pure_noise_has_no_way_through_the_decoder() -> None:
    with pytest.raises(ValueError, match="pure noise"):
        answer_of(lambda p: Gradient(p, through="decoder"), 0)


def test_on_a_grid_of_its_own() -> None:
    """Between the levels of the pipeline's grid the model is told the time."""

    @dataclass
    class Regridded(Query):
        def grid(self, process: PromptProcess) -> PromptProcess:
            return process.regridded((0.9, 0.55, 0.2))

        def search(self, process: Any, key: Key) -> Any:
            particles = process.start([draw(key, i) for i in range(self.n)])
            self.particles.append(particles)
            self.answers.append((yield self.asked(particles)))

    sampler = Regridded(lambda p: Gradient(p, (1, 2)))
    run(sampler, roles=CLOSE)

    def whole(x: Tensor) -> Tensor:
        mixture = Mixture()
        for t, s in ((0.9, 0.55), (0.55, 0.2)):
            x = x + (s - t) * (x - mixture.clean(x, t)) / t
        return quadratic(mixture.clean(x, 0.2))

    assert off(sampler.answers[0].gradient, differences(whole, sampler.particles[0].x)) < 1e-5
