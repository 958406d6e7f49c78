"""The user's `callback_on_step_end`, called during a search."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.probe import Probe


class StepListener(Protocol):
    """The part of a serving driver that callbacks need."""

    probe: Probe
    after_real_step: bool
    replaying: bool

    def end_of_step(self, tensors: dict[str, Any]) -> dict[str, Any]: ...


def search_callbacks(arguments: Arguments, driver: StepListener) -> dict[str, Any]:
    """Callback arguments for a pipeline call under `driver`.

    The callback calls the user's own after steps that were evaluated, then `driver.end_of_step`, which may replace
    the latents.
    """
    user = arguments.given.get("callback_on_step_end")
    if "callback_on_step_end" not in arguments.names or (user is None and not driver.probe.edits_latents):
        return {}

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        if user is not None and (driver.after_real_step or driver.replaying):
            changed, affects_later_steps = _call_user(user, pipe, step, timestep, tensors)
            driver.probe.callback_edits |= affects_later_steps
            tensors = tensors | changed
        return driver.end_of_step(tensors)

    inputs = getattr(user, "tensor_inputs", None)  # of a PipelineCallback
    return {"callback_on_step_end": callback} | (
        {} if inputs is None else {"callback_on_step_end_tensor_inputs": list(inputs)}
    )


def _call_user(
    user: Any, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """The tensors that the user's callback changed, and whether it changed anything for later steps."""
    shown, before = dict(tensors), dict(pipe.__dict__)
    if "latents" in shown:  # it may write into them
        shown["latents"] = shown["latents"].clone()
    returned = shown | (user(pipe, step, timestep, dict(shown)) or {})
    changed = {k: v for k, v in returned.items() if k != "latents" and v is not tensors.get(k)}
    if "latents" in returned and not torch.equal(returned["latents"], tensors["latents"]):
        changed["latents"] = returned["latents"]
    attributes = [k for k, v in pipe.__dict__.items() if v is not before.get(k) and k != "_interrupt"]
    return changed, bool(changed or attributes)
