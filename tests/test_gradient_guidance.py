"""Guidance by the gradient of the score: its sign, its size, and what a step of it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from genscale.algorithms.guided_steps import Push
from genscale.diffusion.noise_schedule import NoiseLevel
from genscale.engine.budget import Budget
from genscale.engine.ensembles import weighted_sum
from genscale.engine.process import PromptProcess
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.particles import draw
from genscale.samplers.best_of_n import BestOfN
from genscale.samplers.gradient_guidance import GradientGuidance
from tests.analytic import DIM, Mixture, first_coordinate, process_of, run

STEPS = 8
GOOD = torch.tensor([2.0, 0.4, 0.0])  # a little off it


def quadratic(media: Media, prompts: Any) -> Tensor:
    """Minus the squared distance to GOOD: the reward of the sign test."""
    return -((media.pixels[:, :, 0, 0].double() - GOOD.double()) ** 2).sum(1)


def totals(sampler: Any, verifier: Any = quadratic, **settings: Any) -> Tensor:
    """Final scores of all candidates."""
    made = run(sampler, steps=STEPS, verifier=verifier, batch_size=64, **settings)
    return torch.tensor([e.total for e in made.searches[0].finals])


def gain(sampler: GradientGuidance) -> float:
    """z of the guided candidates' mean score against the same number of plain ones from the same noises."""
    guided, plain = totals(replace(sampler, candidates=48)), totals(BestOfN(48))
    error = math.hypot(float(guided.std()), float(plain.std())) / math.sqrt(48)
    return float(guided.mean() - plain.mean()) / error


WAYS = {
    "decoder": GradientGuidance(scale=0.5),
    "model": GradientGuidance(through="model", scale=0.5),
    "decoder, unnormalised": GradientGuidance(normalise="none", scale=0.5),
    "model, unnormalised": GradientGuidance(through="model", normalise="none", scale=0.5),
    "each": GradientGuidance(normalise="each", scale=0.5),
    "clipped": GradientGuidance(normalise="none", clip=2.0, scale=1.0),
    "with noise": GradientGuidance(kernel="ddim(1)", scale=0.5),
    "again and again": GradientGuidance(recurrence=3, scale=0.3),
}


@pytest.mark.parametrize("name", WAYS)
def test_guidance_goes_up_the_score(name: str) -> None:
    assert gain(WAYS[name]) > 4


@pytest.mark.parametrize("name", ["decoder", "model", "decoder, unnormalised", "model, unnormalised"])
def test_the_reversed_sign_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: down the score, as SceneGenie's public code goes."""
    whole = Push.move
    monkeypatch.setattr(Push, "move", lambda self, graded, level: -whole(self, graded, level))
    assert gain(WAYS[name]) < 0


def test_without_scale_it_is_the_plain_run() -> None:
    guided = run(GradientGuidance(3, scale=0.0, rest="ode"), steps=STEPS)
    plain = run(BestOfN(4), steps=STEPS)  # Euler's step is the ode kernel
    for a, b in zip(guided.searches[0].finals, plain.searches[0].finals, strict=False):
        assert a.total == pytest.approx(b.total, abs=1e-5)


def test_recurrence_without_scale_keeps_the_law() -> None:
    """Down a step and back up with fresh noise, the share of each mode stays what it is."""
    plain, again = totals(BestOfN(400), first_coordinate), totals(
        GradientGuidance(400, scale=0.0, recurrence=2, kernel="ddim(1)"), first_coordinate
    )  # fmt: skip
    assert not torch.allclose(plain, again, atol=0.1)
    share = [float((t > 1).double().mean()) for t in (plain, again)]
    error = math.sqrt(sum(s * (1 - s) / 400 for s in share))
    assert abs(share[0] - share[1]) < 4 * error


def test_one_guided_step_by_hand() -> None:
    """A window of one step: the estimate moves by scale * spread along the unit gradient, the noise stays."""
    made = run(GradientGuidance(2, scale=0.4, window=(0.5, 0.5), rest="ode"), steps=STEPS, verifier=quadratic)
    times, mixture = process_of(STEPS)["solver"].times, Mixture()
    process = PromptProcess(**process_of(STEPS))
    x = process.start([draw(Key.from_seed(0).fold("prompt", 0), 1)]).x
    for i in range(STEPS):
        t, s = times[i], times[i + 1]
        x0 = mixture.clean(x, t).float()
        eps = (x - (1 - t) * x0) / t
        if i == 4:
            gradient = -2 * (x0 - GOOD)
            x0 = (
                x0
                + 0.4 * t / math.hypot(t, 1 - t) * gradient / gradient.square().mean(1, keepdim=True).sqrt()
            )
        x = (1 - s) * x0 + s * eps
    final = next(e for e in made.searches[0].finals if e.candidate.id == 1)
    assert final.total == pytest.approx(float(-((x[0] - GOOD) ** 2).sum()), abs=1e-4)


def graded(raw: Tensor, weights: Tensor) -> Graded:
    """Gradients raw [verifiers, n, d] of scores that are added up with weights."""
    n = raw.shape[1]
    x = torch.zeros_like(raw[0])
    scores = Scores(torch.zeros(n, len(raw), dtype=torch.float64), lambda r: weighted_sum(r, weights))
    return Graded(torch.einsum("k,k...->...", weights.float(), raw), x, Prediction(x, x), scores, each=raw)


LEVEL = NoiseLevel(0.6, 0.8)  # spread .8


def test_unnormalised_guidance_is_tweedie_s() -> None:
    """Of one Gaussian with variance v the move is the posterior covariance times the gradient at the estimate."""
    v, pull = 0.5, torch.tensor([[1.0, -2.0, 0.5]])
    slope = LEVEL.alpha * v / (LEVEL.alpha**2 * v + LEVEL.sigma**2)  # d x0 / d x
    posterior = v * LEVEL.sigma**2 / (LEVEL.alpha**2 * v + LEVEL.sigma**2)
    one = torch.ones(1, dtype=torch.float64)
    made = Push(2.0, "none", math.inf, "model").move(graded(slope * pull[None], one), LEVEL)
    assert torch.allclose(made, 2.0 * posterior * pull, atol=1e-6)
    unit = Push(2.0, "none", math.inf, "decoder").move(graded(pull[None] / LEVEL.alpha, one), LEVEL)
    assert torch.allclose(unit, 2.0 * 0.8**2 * pull, atol=1e-6)  # v = 1: sigma^2 / (alpha^2 + sigma^2)


def test_rows_are_normalised_by_themselves() -> None:
    raw = torch.tensor([[[3.0, 4.0], [0.003, 0.004], [0.0, 0.0]]])
    one = torch.ones(1, dtype=torch.float64)
    made = Push(0.5, "row", math.inf, "decoder").move(graded(raw, one), LEVEL)
    assert made.square().mean(1).sqrt().tolist() == pytest.approx([0.4, 0.4, 0.0])
    assert torch.allclose(made[0], made[1])


def test_each_verifier_s_gradient_is_brought_to_one_size_or_cut() -> None:
    raw = torch.tensor([[[1.0, 0.0]], [[0.0, 1000.0]]])
    weights = torch.tensor([1.0, -1.0], dtype=torch.float64)
    row = Push(1.0, "row", math.inf, "model").move(graded(raw, weights), LEVEL)
    assert abs(float(row[0, 0] / row[0, 1])) < 0.01  # one drowns the other
    each = Push(1.0, "each", math.inf, "model").move(graded(raw, weights), LEVEL)
    assert float(each[0, 0]) == pytest.approx(-float(each[0, 1]))  # and with its weight's sign
    cut = Push(1.0, "none", 0.5, "decoder").move(graded(raw, weights), LEVEL)
    assert float(cut[0, 1] / cut[0, 0]) == pytest.approx(-1.0)
    assert cut.abs().max() == pytest.approx(0.5 * math.sqrt(2) * 0.64 * 0.6, rel=1e-5)


def test_the_best_of_as_many_candidates_as_are_paid_for() -> None:
    one = STEPS + 2 * 6  # the window has steps 2 to 7
    sampler = GradientGuidance(through="model")
    for left, finished in ((0, 5), (STEPS - 1, 5), (STEPS, 6)):
        made = run(sampler, steps=STEPS, budget=Budget(nfe=5 * one + left), verifier=quadratic)
        search = made.searches[0]
        assert search.finished == finished  # what is left over is a plain candidate
        assert search.best().total == max(e.total for e in search.finals)
        assert sum(e.candidate.details.get("plain", 0) for e in search.finals) == finished - 5
    many = run(GradientGuidance(), steps=STEPS, budget=Budget(nfe=20 * STEPS)).searches[0]
    assert many.finished == 20  # through the decoder guidance costs no NFE
    assert len({e.candidate.id for e in many.finals}) == 20


def test_pure_noise_is_not_guided_where_that_has_no_meaning() -> None:
    process = PromptProcess(**process_of(STEPS))
    whole = {"window": (0.0, 1.0)}
    assert GradientGuidance(**whole).plan(process).steps == range(1, STEPS)
    assert GradientGuidance(through="model", normalise="none", **whole).plan(process).steps == range(1, STEPS)
    assert GradientGuidance(through="model", **whole).plan(process).steps == range(STEPS)


def test_two_verifiers_are_gone_back_through_apart_only_where_that_is_asked() -> None:
    def second(media: Media, prompts: Any) -> Tensor:
        return media.pixels[:, 1, 0, 0].double()

    roles = Roles(VerifierSet((WeightedVerifier("a", first_coordinate), WeightedVerifier("b", second, 2.0))))
    spent = {}
    for normalise in ("row", "each"):
        sampler = GradientGuidance(2, through="model", normalise=normalise)
        spent[normalise] = run(sampler, steps=STEPS, roles=roles).searches[0].spent
    assert spent["row"] == 2 * (STEPS + 2 * 6)
    assert spent["each"] == 2 * (STEPS + 4 * 6)
    assert DIM == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"through": "nothing"}, "through='nothing'"),
        ({"normalise": "all"}, "normalise='all'"),
        ({"scale": -1.0}, "scale=-1.0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"recurrence": 0}, "recurrence=0"),
        ({"candidates": 0}, "candidates=0"),
        ({"window": (0.9, 0.2)}, "window"),
        ({"kernel": "own"}, "cannot be guided"),
        ({"kernel": "glass(2)"}, "cannot be guided"),
        ({"kernel": "sde(rbf)"}, "cannot be guided"),
        ({"rest": "no"}, "kernel 'no' is unknown"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GradientGuidance(**options)
