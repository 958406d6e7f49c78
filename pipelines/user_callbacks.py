"""The user's own callbacks, called in the midst of a search."""

from __future__ import annotations

from typing import Any

import torch

from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.serve import Serve


def _callbacks(arguments: Arguments, driver: Serve) -> dict[str, Any]:
    """The end-of-step callback: the user's after real steps, and ours to hand out latents unedited."""
    user = arguments.given.get("callback_on_step_end")
    if "callback_on_step_end" not in arguments.names or (user is None and not driver.probe.edits):
        return {}

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        if user is not None and (driver.after_real_step or driver.replaying):
            told, drifts = _told(user, pipe, step, timestep, tensors)
            driver.probe.drifts |= drifts
            tensors = tensors | told
        return driver.end_of_step(tensors)

    inputs = getattr(user, "tensor_inputs", None)  # of a PipelineCallback
    return {"callback_on_step_end": callback} | (
        {} if inputs is None else {"callback_on_step_end_tensor_inputs": list(inputs)}
    )


def _told(
    user: Any, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """What the user's callback answers, and whether it changed anything for later steps."""
    shown, before = dict(tensors), dict(pipe.__dict__)
    if "latents" in shown:  # it may write into them
        shown["latents"] = shown["latents"].clone()
    told = shown | (user(pipe, step, timestep, dict(shown)) or {})
    changed = {k: v for k, v in told.items() if k != "latents" and v is not tensors.get(k)}
    if "latents" in told and not torch.equal(told["latents"], tensors["latents"]):
        changed["latents"] = told["latents"]
    moved = [k for k, v in pipe.__dict__.items() if v is not before.get(k) and k != "_interrupt"]
    return changed, bool(changed or moved)
