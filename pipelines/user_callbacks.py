"""The user's callbacks, called during a search: `callback_on_step_end`, and the older `callback`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.intercepted_call import PipelineInterrupted
from genscale.pipelines.modular_inputs import blocks_of
from genscale.pipelines.probe import Probe


class StepListener(Protocol):
    """The part of a serving driver that callbacks need."""

    probe: Probe
    after_real_step: bool
    replaying: bool
    followed: Any

    def end_of_step(self, tensors: dict[str, Any]) -> dict[str, Any]: ...


def search_callbacks(arguments: Arguments, driver: StepListener) -> dict[str, Any]:
    """Callback arguments for a pipeline call under `driver`: the user's own, called after steps that were evaluated.

    The last step of the pipeline's result is not among them: its callbacks are called when the result is decoded.
    """
    given, made = arguments.given, dict[str, Any]()
    user = given.get("callback_on_step_end")
    if "callback_on_step_end" in arguments.names and (user is not None or driver.followed is not None):
        made |= _at_step_end(user, given, driver)
    if given.get("callback") is not None:
        made["callback"] = _after_step(given["callback"], driver)
        made |= {k: given[k] for k in ("callback_steps",) if k in given}
    return made


def _at_step_end(user: Any, given: dict[str, Any], driver: StepListener) -> dict[str, Any]:
    """`callback_on_step_end`: calls the user's, then `driver.end_of_step`, which may end the call."""
    asked = getattr(user, "tensor_inputs", None)  # of a PipelineCallback
    asked = given.get("callback_on_step_end_tensor_inputs") if asked is None else asked
    names = ["latents"] if asked is None else list(asked)

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        if user is not None and (driver.after_real_step or driver.replaying):
            shown = {k: v for k, v in tensors.items() if k in names}
            changed, affects_later_steps = _call_user(user, pipe, step, timestep, shown)
            driver.probe.callback_edits |= affects_later_steps
            tensors = tensors | changed
        returned = driver.end_of_step(tensors)
        if getattr(pipe, "_interrupt", False) and blocks_of(pipe) is not None:  # its loop does not look
            raise PipelineInterrupted
        return returned

    # The latents are always asked for: an interrupted search ends with them.
    inputs = names if "latents" in names else [*names, "latents"]
    return {"callback_on_step_end": callback} | (
        {} if asked is None else {"callback_on_step_end_tensor_inputs": inputs}
    )


def _after_step(user: Any, driver: StepListener) -> Callable[..., None]:
    """The older `callback(step, timestep, latents)`, whose result pipelines ignore."""

    def callback(step: int, timestep: Any, latents: Any) -> None:
        if driver.after_real_step:
            user(step, timestep, latents)

    return callback


def _call_user(
    user: Any, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]
) -> tuple[dict[str, Any], bool]:
    """The tensors that the user's callback changed, and whether it changed anything for later steps."""
    shown, before = dict(tensors), dict(pipe.__dict__)
    if "latents" in shown:  # it may write into them
        shown["latents"] = shown["latents"].clone()
    returned = shown | (user(pipe, step, timestep, dict(shown)) or {})
    changed = {k: v for k, v in returned.items() if k != "latents" and v is not tensors.get(k)}
    if "latents" in returned and not (
        "latents" in tensors and torch.equal(returned["latents"], tensors["latents"])
    ):
        changed["latents"] = returned["latents"]
    attributes = [k for k, v in pipe.__dict__.items() if v is not before.get(k) and k != "_interrupt"]
    return changed, bool(changed or attributes)
