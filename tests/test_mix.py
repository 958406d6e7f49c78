"""Mixes of predictions: the same in every kind, exact on Gaussians, untouched where there is nothing to mix."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genscale.diffusion.guidance import Cfg, CfgPlusPlus
from genscale.diffusion.kernels import Ddim
from genscale.diffusion.mixture_arithmetic import rate
from genscale.diffusion.mixtures import (
    MixtureContext,
    Source,
    Tempered,
    Weighted,
    autoguidance,
    compose,
    negate,
    rlg,
)
from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule
from genscale.diffusion.prediction import PREDICTIONS, Limit, View, convert
from genscale.engine.mixture_batches import Mixer
from genscale.errors import UsageError
from genscale.protocol.batches import Batch, Output
from genscale.protocol.particles import draw
from genscale.protocol.queries import Denoise, Score, Solve
from tests.analytic import Mixture, run

STEPS = 8
TIMES = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
LINEAR = NoiseSchedule(1 - TIMES, TIMES)
ANGLE = torch.linspace(math.pi / 2, 0, STEPS + 1, dtype=torch.float64)
VP = NoiseSchedule(ANGLE.cos(), ANGLE.sin())
VE = NoiseSchedule(torch.ones(STEPS + 1), torch.linspace(9, 0, STEPS + 1).double())
GEN = torch.Generator().manual_seed(0)
X, CLEAN = torch.randn(2, 3, 4, 5, generator=GEN).double(), torch.randn(3, 2, 3, 4, 5, generator=GEN).double()
THREE = tuple(Source(model=m) for m in ("", "b", "c"))


def mixer(mix: Any, view: View | str, rated: bool = False) -> Mixer:
    def rows(prompt: int, text: str | None) -> int:
        return prompt if text is None else prompt + (10 if text == "other" else 20)

    return Mixer(mix, view, STEPS, rows, rated)


def outputs_of(view: View, step: int) -> list[Tensor]:
    """What three models that know the clean latents CLEAN say of X."""
    level = view.schedule.level(step)
    return [view.output_at(level, x0, (X - level.alpha * x0) / level.sigma) for x0 in CLEAN]


def mixed(made: Mixer, batch: Batch, values: Sequence[Tensor], cost: int = 2) -> tuple[list[Batch], Output]:
    """Drive a mixer with these outputs in turn."""
    asked, got = [], made.open(batch)
    for value in values:
        assert isinstance(got, Batch)
        asked.append(got)
        got = made.absorb(Output(value, got.x, cost))
    assert isinstance(got, Output)
    return asked, got


BATCH = Batch(X, 3, (0, 1))


# ---------------------------------------------------------------- one mix in every kind


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("levels", [LINEAR, VP, VE])
@pytest.mark.parametrize("weights", [(-1.5, 2.0, 0.5), (1.0, 1.0, 0.5), (1.0, -0.5, -0.5)])
def test_a_mix_is_the_same_in_every_kind_of_prediction(
    kind: str, levels: NoiseSchedule, weights: tuple[float, ...]
) -> None:
    view, level = View(levels, kind, data_std=0.5 if levels is VE else 1.0), levels.level(3)
    _, got = mixed(mixer(Weighted(THREE, weights), view), BATCH, outputs_of(view, 3))
    x0, eps = view.pair(level, got.value, X)
    expected = sum(w * (X - level.alpha * c) / level.sigma for w, c in zip(weights, CLEAN, strict=True))
    torch.testing.assert_close(eps, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(level.alpha * x0 + level.sigma * eps, X, rtol=1e-9, atol=1e-9)


def test_sums_of_outputs_would_not_be() -> None:
    """The twin: weights that do not sum to 1, summed as flows, are another thing than summed as noise."""
    made, level = {}, LINEAR.level(3)
    for kind in ("epsilon", "flow"):
        view = View(LINEAR, kind)
        wrong = outputs_of(view, 3)[0] + outputs_of(view, 3)[1]
        made[kind] = view.pair(level, wrong, X)[1]
    assert (made["epsilon"] - made["flow"]).abs().max() > 0.1


def test_half_precision_is_summed_in_float32_and_given_back() -> None:
    view = View(LINEAR, "flow")
    values = [v.half() for v in outputs_of(view, 3)]
    _, got = mixed(mixer(Weighted(THREE, (-3.0, 2.0, 2.0)), view), BATCH, values)
    expected = (-3.0 * values[0].float() + 2.0 * values[1].float() + 2.0 * values[2].float()).half()
    assert torch.equal(got.value, expected)


def test_a_learned_variance_is_mixed_or_the_first_sources() -> None:
    view = View(LINEAR, "epsilon", learned_variance=True)
    values = [torch.cat([v, torch.full_like(v, i)], 1) for i, v in enumerate(outputs_of(view, 3))]
    for weights in ((0.5, 1.0, -0.5), (1.0, 1.0, 0.5)):
        _, got = mixed(mixer(Weighted(THREE, weights), view), BATCH, values)
        expected = sum(w * v[:, :3] for w, v in zip(weights, values, strict=True))
        torch.testing.assert_close(got.value[:, :3], expected)
        variance = 0.0  # of the first in a sum of scores; 1 - .5 * 2 in one of outputs
        torch.testing.assert_close(got.value[:, 3:], torch.full_like(X, variance))
    plain = outputs_of(view, 3)[1]  # a model that says nothing of the variance
    _, got = mixed(mixer(Weighted(THREE[:2], (-1.0, 2.0)), view), BATCH, [values[0], plain])
    torch.testing.assert_close(got.value[:, :3], 2 * plain - values[0][:, :3])
    assert torch.equal(got.value[:, 3:], values[0][:, 3:])


def test_a_limit_is_left_to_the_scheduler() -> None:
    """Thresholding acts on the mix alone, as it does on guided predictions; rates know nothing of it."""
    plain, limited = View(LINEAR, "flow"), View(LINEAR, "flow", limit=Limit(0.5))
    for weights in ((-1.5, 2.0, 0.5), (1.0, 1.0, 0.5)):
        outputs = [
            mixed(mixer(Weighted(THREE, weights), v, rated=True), BATCH, outputs_of(plain, 3))[1]
            for v in (plain, limited)
        ]
        assert torch.equal(outputs[0].value, outputs[1].value)
        assert torch.equal(outputs[0].rate, outputs[1].rate)


def test_pure_noise_has_the_mean_of_the_product() -> None:
    view = View(LINEAR, "flow")
    level = view.schedule.level(0)
    values = [convert("flow", c, X, level.alpha, level.sigma) for c in CLEAN]
    _, got = mixed(mixer(Weighted(THREE, (1.0, 2.0, 1.0)), view), replace(BATCH, step=0), values)
    x0, eps = view.pair(level, got.value, X)
    torch.testing.assert_close(x0, (CLEAN[0] + 2 * CLEAN[1] + CLEAN[2]) / 4)
    torch.testing.assert_close(eps, X)


# ---------------------------------------------------------------- nothing to mix


@pytest.mark.parametrize(
    "mix",
    [
        Weighted((Source(),), (1.0,)),
        rlg("base", 1.0),
        negate("other", 0.0),
        Weighted((Source(), Source(model="b")), (0.3, 0.7), start=0.5),
        Tempered(1.0),
    ],
)
def test_the_pipelines_own_prediction_passes_untouched(mix: Any) -> None:
    made, value = mixer(mix, View(LINEAR, "flow"), rated=True), torch.randn(2, 3, 4, 5).half()
    asked, got = mixed(made, BATCH, [value])
    assert asked == [BATCH]
    assert got.value is value
    assert got.x is X
    assert torch.equal(got.rate, torch.zeros(2, dtype=torch.float64))


def test_a_batch_for_one_branch_and_a_step_without_a_model_call_pass() -> None:
    value = torch.randn(2, 3, 4, 5)
    for batch in (replace(BATCH, branch="uncond"), replace(BATCH, step=STEPS)):
        asked, got = mixed(mixer(Weighted(THREE, (1.0, 1.0, 1.0)), View(LINEAR, "flow")), batch, [value])
        assert asked == [batch]
        assert got.value is value


# ---------------------------------------------------------------- what is asked


def test_sources_become_batches_and_are_counted() -> None:
    sources = (
        Source(),
        Source(prompt="other"),
        Source(branch="cond"),
        Source(prompt="{prompt} x", model="b"),
    )
    made = mixer(Weighted(sources, (1.0, 0.5, -1.0, 0.5)), "levels are unknown")
    asked, got = mixed(made, BATCH, [torch.ones(2, 3, 4, 5)] * 4)
    assert [(b.prompts, b.branch, b.model, b.step) for b in asked] == [
        ((0, 1), None, "", 3),
        ((10, 11), None, "", 3),
        ((0, 1), "cond", "", 3),
        ((20, 21), None, "b", 3),
    ]
    assert all(b.x is X for b in asked)
    assert got.evaluations == 8
    torch.testing.assert_close(got.value, torch.ones(2, 3, 4, 5))


def test_guidance_holds_in_its_interval() -> None:
    made = mixer(Cfg(4.0, 0.25, 0.5), View(LINEAR, "flow"))
    kept = []
    for step in range(STEPS):
        asked, _ = mixed(made, replace(BATCH, step=step), [X] * (1 + (step in (2, 3))))
        kept.append([b.branch for b in asked])
    assert kept == [["uncond", "cond"] if step in (2, 3) else ["cond"] for step in range(STEPS)]
    assert made.mix.weights(made.moment(replace(BATCH, step=2))) == (-3.0, 4.0)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_of_guidance_keep_its_mean(schedule: str) -> None:
    scales = [Cfg(5.0, schedule=schedule).weights(MixtureContext(i, 1000))[1] for i in range(1000)]
    assert sum(scales) / 1000 == pytest.approx(5.0, abs=0.01)
    assert scales == sorted(scales)


def test_a_smaller_batch_replaces_the_one_under_way() -> None:
    view = View(LINEAR, "flow")
    made, values = mixer(Weighted(THREE, (-1.5, 2.0, 0.5)), view, rated=True), outputs_of(view, 3)
    _, whole = mixed(made, BATCH, values)
    second = made.absorb(Output(values[0], X, 2)) if isinstance(made.open(BATCH), Batch) else None
    assert isinstance(second, Batch)  # memory runs out here
    halves = [
        mixed(made, replace(BATCH, x=X[[i]], prompts=(i,)), [v[[i]] for v in values], 1)[1] for i in (0, 1)
    ]
    assert torch.equal(torch.cat([h.value for h in halves]), whole.value)
    assert torch.equal(torch.cat([h.rate for h in halves]), whole.rate)
    assert [h.evaluations for h in halves] == [3, 3]


def test_a_call_between_the_levels_of_the_grid() -> None:
    made = mixer(CfgPlusPlus(0.5), View(LINEAR, "flow"))
    moment = made.moment(replace(BATCH, time=0.6))
    assert moment.level == NoiseLevel(0.4, 0.6)
    assert moment.following == LINEAR.level(4)
    assert made.moment(BATCH).following == LINEAR.level(4)


def test_the_next_level_is_a_less_noisy_one() -> None:
    """Second-order schedulers call twice at one level, where CFG++ would divide by 0."""
    twice = NoiseSchedule(LINEAR.alpha[[0, 1, 1, 2, 2, 3]], LINEAR.sigma[[0, 1, 1, 2, 2, 3]])
    view = View(twice, "flow")
    assert [MixtureContext.at(view, i, 5).following for i in range(5)] == [
        LINEAR.level(i) for i in (1, 2, 2, 3, 3)
    ]
    assert all(
        math.isfinite(w) for i in range(5) for w in CfgPlusPlus(0.6).weights(MixtureContext.at(view, i, 5))
    )


def test_gradients_go_through() -> None:
    view, x = View(LINEAR, "flow"), X.clone().requires_grad_()
    for weights in ((-1.5, 2.0, 0.5), (1.0, 1.0, 0.5)):
        made = mixer(Weighted(THREE, weights), view, rated=True)
        _, got = mixed(
            made, Batch(x, 3, (0, 1), grad=True), [torch.sin(k * x) if k else x**2 for k in range(3)]
        )
        (slope,) = torch.autograd.grad(view.pair(LINEAR.level(3), got.value, got.x)[1].sum(), x)
        level = LINEAR.level(3)  # eps = x + alpha u for flows
        eps_slope = [1 + level.alpha * d for d in (2 * X, X.cos(), 2 * (2 * X).cos())]
        torch.testing.assert_close(slope, sum(w * d for w, d in zip(weights, eps_slope, strict=True)))


# ---------------------------------------------------------------- exact on Gaussians


def gaussian(x: Tensor, level: NoiseLevel, mean: float, std: float) -> Tensor:
    """-sigma grad log of the noised N(mean, std^2)."""
    return level.sigma * (x - level.alpha * mean) / ((level.alpha * std) ** 2 + level.sigma**2)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_product_of_gaussians(kind: str) -> None:
    view, level, weights = View(VP, kind), VP.level(5), (1.0, 0.5, 1.5)
    laws = [(1.0, 0.5), (-1.0, 0.8), (0.3, 2.0)]
    eps = [gaussian(X, level, *law) for law in laws]
    values = [view.output_at(level, (X - level.sigma * e) / level.alpha, e) for e in eps]
    _, got = mixed(mixer(Weighted(THREE, weights), view), replace(BATCH, step=5), values)

    precision = [
        w / ((level.alpha * s) ** 2 + level.sigma**2) for w, (_, s) in zip(weights, laws, strict=True)
    ]
    mean = sum(p * level.alpha * m for p, (m, _) in zip(precision, laws, strict=True)) / sum(precision)
    score = -(X - mean) * sum(precision)  # of N(mean, 1 / sum of precisions), the product
    torch.testing.assert_close(-view.pair(level, got.value, X)[1] / level.sigma, score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weights", [(-1.5, 2.0, 0.5), (1.0, 1.0, 0.5), (1.0, -0.5, -0.5), (2.0, 1.0, -3.0)])
def test_rates_are_what_they_say(weights: tuple[float, ...]) -> None:
    view, level = View(LINEAR, "flow"), LINEAR.level(3)
    eps = [(X - level.alpha * c) / level.sigma for c in CLEAN]
    whole = sum(w * e for w, e in zip(weights, eps, strict=True))
    each = sum(w * (e**2).flatten(1).sum(1) for w, e in zip(weights, eps, strict=True))
    got = rate(outputs_of(view, 3), weights, view, level, X)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, (whole**2).flatten(1).sum(1) - each, rtol=1e-9, atol=1e-9)


def test_the_rate_of_guidance_and_of_annealing() -> None:
    view, level, b = View(LINEAR, "flow"), LINEAR.level(3), 2.5
    eps, outputs = [(X - level.alpha * c) / level.sigma for c in CLEAN], outputs_of(view, 3)
    gap = ((eps[1] - eps[0]) ** 2).flatten(1).sum(1)
    torch.testing.assert_close(rate(outputs[:2], (1 - b, b), view, level, X), b * (b - 1) * gap)
    norm = (eps[0] ** 2).flatten(1).sum(1)
    torch.testing.assert_close(rate(outputs[:1], (b,), view, level, X), b * (b - 1) * norm)


def test_rates_of_models_that_hardly_differ_keep_their_digits() -> None:
    """float32 outputs whose difference is 1e-6 of them: the twin subtracts sums, also in float64."""
    view, level, b = View(LINEAR, "epsilon"), LINEAR.level(3), 3.0
    eps = torch.randn(1, 200_000, generator=GEN)
    other = eps + 1e-6 * torch.randn(1, 200_000, generator=GEN)
    expected = b * (b - 1) * (other.double() - eps.double()).square().sum(1)
    torch.testing.assert_close(rate([eps, other], (1 - b, b), view, level, eps), expected, rtol=1e-9, atol=0)
    naive = ((1 - b) * eps.double() + b * other.double()).square().sum(1)
    naive = naive - (1 - b) * eps.double().square().sum(1) - b * other.double().square().sum(1)
    assert abs(float(naive / expected) - 1) > 1e-6


# ---------------------------------------------------------------- CFG++


@pytest.mark.parametrize("levels", [LINEAR, VP, VE])
@pytest.mark.parametrize("step", [1, 4, STEPS - 1])
def test_cfg_plus_plus_is_its_two_step_definition(levels: NoiseSchedule, step: int) -> None:
    view, share = View(levels, "epsilon"), 0.6
    start, stop = levels.level(step), levels.level(step + 1)
    uncond, cond = outputs_of(view, step)[:2]
    _, got = mixed(mixer(CfgPlusPlus(share), view), replace(BATCH, step=step), [uncond, cond])
    ours = Ddim(0.0).transition(X, *view.pair(start, got.value, X), start, stop).mean

    x0 = (X - start.sigma * ((1 - share) * uncond + share * cond)) / start.alpha
    torch.testing.assert_close(ours, stop.alpha * x0 + stop.sigma * uncond, rtol=1e-9, atol=1e-9)

    plain = (X - start.sigma * (uncond + 3.0 * (cond - uncond))) / start.alpha  # the twin: ordinary guidance
    eps = uncond + 3.0 * (cond - uncond)
    assert (stop.alpha * plain + stop.sigma * eps - ours).abs().max() > 0.1


def test_cfg_plus_plus_in_the_rectified_flow() -> None:
    """Research note 8.2: w = l t (1 - t') / (t - t')."""
    made = mixer(CfgPlusPlus(0.6), View(LINEAR, "flow"))
    for i in range(STEPS):
        t, s = float(LINEAR.sigma[i]), float(LINEAR.sigma[i + 1])
        w = made.mix.weights(made.moment(replace(BATCH, step=i)))[1]
        assert w == pytest.approx(0.6 * t * (1 - s) / (t - s))


# ---------------------------------------------------------------- constructors and refusals


def test_constructors_say_what_they_mean() -> None:
    def terms(mix: Any) -> dict[Source, float]:
        return dict(zip(mix.sources, mix.weights(MixtureContext(0, 4)), strict=True))

    own = Source()
    assert terms(rlg("base", 1.6)) == pytest.approx({own: 1.6, Source(model="base"): -0.6})
    assert terms(autoguidance("weak", 2.0)) == {own: 2.0, Source(model="weak"): -1.0}
    assert terms(compose(["a"], [0.25])) == {own: 0.75, Source(prompt="a"): 0.25}
    assert terms(negate("rain", 0.5)) == {own: 1.5, Source(prompt="rain"): -0.5}


@pytest.mark.parametrize(
    "make",
    [
        lambda: Source(branch="both"),
        lambda: Weighted((), ()),
        lambda: Weighted((Source(),), (1.0, 2.0)),
        lambda: Weighted((Source(),), (0.0,)),
        lambda: Weighted((Source(),), (math.nan,)),
        lambda: Weighted((Source(),), (1.0,), 0.5, 0.4),
        lambda: Weighted((Source(),), (1.0,), outside=1),
        lambda: Tempered(0.0),
        lambda: Tempered(math.inf),
        lambda: Cfg(math.inf),
        lambda: Cfg(3.0, schedule="wavy"),
        lambda: Cfg(3.0, -0.1),
        lambda: CfgPlusPlus(1.5),
        lambda: rlg("tuned", math.nan),
        lambda: CfgPlusPlus(0.5).weights(MixtureContext(0, 4)),
        lambda: mixed(mixer(Tempered(2.0), "levels are unknown"), BATCH, [X]),
        lambda: mixed(
            mixer(Weighted(THREE, (1, 1, -2)), View(LINEAR, "flow")), replace(BATCH, step=0), [X] * 3
        ),
        lambda: mixer(Off(1.0), View(LINEAR, "flow")).open(BATCH),
    ],
)
def test_nonsense_is_refused(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


# ---------------------------------------------------------------- under the engine


@dataclass(frozen=True)
class Off(Tempered):
    """A mix of nothing."""

    def weights(self, moment: MixtureContext) -> tuple[float, ...]:
        return (0.0,)


@dataclass(frozen=True)
class Asks:
    """A sampler that looks at the rates of a prediction, twice over."""

    needs = frozenset({"schedule"})
    seen: Any

    def search(self, process: Any, key: Any) -> Generator[Any, Any, None]:
        particles = yield Solve(process.start([draw(key, i) for i in range(3)]), 2)
        prediction = yield Denoise(particles)
        self.seen.append((particles.x, prediction))
        done = yield Solve(process.move(particles, prediction, Ddim(0.5)), kernel=Ddim(0.5))
        yield Score(done)

    def cost(self, process: Any) -> int:
        return 3 * process.nfe()


def test_the_engine_hands_rates_on_and_the_archive_keeps_them(tmp_path: Path) -> None:
    models = {"b": Mixture(-Mixture().means, 0.5)}
    mix, seen = Weighted((Source(), Source(model="b")), (-1.5, 2.5)), []
    runs = [
        run(Asks(seen), mix=mix, models=models, guided=2, batch_size=2, folder=tmp_path) for _ in range(2)
    ]
    (x, first), (_, again) = seen
    assert runs[0].ledger.evaluations == 3 * 6 * 2 * 2
    assert len(runs[1].batches) == 0  # all of it is in the archive
    assert torch.equal(first.rate, again.rate)
    t = 1 - 2 / 6
    eps = [x.double() + (1 - t) * m.velocity(x.double(), t) for m in (Mixture(), models["b"])]
    torch.testing.assert_close(
        first.rate, 2.5 * 1.5 * (eps[1] - eps[0]).square().sum(1), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(first.eps.double(), -1.5 * eps[0] + 2.5 * eps[1], rtol=1e-5, atol=1e-5)


def test_a_rule_of_others_may_join_as_it_likes() -> None:
    class Larger(Weighted):
        """The larger of two predictions: no weighted sum, and so without a rate."""

        def join(self, moment: MixtureContext, outputs: Mapping[Source, Tensor]) -> Tensor:
            return torch.maximum(*outputs.values())

    view = View(LINEAR, "flow")
    values = outputs_of(view, 3)[:2]
    _, got = mixed(mixer(Larger(THREE[:2], (1.0, 1.0)), view, rated=True), BATCH, values)
    assert torch.equal(got.value, torch.maximum(*values))
    assert got.rate is None
