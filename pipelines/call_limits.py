"""Ranges of the arguments of a pipeline call that decide how much is allocated and computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch

from genscale.errors import UsageError
from genscale.plugins.limits import COUNT, FRAMES, GUIDANCE, SIDE, STEPS, Limits, check_pixels, shown

_COUNTS = {
    "num_inference_steps": STEPS,
    "width": SIDE,
    "height": SIDE,
    "num_frames": FRAMES,
    "num_images_per_prompt": COUNT,
    "num_videos_per_prompt": COUNT,
    "num_waveforms_per_prompt": COUNT,
}
_SCALES = ("guidance_scale", "true_cfg_scale")


def check_call(given: Mapping[str, Any]) -> None:
    """UsageError where an argument is out of range, or no number at all. None: the pipeline's own default."""
    for name, limits in _COUNTS.items():
        value = given.get(name)
        if value is not None and not (_is_whole(value) and limits.admits(value)):
            raise UsageError(f"{name}={shown(value)} must be a whole number, {limits}.")
    for name in _SCALES:
        _check_scale(name, given.get(name), GUIDANCE)
    for name, value in given.items():
        if isinstance(value, float) and math.isnan(value):
            raise UsageError(f"{name}=nan is no number: leave it out, or give one.")
        if name in ("timesteps", "sigmas") and hasattr(value, "__len__") and len(value) > STEPS.most:
            raise UsageError(f"{name} are {len(value):,} steps: a run has {STEPS.most:,} at most.")
    _check_kinds(given)
    check_pixels(given.get("width"), given.get("height"), given.get("num_frames"))


def _check_kinds(given: Mapping[str, Any]) -> None:
    """UsageError for values that only the search reads before the pipeline does, so that it could not refuse them."""
    generator = given.get("generator")
    many = generator if isinstance(generator, list | tuple) else [generator]
    if generator is not None and not (many and all(isinstance(g, torch.Generator) for g in many)):
        raise UsageError(f"generator={shown(generator)} must be a torch.Generator, or a list of them.")
    if isinstance(given.get("prompt"), list | tuple) and not given["prompt"]:
        raise UsageError("prompt=[] holds no prompt: give one.")
    if given.get("latents") is not None and not isinstance(given["latents"], torch.Tensor):
        raise UsageError(f"latents={shown(given['latents'])} must be a tensor.")
    for name in ("callback_on_step_end", "callback"):
        if given.get(name) is not None and not callable(given[name]):
            raise UsageError(f"{name}={shown(given[name])} must be a function.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_scale(name: str, value: Any, limits: Limits) -> None:
    if isinstance(value, Real) and not limits.admits(value):
        raise UsageError(f"{name}={shown(value)} must be a number, {limits}.")
