"""Batches whose rows are at different steps: the same results as batches of one step, in fewer model calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import genscale
from genscale.engine.budget import Budget
from genscale.pipelines import mixed_steps, serve, serving_driver, step_study
from genscale.pipelines.argument_values import same
from genscale.pipelines.mixed_steps import RowSteps, StepsStayApart
from genscale.pipelines.step_study import Steps
from genscale.samplers.dfs import Dfs
from genscale.samplers.rollover import Rollover
from tests.analytic import SAMPLERS, Run, asks_for_gradients, run
from tests.quick import quick
from tests.zoo import ZOO, with_scheduler

TOLERANCE = 1e-3  # of a score in grey levels; batched float32 kernels round differently


# ---------------------------------------------------------------- the engine, on a model in closed form


def scores(found: Run) -> list[list[tuple[int, float]]]:
    """(candidate, score) of all finished candidates of each prompt, in the order in which they finished."""
    return [[(e.candidate.id, float(e.total or 0.0)) for e in s.finals] for s in found.searches]


def searched(sampler: Any, mix_steps: bool, **more: Any) -> Run:
    given: dict[str, Any] = {"budget": Budget(nfe=60), "prompts": 3, "batch_size": 8, "keep": 60}
    return run(sampler, mix_steps=mix_steps, **given | more)


def assert_alike(one: Run, other: Run) -> None:
    for a, b in zip(scores(one), scores(other), strict=True):
        assert [i for i, _ in a] == [i for i, _ in b]
        assert [v for _, v in a] == pytest.approx([v for _, v in b], abs=1e-4)
    assert [s.spent for s in one.searches] == [s.spent for s in other.searches]


@pytest.mark.parametrize(
    "name", quick([n for n in SAMPLERS if not asks_for_gradients(n)], ("rollover", "dts_star"))
)
def test_every_sampler_finds_the_same(name: str) -> None:
    apart, mixed = (searched(SAMPLERS[name], mix_steps) for mix_steps in (False, True))
    assert_alike(apart, mixed)
    assert len(mixed.batches) <= len(apart.batches) + 2


def test_rows_at_the_wrong_step_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: the rows of a mixed batch are evaluated at each other's steps."""
    import tests.analytic as bed

    right = bed.answered

    def wrong(mixture: Any, batch: Any, times: Any) -> Tensor:
        return right(mixture, replace_steps(batch), times)

    apart = searched(Dfs(), False)
    monkeypatch.setattr(bed, "answered", wrong)
    mixed = searched(Dfs(), True)
    assert any(batch.steps for batch in mixed.batches)
    with pytest.raises(AssertionError):
        assert_alike(apart, mixed)


def replace_steps(batch: Any) -> Any:
    from dataclasses import replace

    return batch if batch.steps is None else replace(batch, steps=batch.steps[::-1])


@pytest.mark.parametrize(("sampler", "share"), [(Dfs(), 0.45), (Rollover(), 0.85)], ids=["dfs", "rollover"])
def test_batches_are_fuller(sampler: Any, share: float) -> None:
    more: dict[str, Any] = {"prompts": 8, "budget": Budget(nfe=60), "steps": 6}
    apart, mixed = (searched(sampler, mix_steps, **more) for mix_steps in (False, True))
    assert len(mixed.batches) <= share * len(apart.batches)


def test_a_batch_of_one_step_comes_first() -> None:
    """Rows of other steps only fill places that rows of the furthest step leave."""
    for batch in searched(Dfs(), True).batches:
        if batch.steps is not None:
            assert batch.step == batch.steps[0] == max(batch.steps)


def test_rows_between_levels_and_branches_stay_apart() -> None:
    for name in ("rollover on its own levels", "smc, glass", "fkc"):
        for batch in searched(SAMPLERS[name], True).batches:
            assert batch.steps is None or (batch.time is None and batch.branch is None)


def test_batch_size_and_company_change_nothing() -> None:
    whole = searched(SAMPLERS["evolution"], True)
    for batch_size in (1, 3, 64):
        assert_alike(whole, searched(SAMPLERS["evolution"], True, batch_size=batch_size))
    alone = searched(SAMPLERS["evolution"], True, prompts=1)
    assert scores(alone)[0] == [(i, pytest.approx(v, abs=1e-4)) for i, v in scores(whole)[0]]


def test_a_resumed_run_finds_the_same(tmp_path: Any) -> None:
    class Killed(Exception):
        pass

    def kill(batch: Any, rows: Any) -> None:
        seen.append(batch)
        if len(seen) == 12:
            raise Killed

    seen: list[Any] = []
    whole = searched(Dfs(), True)
    with pytest.raises(Killed):
        searched(Dfs(), True, folder=tmp_path / "run", on_batch=kill)
    assert any(batch.steps for batch in seen)
    assert_alike(whole, searched(Dfs(), True, folder=tmp_path / "run"))


# ---------------------------------------------------------------- what is measured about a model


class Denoiser(nn.Module):
    """x t, by the timestep of each row, of the first row, or not at all for several timesteps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.rows = kind, 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.rows += len(x)
        if self.kind == "fails" and t.numel() > 1:
            raise ValueError("one timestep, please")
        t = t.reshape(-1)
        return x * (t[0] if self.kind == "first" else t.reshape(-1, 1))


def row_steps(at: tuple[int, ...] = (2, 0, 1)) -> RowSteps:
    timesteps = {("denoiser", 0): {"1": (torch.tensor([900.0, 500.0, 100.0]), 0)}}
    return RowSteps(Steps(timesteps, [{}, {}, {}]), at)


@pytest.mark.parametrize(("kind", "taken"), [("row", True), ("first", False), ("fails", False)])
def test_a_model_is_measured_once(kind: str, taken: bool) -> None:
    model, steps, place = Denoiser(kind), row_steps(), ("denoiser", 0)
    x = torch.arange(1.0, 7.0).reshape(6, 1)  # [2 copies of guidance x 3, 1]
    for repeat in range(2):
        before = model.rows
        if taken:
            rows = steps.check(place, model, model, (x, torch.tensor(500.0)), {})
            assert rows == model.rows - before == (0 if repeat else 8)
        else:
            with pytest.raises(StepsStayApart):
                steps.check(place, model, model, (x, torch.tensor(500.0)), {})
            assert model.rows == before or not repeat
    if taken:
        args, kwargs = steps.arguments(place, (x, torch.tensor(500.0)), {})
        expected = x * torch.tensor([100.0, 900, 500, 100, 900, 500])[:, None]
        assert torch.equal(model(*args, **kwargs), expected)


def test_a_model_without_a_timestep_stays_apart() -> None:
    with pytest.raises(StepsStayApart):
        row_steps().check(("other", 0), Denoiser("row"), Denoiser("row"), (torch.zeros(3, 1),), {})


def test_equality_of_arguments_looks_into_what_they_hold() -> None:
    one = {"a": [torch.ones(2), None], "b": (1, "x")}
    assert same(one, {"a": [torch.ones(2), None], "b": (1, "x")})
    assert not same(one, {"a": [torch.zeros(2), None], "b": (1, "x")})
    assert not same(one, {"a": [torch.ones(2), None], "b": (2, "x")})
    assert not same(torch.ones(2), torch.ones(2).double())


# ---------------------------------------------------------------- pipelines


def fine(media: Any, prompts: Any) -> Tensor:
    """Mean of the pixels before they are rounded to 8 bits: no ties."""
    return 255 * media.pixels.double().flatten(1).mean(1)


class Seen:
    """The steps of every batch that a pipeline's loop was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[Any] = []
        opened = serving_driver.ServingDriver._open

        def noting(driver: Any, batch: Any) -> Any:
            self.batches.append(batch)
            return opened(driver, batch)

        monkeypatch.setattr(serving_driver.ServingDriver, "_open", noting)

    def mixed(self) -> int:
        """How many held several steps; forgets them."""
        found = sum(len(set(batch.steps or ())) > 1 for batch in self.batches)
        self.batches.clear()
        return found


def totals(pipe: Any, family: str, sampler: str, **options: Any) -> list[list[tuple[int, float]]]:
    call = options.pop("call", {})
    scaled = genscale.scale(pipe, sampler, fine, batch_size=8, **options)
    arguments = ZOO[family].arguments(4) | {"output_type": "np", "num_inference_steps": 5} | call
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    found = scaled(**arguments | {"generator": generators}).search
    return [[(e.candidate.id, float(e.total)) for e in s.finals] for s in found.searches]


def gap(one: Any, other: Any) -> float:
    """The largest difference of two lists of scores; inf where the candidates are not the same."""
    if [[i for i, _ in s] for s in one] != [[i for i, _ in s] for s in other]:
        return float("inf")
    pairs = [(a, b) for s, t in zip(one, other, strict=True) for (_, a), (_, b) in zip(s, t, strict=True)]
    return max(abs(a - b) for a, b in pairs)


def apart_and_mixed(
    monkeypatch: pytest.MonkeyPatch, pipe: Any, family: str, sampler: str, **options: Any
) -> tuple[Any, Any, int]:
    """Scores with one step a batch, and with several; how many batches held several."""
    seen = Seen(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(serve, "study_steps", lambda call: None)
        apart = totals(pipe, family, sampler, **options)
    assert not seen.mixed()
    return apart, totals(pipe, family, sampler, **options), seen.mixed()


FAMILIES = ("stable_diffusion", "sdxl", "sd3", "flux", "wan")
MORE = ("lumina2", "qwen_image", "pixart_sigma", "ltx", "flux_true_cfg", "sdxl_controlnet")


@pytest.mark.parametrize("family", quick((*FAMILIES, *MORE), ("flux",)))
def test_a_pipeline_finds_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    apart, mixed, count = apart_and_mixed(
        monkeypatch, ZOO[family].build(), family, "dfs", paths=6, quantile=0.7
    )
    assert count > 0
    assert gap(apart, mixed) < TOLERANCE


SCHEDULERS = (
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "UniPCMultistepScheduler",
    "LMSDiscreteScheduler",
)


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    ("sampler", "options"), [("dfs", {"paths": 6, "quantile": 0.7}), ("zero_order", {"rounds": 2})]
)
def test_schedulers_that_scale_and_remember(
    scheduler: str, sampler: str, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = with_scheduler(ZOO["stable_diffusion"].build(), scheduler)
    apart, mixed, count = apart_and_mixed(monkeypatch, pipe, "stable_diffusion", sampler, **options)
    assert count > 0 or sampler != "dfs"
    assert gap(apart, mixed) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("what", ["timesteps", "scaling", "calls"])
def test_rows_with_what_belongs_to_others_are_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken twins: rows get each other's timestep or scaling, or are stepped with the first row's timestep."""
    if what == "calls":
        monkeypatch.setattr(serving_driver.ServingDriver, "_steps", property(_first_call), raising=True)
    else:
        right = getattr(RowSteps, "arguments" if what == "timesteps" else "scaled")

        def wrong(steps: RowSteps, *args: Any) -> Any:
            return right(RowSteps(steps.steps, steps.at[::-1]), *args)

        monkeypatch.setattr(RowSteps, right.__name__, wrong)
    pipe = with_scheduler(
        ZOO["stable_diffusion"].build(), "DDIMScheduler" if what == "calls" else "EulerDiscreteScheduler"
    )
    apart, mixed, count = apart_and_mixed(monkeypatch, pipe, "stable_diffusion", "dfs", paths=6, quantile=0.7)
    assert count > 0
    assert gap(apart, mixed) > TOLERANCE


def _first_call(driver: Any) -> Steps:
    found = driver.exchange.steps
    return Steps(found.timesteps, [found.calls[0]] * len(found.calls), found.scaling)


def test_a_callback_keeps_steps_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    call = {"callback_on_step_end": lambda pipe, step, timestep, tensors: {}}
    totals(ZOO["flux"].build(), "flux", "dfs", paths=5, call=call)
    assert not seen.mixed()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["wan22", "z_image"])
def test_two_experts_and_loops_of_their_own_rows_stay_apart(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    totals(ZOO[family].build(), family, "dfs", paths=5)
    assert not seen.mixed()


def test_guidance_for_a_part_of_the_run_stays_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk alone tells it: the outputs are combined otherwise at some steps."""
    reasons: list[str] = []
    inner = step_study.StepStudy.on_step

    def noting(study: Any, call: Any) -> Any:
        # As a loop would that rescales its guidance in the second half of the run.
        if study.index >= 3:
            call = call | {"model_output": 2 * call["model_output"]}
        try:
            return inner(study, call)
        except step_study.DependsOnStep as why:
            reasons.append(str(why))
            raise

    monkeypatch.setattr(step_study.StepStudy, "on_step", noting)
    seen = Seen(monkeypatch)
    totals(ZOO["flux"].build(), "flux", "dfs", paths=5)
    assert reasons == ["the outputs are combined otherwise at step 3"]
    assert not seen.mixed()


@pytest.mark.parametrize("kind", ["first", "fails"])
def test_a_pipeline_whose_model_takes_one_timestep(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several timesteps its model takes the first, or it fails: then every batch holds one step again."""
    pipe = ZOO["flux"].build()
    forward = pipe.transformer.forward

    def one_timestep(*args: Any, **kwargs: Any) -> Any:
        t = kwargs["timestep"]
        if kind == "fails" and not bool((t == t[0]).all()):
            raise ValueError("one timestep, please")
        return forward(*args, **kwargs | {"timestep": t[:1].expand(len(t))})

    pipe.transformer.forward = one_timestep
    apart, mixed, count = apart_and_mixed(monkeypatch, pipe, "flux", "dfs", paths=5)
    assert count == 1  # the one at which it was measured
    assert gap(apart, mixed) < TOLERANCE
    assert not any(mixed_steps._measured[pipe.transformer].values())
