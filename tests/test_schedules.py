"""Every diffusers scheduler against its own arithmetic, step by step with random model outputs.

diffusers keeps its tables in float32; here they are made float64, so that agreement can be asked to 1e-10
and rounding cannot hide an error. Steps that work in float32 all the same are compared to 2e-5.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.diffusion.prediction import Limit, View
from genscale.pipelines.scheduler_levels import FAMILIES, read_schedule

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

STEPS = 6
SHAPE = (2, 3, 4, 4)
TABLES = ("alphas_cumprod", "final_alpha_cumprod", "one", "sigmas", "sigmas_interpol", "alphas", "betas")
SINGLE = ("EulerDiscrete", "EulerAncestral", "EDMEuler", "FlowMatch", "LTXEuler", "SCM", "DDPMWuerstchen")


@dataclass(frozen=True)
class Case:
    """A scheduler class, its config, and what set_timesteps and step are given."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=lambda: {"num_inference_steps": STEPS})
    step: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return ",".join([self.name, *(f"{k}={v}" for k, v in self.config.items())])

    def build(self, exact: bool = True) -> Any:
        scheduler = _class(self.name + "Scheduler")(**self.config)
        scheduler.set_timesteps(**self.setup)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # by timestep it is found wrongly where timesteps repeat
        scheduler.noise_sampler = lambda a, b: torch.zeros(1)  # of the two that need torchsde for their noise
        for table in TABLES:
            if exact and isinstance(getattr(scheduler, table, None), Tensor):
                setattr(scheduler, table, getattr(scheduler, table).double())
        return scheduler

    @property
    def tolerance(self) -> float:
        return 2e-5 if self.name.startswith(SINGLE) else 1e-10

    @property
    def in_noise_space(self) -> bool:
        algorithm = self.config.get("algorithm_type", "deis" if "DEIS" in self.name else "")
        return self.config.get("predict_x0") is False or algorithm in (
            "dpmsolver",
            "deis",
            "noise_prediction",
        )


def _class(name: str) -> Any:
    files = {"DPMSolverSDE": "dpmsolver_sde", "CosineDPMSolverMultistep": "cosine_dpmsolver_multistep"}
    file = files.get(name.removesuffix("Scheduler"))
    if not hasattr(diffusers, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    if file is None or importlib.util.find_spec("torchsde"):
        return getattr(diffusers, name)
    before = set(sys.modules)
    sys.modules["torchsde"] = types.ModuleType("torchsde")
    try:
        return getattr(importlib.import_module(f"diffusers.schedulers.scheduling_{file}"), name)
    finally:  # leave nothing behind that was imported with the stand-in
        for module in {m for m in sys.modules if "schedulers.scheduling" in m} - before | {"torchsde"}:
            del sys.modules[module]


def _cases(names: str, *configs: dict[str, Any], kinds: str = "", **rest: Any) -> list[Case]:
    """One case for each class, config and prediction type."""
    return [
        Case(name, config | ({"prediction_type": kind} if kind else {}), **rest)
        for name in names.split()
        for config in configs or ({},)
        for kind in kinds.split() or [""]
    ]


ALL, TWO = "epsilon sample v_prediction", "epsilon v_prediction"
SIGMAS = ({}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})
SPACINGS = tuple({"timestep_spacing": s} for s in ("leading", "trailing", "linspace"))
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
FREE = {"clip_sample": False}
CUT = {"thresholding": True, "sample_max_value": 1.5}
SHORT = {"num_train_timesteps": 50}  # these work through a grid of all training steps when they are made
LAST = {"final_sigmas_type": "sigma_min"}
FLOW = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
DYNAMIC = {"use_dynamic_shifting": True, "time_shift_type": "exponential"}
MU = {"num_inference_steps": STEPS, "mu": 0.7}
ONE = {"solver_order": 1}
UNIPC_ONE = {**ONE, "disable_corrector": list(range(STEPS))}

WITH_ESTIMATE = [  # step() returns pred_original_sample
    *_cases("DDIM DDPM", *({**s, **FREE} for s in SPACINGS), CUT, {}, kinds=ALL),
    *_cases("DDIM DDPM CogVideoXDDIM", {**ZERO, **FREE}, kinds="sample v_prediction"),
    *_cases("DDIM", {"clip_sample_range": 0.7}, kinds=ALL),
    *_cases("DDIMParallel DDPMParallel", FREE, kinds=ALL),
    *_cases("DDPM", {"variance_type": "learned_range", **FREE}),
    *_cases("UnCLIP", {}, FREE, kinds="epsilon sample"),
    *_cases("CogVideoXDDIM", {}, {"snr_shift_scale": 1.0}, kinds=ALL),
    *_cases("EulerDiscrete", *SIGMAS, *SPACINGS, ZERO, LAST, {"interpolation_type": "log_linear"}, kinds=ALL),
    *_cases("EulerDiscrete", {"timestep_type": "continuous", "use_karras_sigmas": True}, kinds=TWO),
    *_cases("EulerAncestralDiscrete", *SPACINGS, ZERO, kinds=TWO),
    *_cases("HeunDiscrete", *({**s, **SHORT} for s in SIGMAS + SPACINGS), {"clip_sample": True}, kinds=ALL),
    *_cases("LMSDiscrete", *({**s, **SHORT} for s in SIGMAS), kinds=ALL),
    *_cases("KDPM2Discrete KDPM2AncestralDiscrete", *({**s, **SHORT} for s in SIGMAS + SPACINGS), kinds=TWO),
    *_cases("DPMSolverSDE", *({**s, **SHORT} for s in SIGMAS), kinds=TWO),
    *_cases("EDMEuler", {}, {"sigma_data": 1.3}, {"sigma_schedule": "exponential"}, kinds=TWO),
    *_cases("SCM", setup={"num_inference_steps": 2, "max_timesteps": 1.5708}),
]
CONVERTED = [  # convert_model_output gives x0, or eps for the algorithms that work in noise space
    *_cases("DPMSolverMultistep DEISMultistep UniPCMultistep SASolver", *SIGMAS, *SPACINGS, CUT, kinds=ALL),
    *_cases("DPMSolverSinglestep", *SIGMAS, CUT, {"solver_order": 3}, kinds=ALL),
    *_cases("DPMSolverMultistep UniPCMultistep", ZERO, kinds=ALL),
    *_cases("DPMSolverMultistep", {"use_lu_lambdas": True}, {"lambda_min_clipped": -3.0}, kinds=ALL),
    *_cases("DPMSolverMultistep", {"algorithm_type": "dpmsolver", **LAST, **CUT}, kinds=ALL),
    *_cases("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, kinds=ALL),
    *_cases("UniPCMultistep", {"predict_x0": False, **CUT}, kinds=ALL),
    *_cases("SASolver", {"algorithm_type": "noise_prediction"}, kinds=ALL),
    *_cases("DPMSolverMultistep DPMSolverSinglestep DEISMultistep UniPCMultistep SASolver", FLOW),
    *_cases(
        "DPMSolverMultistep", {**FLOW, "prediction_type": "epsilon"}, {**FLOW, "prediction_type": "sample"}
    ),
    *_cases("DPMSolverMultistep UniPCMultistep", {**FLOW, **DYNAMIC}, setup=MU),
    *_cases("UniPCMultistep", {**FLOW, "use_karras_sigmas": True}, {**FLOW, "shift_terminal": 0.1}),
    *_cases("EDMDPMSolverMultistep", {}, CUT, {"sigma_schedule": "exponential"}, kinds=TWO),
    *_cases("CosineDPMSolverMultistep", {}, {"sigma_data": 0.5}, kinds=TWO),
]
FIRST_ORDER = [  # a deterministic first-order step is x' = alpha' x0 + sigma' eps, the last one included
    *_cases(
        "DDIM CogVideoXDDIM",
        *({**s, **FREE} for s in SPACINGS[:2]),
        kinds=ALL,
        setup={"num_inference_steps": 8},
    ),
    *_cases("DDIM", {"set_alpha_to_one": False, **FREE}, kinds=ALL, setup={"num_inference_steps": 8}),
    *_cases("DDIM", {**SPACINGS[1], **SHORT, **FREE}, setup={"num_inference_steps": 50}),
    *_cases("DDIM CogVideoXDDIM", {**ZERO, **FREE}, kinds="v_prediction", setup={"num_inference_steps": 8}),
    *_cases("TCD", kinds=ALL, step={"eta": 0.0}),
    *_cases("EulerDiscrete", *SIGMAS, ZERO, LAST, kinds=ALL),
    *_cases("LMSDiscrete", kinds=ALL, step={"order": 1}),
    *_cases("EDMEuler", {}, LAST, kinds=TWO),
    *_cases("DPMSolverMultistep DPMSolverSinglestep", ONE, {**ONE, **LAST}, kinds=ALL),
    *_cases("DPMSolverMultistep", {**ONE, "algorithm_type": "dpmsolver", **LAST}, {**ONE, **ZERO}, kinds=ALL),
    *_cases("DEISMultistep", ONE, {**ONE, "use_karras_sigmas": True}, kinds=ALL),
    *_cases("UniPCMultistep", UNIPC_ONE, {**UNIPC_ONE, **FLOW}),
    *_cases("DPMSolverMultistep DEISMultistep", {**ONE, **FLOW}),
    *_cases("EDMDPMSolverMultistep", ONE, kinds=TWO),
    *_cases(
        "FlowMatchEulerDiscrete", {"shift": 3.0}, *SIGMAS, {"shift_terminal": 0.1}, {"invert_sigmas": True}
    ),
    *_cases("FlowMatchEulerDiscrete", DYNAMIC, {**DYNAMIC, "invert_sigmas": True}, setup=MU),
    *_cases("LTXEulerAncestralRF", {"eta": 0.0}),
    *_cases("MiniMaxH3"),
]


def _close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Largest difference, relative to the largest number."""
    assert ours.shape == theirs.shape
    error = float((ours.double() - theirs.double()).abs().max() / theirs.abs().max())
    assert error <= tolerance  # and not for nan


def _view(scheduler: Any) -> View:
    """Of the loop that pipelines run: where timesteps hold the end, too, they leave it out."""
    ends = ("SCMScheduler", "DDPMWuerstchenScheduler")
    return read_schedule(scheduler, scheduler.timesteps[: -1 if type(scheduler).__name__ in ends else None])


def _level(view: View, i: int, x0: Tensor, eps: Tensor) -> Tensor:
    return view.schedule.alpha[i] * x0 + view.schedule.sigma[i] * eps


@dataclass(frozen=True)
class Call:
    """One step of a run: what went in, and what the scheduler made of it."""

    i: int
    t: Any
    output: Tensor
    x: Tensor
    converted: Tensor | None  # of convert_model_output, where there is one
    result: Any  # of step
    after: Tensor


def _run(case: Case, scheduler: Any, steps: int) -> Iterator[Call]:
    draws = torch.Generator().manual_seed(len(str(case)))
    x = torch.randn(SHAPE, generator=draws, dtype=torch.float64) * getattr(scheduler, "init_noise_sigma", 1.0)
    wide = (2, 6, 4, 4) if "variance_type" in case.config else SHAPE
    for i, t in enumerate(scheduler.timesteps[:steps]):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        output = torch.rand(wide, generator=draws, dtype=torch.float64) * 2 - 1
        converted = None
        if hasattr(scheduler, "convert_model_output"):
            if scheduler.step_index is None:
                scheduler._init_step_index(t)
            converted = scheduler.convert_model_output(output, sample=x)
        result = scheduler.step(output, t, x, **case.step)
        after = result.prev_sample.double()
        yield Call(i, t, output, x, converted, result, after)
        x = after


def _compare(case: Case, view: View, scheduler: Any) -> None:
    for call in _run(case, scheduler, view.schedule.steps):
        x0, eps = view.clean_and_noise(call.i, call.output, call.x)
        _close(_level(view, call.i, x0, eps), call.x, 1e-10)
        if call.converted is not None:
            _close(eps if case.in_noise_space else x0, call.converted, case.tolerance)
        else:
            _close(x0, call.result.pred_original_sample, case.tolerance)


@pytest.mark.parametrize("case", WITH_ESTIMATE + CONVERTED, ids=str)
def test_clean_estimates_are_the_scheduler_s_own(case: Case) -> None:
    scheduler = case.build()
    view = _view(scheduler)
    assert view.schedule.steps == len(scheduler.timesteps) - (case.name == "SCM")
    _compare(case, view, scheduler)


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "KDPM2Discrete", "UniPCMultistep", "EDMEuler"])
def test_the_comparison_notices_levels_that_are_off_by_one(name: str) -> None:
    case = Case(name, SHORT if "KDPM2" in name else {})
    view = _view(case.build())
    level = view.schedule
    wrong = replace(view, schedule=NoiseSchedule(level.alpha.roll(-1), level.sigma.roll(-1)))
    with pytest.raises(AssertionError):
        _compare(case, wrong, case.build())


@pytest.mark.parametrize("case", FIRST_ORDER, ids=str)
def test_first_order_steps_go_to_the_next_row(case: Case) -> None:
    scheduler = case.build()
    view = _view(scheduler)
    tolerance = 2e-5 if case.name == "DPMSolverMultistep" else case.tolerance  # it steps in float32
    for call in _run(case, scheduler, view.schedule.steps):
        pair = view.clean_and_noise(call.i, call.output, call.x)
        _close(_level(view, call.i + 1, *pair), call.after, tolerance)
    clean = case.config.get("final_sigmas_type") != "sigma_min" and "DEIS" not in case.name
    assert clean == bool(view.schedule.sigma[-1] == 0) or case.name in ("TCD", "DDIM")


def _set(name: str, **config: Any) -> Any:
    return Case(name, config).build()


X, OUTPUT, NOISE = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


ADD_NOISE = (
    "DDIM DDPM PNDM LCM TCD CogVideoXDDIM CogVideoXDPM UnCLIP DDPMWuerstchen EulerDiscrete "
    "EulerAncestralDiscrete HeunDiscrete LMSDiscrete EDMEuler EDMDPMSolverMultistep DPMSolverMultistep "
    "DPMSolverSinglestep UniPCMultistep DEISMultistep SASolver FlowMatchEulerDiscrete FlowMatchLCM MiniMaxH3"
)


@pytest.mark.parametrize("name", ADD_NOISE.split())
def test_levels_are_those_that_the_scheduler_adds_noise_to(name: str) -> None:
    scheduler = _set(name)
    view = _view(scheduler)
    for i in range(view.schedule.steps):
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(i)
        t = scheduler.timesteps[i].expand(2)
        if hasattr(scheduler, "scale_noise"):
            theirs = scheduler.scale_noise(X, t, NOISE)
        else:
            theirs = scheduler.add_noise(X, NOISE, t)
        _close(_level(view, i, X, NOISE), theirs, 1e-6 if name in ("DDPMWuerstchen", "SASolver") else 1e-10)


def test_ddim_steps_by_a_fixed_jump_and_not_to_the_next_entry() -> None:
    """With 28 of 1000 the last jump is from 35 to 0, not to the end; rows between keep the table's level."""
    case = Case("DDIM", {**FREE, **SPACINGS[1]}, {"num_inference_steps": 28})
    view = _view(case.build())
    *_, last = _run(case, case.build(), 28)
    pair = view.clean_and_noise(27, last.output, last.x)
    _close(_level(view, 28, *pair), last.after, 1e-10)
    assert view.schedule.sigma[-1] > 0


@pytest.mark.parametrize("kind", TWO.split())
@pytest.mark.parametrize("skip", [True, False])
def test_pndm(kind: str, skip: bool) -> None:
    """Its state-free part carries latents from any level to any other."""
    scheduler = _set("PNDM", prediction_type=kind, skip_prk_steps=skip)
    view, t = _view(scheduler), scheduler.timesteps
    for i in range(len(t)):
        pair = view.clean_and_noise(i, OUTPUT, X)
        for j in range(len(t)):
            if t[i] != t[j]:
                _close(_level(view, j, *pair), scheduler._get_prev_sample(X, t[i], t[j], OUTPUT), 1e-8)
    assert float(view.schedule.alpha[-1] ** 2) == pytest.approx(
        float(scheduler.final_alpha_cumprod), rel=1e-14
    )


@pytest.mark.parametrize("kind", ALL.split())
def test_lcm(kind: str) -> None:
    """The estimate is what its boundary condition is then applied to."""
    scheduler = _set("LCM", prediction_type=kind)
    view = _view(scheduler)
    for i, t in enumerate(scheduler.timesteps):
        x0, _ = view.clean_and_noise(i, OUTPUT, X)
        keep, change = scheduler.get_scalings_for_boundary_condition_discrete(t)
        _close(change * x0 + keep * X, scheduler.step(OUTPUT, t, X).denoised, 1e-10)
    assert view.schedule.sigma[-1] == 0


@pytest.mark.parametrize("kind", ALL.split())
def test_cogvideox_dpm(kind: str) -> None:
    scheduler = _set("CogVideoXDPM", prediction_type=kind)
    view, t = _view(scheduler), scheduler.timesteps
    for i in range(STEPS):
        theirs = scheduler.step(OUTPUT, None, t[i], None, X, return_dict=False)[1]
        _close(view.clean_and_noise(i, OUTPUT, X)[0], theirs, 1e-10)


def test_flow_heun() -> None:
    """A second-order step adds half of both velocities."""
    scheduler = _set("FlowMatchHeunDiscrete", shift=3.0)
    view, x = _view(scheduler), X
    assert view.schedule.steps == 2 * STEPS - 1
    for call in _run(Case("FlowMatchHeunDiscrete"), scheduler, 2 * STEPS - 1):
        x0, eps = view.clean_and_noise(call.i, call.output, call.x)
        if call.i % 2 == 0:
            _close(_level(view, call.i + 1, x0, eps), call.after, 2e-5)
            x, velocity = call.x, eps - x0
        else:
            jump = view.schedule.sigma[call.i] - view.schedule.sigma[call.i - 1]
            _close(x + jump * (velocity + eps - x0) / 2, call.after, 2e-5)


def test_flow_lcm() -> None:
    scheduler = _set("FlowMatchLCM", shift=3.0)
    view = _view(scheduler)
    for i, t in enumerate(scheduler.timesteps):
        after = scheduler.step(OUTPUT, t, X, generator=torch.Generator().manual_seed(7)).prev_sample
        fresh = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        _close(_level(view, i + 1, view.clean_and_noise(i, OUTPUT, X)[0], fresh), after, 2e-5)


def test_ipndm() -> None:
    """Its first step is of first order. From pure noise it loses x0: diffusers divides 0 by 1e-8 there."""
    for i in range(1, STEPS):
        scheduler = _set("IPNDM")
        view = _view(scheduler)
        scheduler.set_begin_index(i)
        after = scheduler.step(OUTPUT, scheduler.timesteps[i], X).prev_sample
        _close(_level(view, i + 1, *view.clean_and_noise(i, OUTPUT, X)), after, 1e-7)


def test_wuerstchen() -> None:
    """Its step is the DDPM posterior; the last one adds no noise, though its end is not quite clean."""
    scheduler = _set("DDPMWuerstchen")
    view = _view(scheduler)
    for i in range(STEPS - 1):
        draws = torch.Generator().manual_seed(7)
        after = scheduler.step(OUTPUT, scheduler.timesteps[i].expand(2), X, draws).prev_sample
        noise = torch.randn(SHAPE, generator=draws.manual_seed(7), dtype=torch.float64)
        x0, eps = view.clean_and_noise(i, OUTPUT, X)
        (a, b), (s, r) = view.schedule.alpha[i : i + 2], view.schedule.sigma[i : i + 2]
        variance = (1 - (a / b) ** 2) * r**2 / s**2
        _close(b * x0 + (r**2 - variance).sqrt() * eps + variance.sqrt() * noise, after, 1e-4)


# --- parts of a run, refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["DDIM", "EulerDiscrete", "HeunDiscrete", "KDPM2Discrete", "FlowMatchEulerDiscrete"]
)
def test_a_part_of_a_run_is_a_part_of_its_levels(name: str) -> None:
    scheduler = _set(name, **(SHORT if "KDPM2" in name else {}))
    whole, t = _view(scheduler).schedule, scheduler.timesteps
    tail = read_schedule(scheduler, t[2:], start=2).schedule
    assert torch.equal(tail.sigma, whole.sigma[2:])
    head = read_schedule(scheduler, t[:4]).schedule
    assert torch.equal(head.alpha, whole.alpha[:5])
    assert head.sigma[-1] > 0  # a base model that leaves the rest to a refiner


def test_levels_lie_between_for_interleaved_solvers() -> None:
    kdpm2, sde = _view(_set("KDPM2Discrete", **SHORT)).schedule, _view(_set("DPMSolverSDE", **SHORT)).schedule
    for schedule in (kdpm2, sde):
        assert schedule.steps == 2 * STEPS - 1
        middle = (schedule.sigma[:-2:2] * schedule.sigma[2::2]).sqrt()
        torch.testing.assert_close(schedule.sigma[1:-1:2], middle, rtol=1e-6, atol=0)


def test_float32_as_pipelines_use_it() -> None:
    for name in ("DDIM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "EDMEuler"):
        scheduler = Case(name).build(exact=False)
        view = _view(scheduler)
        x = X.float() * scheduler.init_noise_sigma
        for i, t in enumerate(scheduler.timesteps):
            scheduler.scale_model_input(x, t)
            result = scheduler.step(OUTPUT.float(), t, x)
            _close(view.clean_and_noise(i, OUTPUT.float(), x)[0], result.pred_original_sample, 1e-5)
            x = result.prev_sample


def test_flags_of_other_classes_count_for_nothing() -> None:
    """`from_config` keeps what it does not know: DDIM videos, DPM-Solver made from it does not."""
    made = diffusers.DPMSolverMultistepScheduler.from_config(diffusers.DDIMScheduler(clip_sample=True).config)
    made.set_timesteps(STEPS)
    assert made.config["clip_sample"]
    assert _view(made).limit is None
    assert _view(_set("DDIM", clip_sample=True)).limit == Limit(1.0)
    assert _view(_set("TCD", clip_sample=True)).limit is None
    euler = diffusers.EulerDiscreteScheduler.from_config(
        diffusers.UniPCMultistepScheduler(use_flow_sigmas=True).config
    )
    euler.set_timesteps(STEPS)
    assert torch.equal(_view(euler).schedule.alpha, torch.ones(STEPS + 1, dtype=torch.float64))


def test_subclasses_are_read_as_what_they_derive_from() -> None:
    class Mine(diffusers.DDIMScheduler):  # type: ignore[misc]
        pass

    scheduler = Mine()
    scheduler.set_timesteps(STEPS)
    assert torch.equal(_view(scheduler).schedule.sigma, _view(Case("DDIM").build(exact=False)).schedule.sigma)


def test_reading_changes_nothing() -> None:
    scheduler = _set("HeunDiscrete")
    before = {k: v.clone() if isinstance(v, Tensor) else v for k, v in vars(scheduler).items()}
    _view(scheduler)
    assert all(
        torch.equal(v, before[k]) if isinstance(v, Tensor) else v is before[k]
        for k, v in vars(scheduler).items()
    )


def test_every_class_that_is_read_is_tested_here() -> None:
    by_hand = {
        "PNDM",
        "LCM",
        "CogVideoXDPM",
        "FlowMatchHeunDiscrete",
        "FlowMatchLCM",
        "IPNDM",
        "DDPMWuerstchen",
    }
    tested = {case.name for case in WITH_ESTIMATE + CONVERTED + FIRST_ORDER} | by_hand
    assert {name.removesuffix("Scheduler") for name in FAMILIES} == tested


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("DDIMInverse", {}, "nothing is known about this class"),
    ("CMStochasticIterative", {}, "nothing is known about this class"),
    ("DDIM", {"prediction_type": "score"}, "prediction type score.*is unknown"),
    ("EDMEuler", {"prediction_type": "sample"}, "prediction type sample.*is unknown"),
    ("UniPCMultistep", {"prediction_type": "flow_prediction"}, "no meaning with use_flow_sigmas=False"),
    ("UniPCMultistep", {**FLOW, "prediction_type": "v_prediction"}, "no meaning with use_flow_sigmas=True"),
]


@pytest.mark.parametrize(("name", "config", "found"), REFUSED)
def test_refusals_say_what_was_found_and_what_to_do(name: str, config: dict[str, Any], found: str) -> None:
    scheduler = Case(name, config).build()
    with pytest.raises(ValueError, match=found) as refusal:
        read_schedule(scheduler, scheduler.timesteps)
    assert str(refusal.value).startswith(f"the noise levels of {name}Scheduler")
    assert "best_of_n" in str(refusal.value)


def test_what_is_no_scheduler_or_not_yet_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of object .*nothing is known"):
        read_schedule(object(), torch.zeros(1))
    with pytest.raises(ValueError, match="set_timesteps was not called"):
        read_schedule(diffusers.PNDMScheduler(), torch.zeros(1))


def test_loops_that_are_not_the_scheduler_s_are_refused() -> None:
    scheduler = _set("HeunDiscrete")
    t = scheduler.timesteps
    for timesteps, start in [(t[1:], 0), (t, 1), (t + 1, 0), (t.flip(0), 0), (t[None], 0), (t[-2:], -2)]:
        with pytest.raises(ValueError, match="timesteps are not its own"):
            read_schedule(scheduler, timesteps, start)
    with pytest.raises(ValueError, match="middle of a second-order step"):
        read_schedule(scheduler, t[3:], 3)
    trigonometric = Case("SCM", setup={"num_inference_steps": 2}).build()
    with pytest.raises(ValueError, match="needs 4 noise levels and it has 3"):
        read_schedule(trigonometric, trigonometric.timesteps)
