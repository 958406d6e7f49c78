"""Typicality on a Gaussian model, where the denoising error is a formula, and its honest price on pipelines."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import genscale
from genscale.algorithms.arms import Arms
from genscale.algorithms.typicality import Typical
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import draw
from genscale.protocol.queries import Query, Score, Solve
from genscale.samplers.best_of_n import BestOfN
from genscale.toy import analytic
from tests.test_scale import arguments, brightness
from tests.zoo import ZOO

DIM, MEAN, STD = 6, 0.7, 0.5
MODEL = analytic.gaussian(DIM, MEAN, STD)


@dataclass(frozen=True)
class Given:
    """A sampler that finishes candidate 0, and others with given latents, as a search that fools its verifier would."""

    latents: Tensor  # [n, d]

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        own = yield Solve(process.start([draw(key, 0)]))
        yield Score(own)
        others = yield Solve(process.start([draw(key, 1 + i) for i in range(len(self.latents))]))
        yield Score(replace(others, x=self.latents[: len(others)].to(others.x)))


def measured(latents: Tensor, steps: int = 10, **settings: Any) -> Tensor:
    sampler = Typical(Given(latents), **settings)
    found = analytic.search(sampler, MODEL, analytic.coordinate(0), steps=steps)
    values = {entry.candidate.id: sampler.of(entry.candidate) for entry in found.entries}
    return torch.tensor([values[1 + i] for i in range(len(latents))], dtype=torch.float64)


def error(x: Tensor, time: float, noise: Tensor) -> Tensor:
    """Mean over coordinates of (eps - E[eps | x_t])^2, with the posterior mean of a Gaussian written out."""
    alpha, sigma = 1 - time, time
    gap = alpha**2 * STD**2 * noise - alpha * sigma * (x - MEAN)
    return (gap / (alpha**2 * STD**2 + sigma**2)).square().mean(1)


def noises(n: int) -> list[Tensor]:
    """Those of the only run of `analytic.search`."""
    key = Key.from_seed(0).fold("prompt", 0).fold("typicality")
    return [(-1) ** j * key.fold(j // 2).normal((DIM,)).double() for j in range(n)]


LATENTS = MEAN + STD * torch.randn(5, DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("weights", ["bound", "simple"])
def test_it_is_the_formula_of_a_gaussian(count: int, weights: str) -> None:
    times = (0.2, 0.5, 0.9)
    log_snr = torch.tensor([2 * torch.tensor((1 - t) / t).log() for t in times], dtype=torch.float64)
    gaps = -log_snr.diff()
    widths = {"bound": [gaps[0] / 2, gaps.sum() / 2, gaps[1] / 2], "simple": [1 / 3] * 3}[weights]
    expected = torch.zeros(5, dtype=torch.float64)
    for time, width in zip(times, widths, strict=True):
        each = [error(LATENTS.double(), time, noise) for noise in noises(count)]
        expected -= width * torch.stack(each).mean(0) / 2
    found = measured(LATENTS, times=times, noises=count, weights=weights)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_with_all_levels_differences_are_those_of_the_log_likelihood() -> None:
    """The bound is tight for the exact model: 1/2 integral of the error = -log p(x) + a constant."""
    times = tuple(i / 100 for i in range(1, 100))
    found = measured(LATENTS, steps=100, times=times, noises=2)
    exact = -((LATENTS.double() - MEAN) / STD).square().mean(1) / 2
    torch.testing.assert_close(found - found.mean(), exact - exact.mean(), atol=2e-3, rtol=0.02)
    broken = measured(LATENTS, steps=100, times=times, noises=1)  # the odd part of the error stays
    assert float((broken - broken.mean() - exact + exact.mean()).abs().max()) > 0.02


def test_order_and_company_do_not_matter() -> None:
    whole = measured(LATENTS)
    torch.testing.assert_close(measured(LATENTS.flip(0)), whole.flip(0))
    torch.testing.assert_close(measured(LATENTS[2:3]), whole[2:3])
    assert bool(whole.isfinite().all())


def test_a_hacked_candidate_is_rejected_and_the_best_of_the_others_wins() -> None:
    latents = torch.cat([LATENTS[:3], LATENTS[1:2] + 8 * STD, LATENTS[3:]])
    verifier = analytic.coordinate(0)  # likes exactly what is far out
    fooled = analytic.search(Given(latents), MODEL, verifier)
    assert fooled.ranking(0)[0].candidate.id == 4
    sampler = Typical(Given(latents), margin=1.0)
    found = analytic.search(sampler, MODEL, verifier)
    scores = {entry.candidate.id: entry.total for entry in fooled.entries if entry.candidate.id != 4}
    assert [candidate.id for candidate in sampler.rejected] == [4]
    assert {entry.candidate.id: entry.total for entry in found.entries} == scores
    assert found.ranking(0)[0].candidate.id == max(scores, key=lambda i: scores[i] or 0)
    assert analytic.search(Typical(Given(latents)), MODEL, verifier).ranking(0)[0].candidate.id == 4


def test_all_rejected_after_the_first_batch_is_no_failure() -> None:
    @dataclass(frozen=True)
    class Twice:
        def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
            for i, shift in enumerate((0.0, 9.0, 0.0)):
                finished = yield Solve(process.start([draw(key, i)]))
                scores = yield Score(replace(finished, x=finished.x + shift))
                assert scores.alive == ([] if shift else [0])
                assert bool((scores.total == -torch.inf).all()) == bool(shift)

    found = analytic.search(Typical(Twice(), margin=0.5), MODEL, analytic.coordinate(0))
    assert [entry.candidate.id for entry in found.entries] == [0, 2]


def test_without_candidate_0_the_first_one_that_is_finished_is_the_measure() -> None:
    @dataclass(frozen=True)
    class Others:
        def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
            finished = yield Solve(process.start([draw(key, i) for i in (1, 2, 3)]))
            shift = torch.tensor([0.0, 9.0, 0.0])[:, None]
            scores = yield Score(replace(finished, x=finished.x + shift))
            assert scores.alive == [0, 2]

    sampler = Typical(Others(), margin=1.0)
    analytic.search(sampler, MODEL, analytic.coordinate(0))
    assert [candidate.id for candidate in sampler.rejected] == [2]


@pytest.mark.parametrize("budget", ["96nfe", "100nfe", "57nfe"])
def test_it_counts_in_the_budget_and_the_sampler_leaves_room_for_it(budget: str) -> None:
    sampler = Typical(BestOfN(), times=(0.3, 0.6), noises=2)  # 4 NFE beside the 8 of a candidate
    found = analytic.search(sampler, MODEL, analytic.coordinate(0), steps=8, budget=budget)
    candidates = int(budget.removesuffix("nfe")) // 12
    assert len(found.entries) == candidates
    assert found.ledger.nfe == 12 * candidates
    assert all(sampler.of(entry.candidate) is not None for entry in found.entries)


def test_what_the_budget_does_not_pay_for_is_not_measured() -> None:
    sampler = Typical(Given(LATENTS), times=(0.3, 0.6), margin=0.0)
    found = analytic.search(sampler, MODEL, analytic.coordinate(0), steps=8, budget="9nfe")
    [only] = found.entries  # the pipeline's own comes first, also where it cannot be measured
    assert found.ledger.nfe == 8
    assert sampler.of(only.candidate) is None
    found = analytic.search(sampler, MODEL, analytic.coordinate(0), steps=8, budget="40nfe")
    assert len(found.entries) + len(sampler.rejected) == 3
    assert found.ledger.nfe == 36


def test_bad_settings_are_refused() -> None:
    inner = BestOfN(4)
    for settings, said in (
        ({"times": ()}, "must be between 0"),
        ({"times": (0.5, 1.0)}, "must be between 0"),
        ({"noises": 0}, "measure nothing"),
        ({"weights": "elbo"}, "is unknown"),
        ({"margin": -1.0}, "must be 0 or more"),
    ):
        with pytest.raises(UsageError, match=said):
            Typical(inner, **settings)
    with pytest.raises(UsageError, match="without arms"):
        Typical(Arms(({}, {})))
    with pytest.raises(UsageError, match="this run of 1 steps has none"):
        analytic.search(Typical(inner), MODEL, analytic.coordinate(0), steps=1)


# ---------------------------------------------------------------- pipelines


@pytest.mark.parametrize(
    "name",
    ["stable_diffusion", *(pytest.param(name, marks=pytest.mark.slow) for name in ("flux", "sd3", "wan"))],
)
def test_pipelines_are_measured_at_the_price_that_is_told(name: str, tmp_path: Path) -> None:
    """One candidate is still the pipeline's own, and another run of the same call measures the same."""
    sampler = Typical(BestOfN(3), times=(0.3, 0.7), noises=2)

    def call() -> dict[str, Any]:
        return arguments(name) | {"num_inference_steps": 4}

    better = genscale.scale(ZOO[name].build(), sampler, brightness, keep=3, out=tmp_path / "run")
    plan = better.plan(**call())
    found = better(**call()).search
    assert plan.nfe is not None
    assert found.ledger.nfe == plan.nfe * plan.prompts
    values = [sampler.of(entry.candidate) for entry in found.entries]
    plain = genscale.scale(ZOO[name].build(), BestOfN(3), brightness, keep=3)(**call()).search
    assert [e.total for e in plain.entries] == [e.total for e in found.entries]
    steps = len(sampler.levels(found.searches[0].process))
    each = found.searches[0].process
    one = 1 if each.of_branch is not None else each.nfe(1, 2)
    assert found.ledger.nfe - plain.ledger.nfe == 3 * len(found.searches) * steps * 2 * one
    again = Typical(BestOfN(3), times=(0.3, 0.7), noises=2)
    resumed = genscale.scale(ZOO[name].build(), again, brightness, keep=3, out=tmp_path / "run")(
        **call()
    ).search
    assert [again.of(entry.candidate) for entry in resumed.entries] == values
    assert all(value is not None and value < 0 for value in values)
