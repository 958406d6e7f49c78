"""Reads from a diffusers scheduler the noise level of every model call, and its prediction type.

Every scheduler class stores these differently, so the table FAMILIES at the end lists each class.
Checked against the arithmetic of the classes in diffusers 0.42.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genscale.diffusion.interpolants import LINEAR
from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.diffusion.prediction import Limit, View

Levels = tuple[Tensor, Tensor]  # alpha, sigma for every entry of scheduler.timesteps and for the end
Meaning = dict[str, Any]  # kind, gain, data_std of a View

KINDS = {
    "epsilon": "epsilon",
    "sample": "sample",
    "original_sample": "sample",
    "v_prediction": "v_prediction",
    "flow_prediction": "flow",
}


def read_schedule(scheduler: Any, timesteps: Tensor, start: int = 0) -> View:
    """The noise levels of a pipeline's loop and the meaning of its model outputs.

    scheduler: any diffusers scheduler after `set_timesteps`. timesteps: those of the loop [steps], a
    contiguous part of `scheduler.timesteps` that begins at index `start` (img2img drops the first ones,
    SDXL with a refiner the last ones). Row i of the schedule belongs to timesteps[i]. The last row is
    where the loop ends: not clean for a shortened loop, nor where a scheduler stops at its smallest
    noise level. Reads, changes nothing. ValueError: the scheduler cannot be read.
    """
    family = next((FAMILIES[c.__name__] for c in type(scheduler).__mro__ if c.__name__ in FAMILIES), None)
    if family is None:
        raise _unreadable(scheduler, "nothing is known about this class")
    if getattr(scheduler, "timesteps", None) is None:
        raise _unreadable(scheduler, "set_timesteps was not called")
    full, wanted = _double(scheduler.timesteps), _double(timesteps)
    part = full[start : start + len(wanted)] if start >= 0 and wanted.ndim == 1 else full[:0]
    if part.shape != wanted.shape or not torch.allclose(part, wanted):
        raise _unreadable(scheduler, f"the loop's timesteps are not its own ones from index {start} on")
    if getattr(scheduler, "order", 1) == 2 and start % 2:
        raise _unreadable(scheduler, f"a loop from index {start} begins in the middle of a second-order step")
    alpha, sigma = family.levels(scheduler)
    end = start + len(wanted) + 1
    if len(alpha) < end:
        raise _unreadable(scheduler, f"the loop needs {end} noise levels and it has {len(alpha)}")
    return View(
        NoiseSchedule(alpha[start:end], sigma[start:end]),
        learned_variance=str(scheduler.config.get("variance_type")).startswith("learned"),
        limit=_limit(scheduler.config, family.obeys),
        **family.meaning(scheduler),
    )


def timestep_of(scheduler: Any, timesteps: Tensor, view: View, time: float) -> float:
    """The timestep that a model is given for a noise level between those of its grid.

    time: linear time sigma / (alpha + sigma) in (0, 1). Flow models: timesteps are affine in the time of their grid.
    Models with a table of alphas_cumprod were trained on whole timesteps; the ones between are interpolated in log SNR
    as in k-diffusion. ValueError: the scheduler has no such rule.
    """
    kappa = LINEAR.kappa(time)
    name = next((c.__name__ for c in type(scheduler).__mro__ if c.__name__ in FAMILIES), "")
    family = FAMILIES.get(name)
    if family is None:
        raise _unreadable(scheduler, "nothing is known about this class")
    if family.meaning is _edm:
        return float(scheduler.precondition_noise(torch.tensor(kappa, dtype=torch.float64)))
    if scheduler.config.get("timestep_type") == "continuous" and view.kind == "v_prediction":
        return math.log(kappa) / 4  # c_noise of Karras et al. 2022, table 1
    if family.levels in (_linear, _linear_either_way) or (
        family.levels is _either and scheduler.config.get("use_flow_sigmas")
    ):
        return _affine(view.schedule.linear_time, _double(timesteps), time)
    if hasattr(scheduler, "alphas_cumprod") and family.levels is not _trigonometric:
        square = _double(scheduler.alphas_cumprod).clamp(min=1e-12)
        table = ((1 - square) / square).log() / 2
        return float(np.interp(math.log(kappa), table.numpy(), np.arange(len(table))))
    raise _unreadable(scheduler, "it has no rule for timesteps between those of its grid")


def _affine(times: Tensor, timesteps: Tensor, time: float) -> float:
    """Linear through the grid's first and last call; through the origin if there is only one call."""
    n = len(timesteps)
    if n == 1:
        return float(timesteps[0] / times[0]) * time
    slope = (timesteps[0] - timesteps[-1]) / (times[0] - times[n - 1])
    return float(timesteps[0] + slope * (time - times[0]))


def _discrete(end: Callable[[Any], Any]) -> Callable[[Any], Levels]:
    """Variance preserving, levels looked up by timestep. end: alpha^2 after the last step."""

    def levels(scheduler: Any) -> Levels:
        square = _double(scheduler.alphas_cumprod)[_double(scheduler.timesteps).long()]
        square = torch.cat([square, _double(end(scheduler)).reshape(1)])
        return square.sqrt(), (1 - square).sqrt()

    return levels


def _one_jump_on(scheduler: Any) -> Any:
    """DDIM and similar schedulers step by a fixed number of timesteps, not to the next entry."""
    jump = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    last = int(scheduler.timesteps[-1]) - jump
    return scheduler.alphas_cumprod[last] if last >= 0 else scheduler.final_alpha_cumprod


def _exploding(middle: Callable[[Any, Tensor], Tensor] | None = None) -> Callable[[Any], Levels]:
    """k-diffusion, alpha = 1. middle: the level of odd calls of second-order solvers, if between two others."""

    def levels(scheduler: Any) -> Levels:
        calls = len(scheduler.timesteps)
        sigma = _double(scheduler.sigmas)[: calls + 1].clone()
        odd = torch.arange(1, calls, 2)
        if middle is not None:
            sigma[odd] = _double(middle(scheduler, odd))
        return torch.ones_like(sigma), sigma

    return levels


def _halfway(scheduler: Any, odd: Tensor) -> Tensor:
    sigma = _double(scheduler.sigmas)
    return (sigma[odd - 1] * sigma[odd]).sqrt()


def _either(scheduler: Any) -> Levels:
    """Multistep solvers: `sigmas` holds sigma / alpha of a variance preserving run, or sigma of a flow."""
    sigma = _double(scheduler.sigmas)
    if scheduler.config.get("use_flow_sigmas"):
        return 1 - sigma, sigma
    alpha = (1 + sigma**2).rsqrt()
    return alpha, sigma * alpha


def _linear(scheduler: Any) -> Levels:
    sigma = _double(scheduler.sigmas)
    return 1 - sigma, sigma


def _linear_either_way(scheduler: Any) -> Levels:
    """With `invert_sigmas` (Mochi), `sigmas` holds alpha and the network predicts x0 - eps."""
    alpha, sigma = _linear(scheduler)
    return (sigma, alpha) if scheduler.config.get("invert_sigmas") else (alpha, sigma)


def _trigonometric(scheduler: Any) -> Levels:
    """SANA-Sprint: x = cos(t) x0 + data_std sin(t) eps."""
    t = _double(scheduler.timesteps)
    return t.cos().clamp(min=0.0), scheduler.config.sigma_data * t.sin()  # its default 1.5708 exceeds pi / 2


def _cosine(scheduler: Any) -> Levels:
    """Wuerstchen and Stable Cascade: levels are a function of the timestep."""
    square = _double(scheduler._alpha_cumprod(scheduler.timesteps, scheduler.timesteps.device))
    return square.sqrt(), (1 - square).sqrt()


def _as_configured(scheduler: Any) -> Meaning:
    if scheduler.config.prediction_type not in KINDS:
        raise _unreadable(scheduler, "its prediction type is unknown")
    return {"kind": KINDS[scheduler.config.prediction_type]}


def _on_either(scheduler: Any) -> Meaning:
    """A config may combine v-prediction with flow levels, or the reverse; `step` then fits no model."""
    kind, flow = _as_configured(scheduler)["kind"], bool(scheduler.config.get("use_flow_sigmas"))
    if kind == ("v_prediction" if flow else "flow"):
        raise _unreadable(scheduler, f"this has no meaning with use_flow_sigmas={flow}")
    return {"kind": kind}


def _edm(scheduler: Any) -> Meaning:
    """EDM preconditioning; its two prediction types differ in the sign of c_out only."""
    gain = {"epsilon": -1.0, "v_prediction": 1.0}.get(scheduler.config.prediction_type)
    if gain is None:
        raise _unreadable(scheduler, "its prediction type is unknown")
    return {"kind": "v_prediction", "gain": gain, "data_std": float(scheduler.config.sigma_data)}


def _scaled_v(scheduler: Any) -> Meaning:
    std = float(scheduler.config.sigma_data)  # SANA-Sprint passes outputs multiplied by it to `step`
    return {"kind": "v_prediction", "gain": 1 / std, "data_std": std}


def _velocity(scheduler: Any) -> Meaning:
    return {"kind": "flow"}


def _velocity_up(scheduler: Any) -> Meaning:
    return {"kind": "flow", "gain": -1.0}


def _velocity_either_way(scheduler: Any) -> Meaning:
    return _velocity_up(scheduler) if scheduler.config.get("invert_sigmas") else _velocity(scheduler)


def _limit(config: Any, obeys: tuple[str, ...]) -> Limit | None:
    in_noise_space = config.get("predict_x0") is False  # UniPC then skips thresholding
    if "thresholding" in obeys and config.get("thresholding") and not in_noise_space:
        return Limit(config.sample_max_value, config.dynamic_thresholding_ratio)
    if "clip_sample" in obeys and config.get("clip_sample"):
        return Limit(config.clip_sample_range)
    return None


def _double(numbers: Any) -> Tensor:
    return torch.as_tensor(numbers).detach().cpu().double()  # in this order: mps has no float64


def _unreadable(scheduler: Any, found: str) -> ValueError:
    prediction = getattr(scheduler, "config", {}).get("prediction_type", "not set")
    return ValueError(
        f"the noise levels of {type(scheduler).__name__} (prediction type {prediction}) cannot be read: "
        f"{found}; choose another scheduler, or a sampler that needs only initial noise, such as best_of_n"
    )


@dataclass(frozen=True)
class SchedulerFamily:
    """How one kind of scheduler class is read.

    obeys: the limits on clean estimates that `step` applies, of {"thresholding", "clip_sample"}; after `from_config` a
    config may hold such flags of another class, which have no effect.
    """

    levels: Callable[[Any], Levels]
    meaning: Callable[[Any], Meaning] = _as_configured
    obeys: tuple[str, ...] = ()


_BOTH = ("thresholding", "clip_sample")
_DDIM, _DDPM = _discrete(_one_jump_on), _discrete(lambda s: s.one)
_SOLVER = SchedulerFamily(_either, _on_either, ("thresholding",))
_FLOW = SchedulerFamily(_linear, _velocity)

FAMILIES: dict[str, SchedulerFamily] = {
    "DDIMScheduler": SchedulerFamily(_DDIM, obeys=_BOTH),
    "DDIMParallelScheduler": SchedulerFamily(_DDIM, obeys=_BOTH),
    "CogVideoXDDIMScheduler": SchedulerFamily(_DDIM),
    "CogVideoXDPMScheduler": SchedulerFamily(_DDIM),
    "PNDMScheduler": SchedulerFamily(_DDIM),
    "DDPMScheduler": SchedulerFamily(_DDPM, obeys=_BOTH),
    "DDPMParallelScheduler": SchedulerFamily(_DDPM, obeys=_BOTH),
    "UnCLIPScheduler": SchedulerFamily(_DDPM, obeys=("clip_sample",)),
    "LCMScheduler": SchedulerFamily(_discrete(lambda s: 1.0), obeys=_BOTH),
    "TCDScheduler": SchedulerFamily(_discrete(lambda s: s.alphas_cumprod[0])),
    "DDPMWuerstchenScheduler": SchedulerFamily(_cosine, lambda s: {"kind": "epsilon"}),
    "EulerDiscreteScheduler": SchedulerFamily(_exploding()),
    "EulerAncestralDiscreteScheduler": SchedulerFamily(_exploding()),
    "LMSDiscreteScheduler": SchedulerFamily(_exploding()),
    "HeunDiscreteScheduler": SchedulerFamily(_exploding(), obeys=("clip_sample",)),
    "KDPM2DiscreteScheduler": SchedulerFamily(_exploding(lambda s, odd: s.sigmas_interpol[odd])),
    "KDPM2AncestralDiscreteScheduler": SchedulerFamily(_exploding(lambda s, odd: s.sigmas_interpol[odd - 1])),
    "DPMSolverSDEScheduler": SchedulerFamily(_exploding(_halfway)),
    "EDMEulerScheduler": SchedulerFamily(_exploding(), _edm),
    "EDMDPMSolverMultistepScheduler": SchedulerFamily(_exploding(), _edm, ("thresholding",)),
    "CosineDPMSolverMultistepScheduler": SchedulerFamily(_exploding(), _edm),
    "DPMSolverMultistepScheduler": _SOLVER,
    "DPMSolverSinglestepScheduler": _SOLVER,
    "UniPCMultistepScheduler": _SOLVER,
    "DEISMultistepScheduler": _SOLVER,
    "SASolverScheduler": _SOLVER,
    "FlowMatchEulerDiscreteScheduler": SchedulerFamily(_linear_either_way, _velocity_either_way),
    "FlowMatchHeunDiscreteScheduler": _FLOW,
    "FlowMatchLCMScheduler": _FLOW,
    "LTXEulerAncestralRFScheduler": _FLOW,
    "MiniMaxH3Scheduler": SchedulerFamily(_linear, _velocity_up),
    "SCMScheduler": SchedulerFamily(_trigonometric, _scaled_v),
    "IPNDMScheduler": SchedulerFamily(
        lambda s: (_double(s.alphas), _double(s.betas)), lambda s: {"kind": "v_prediction"}
    ),
}
