"""The pipeline's own scheduler as a function of explicit state.

Schedulers keep their history (earlier outputs, step counts) in attributes. Here a step takes an unused copy, sets the
particles' memory on it, runs its own `step`, and reads the memory off again (scheduler_state.py). So histories belong
to particles, which can be pruned, branched and stored, with every scheduler class.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.pipelines.noise_interception import Intercept, NormalDraw
from genscale.pipelines.scheduler_state import attributes, memory_of
from genscale.pipelines.step_signature import step_signature
from genscale.protocol.particles import Memory, Particles

# CogVideoX's DPM scheduler keeps its history in the pipeline: an argument that is fed from an output.
CARRIED = {"old_pred_original_sample": 1}

MULTISTEP = {"PNDMScheduler": 6, "LMSDiscreteScheduler": 5, "IPNDMScheduler": 4}  # without a solver_order


class SchedulerSolver:
    """Steps copies of a scheduler (implements `protocol.Solver`).

    scheduler: the pipeline's, after it has set its timesteps; never changed. start: index of the loop's first timestep
    among the scheduler's (image-to-image skips some). call: the arguments of the pipeline's latest `step` call by name,
    such as timestep and eta. orders: how the latents that were stepped to each step lie in memory, as
    `Tensor.dim_order` says. timesteps: that of the loop at each step, as numbers, as far as they are known.
    """

    def __init__(self, scheduler: Any, start: int, timesteps: dict[int, Any] | None = None) -> None:
        self.scheduler = scheduler
        self.start = start
        self.call: dict[str, Any] = {}
        self.orders: dict[int, tuple[int, ...]] = {}
        self.timesteps: dict[int, Any] = {} if timesteps is None else timesteps
        self.signature = step_signature(type(scheduler))  # type: ignore[arg-type]

    @property
    def remembers(self) -> int:
        """Latents that the scheduler keeps of each row between steps, at most; 0 for one-step methods."""
        order = self.scheduler.config.get("solver_order", 0)
        return order + 1 if order else MULTISTEP.get(type(self.scheduler).__name__, 0)

    def step(
        self, particles: Particles, output: Tensor, draw: Callable[[int], Tensor]
    ) -> tuple[Tensor, Memory | None]:
        scheduler, memory = self._restore(particles), particles.memory
        call = self.call | ({"generator": None} if "generator" in self.signature.names else {})
        with _KeyedNoise(draw):
            x, carried = self.call_step(
                scheduler, call, output, particles.x, {} if memory is None else memory.rows
            )
        made = memory_of(scheduler, self.scheduler, particles.x, partial(self._numbers, particles.step))
        self.orders[particles.step + 1] = x.dim_order()
        return x, replace(made, rows={**made.rows, **carried})

    def _numbers(self, step: int, value: Tensor) -> Any:
        """A small tensor as numbers. Those of the step's timestep are read once a search, while the loop is probed:
        reading them again would wait for the accelerator at every step."""
        if value.device.type == "cpu" or value is not self.call.get("timestep"):
            return value.tolist()
        if step not in self.timesteps:
            self.timesteps[step] = value.tolist()
        return self.timesteps[step]

    def call_step(
        self, scheduler: Any, call: dict[str, Any], output: Tensor, x: Tensor, history: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Call `step` of a scheduler; the new latents, and what the pipeline would hand to the next call of it.

        history: the second result of the step before; may hold more.
        """
        carried = {name: history.get(f"carried.{name}") for name in CARRIED if name in self.signature.names}
        call = call | {"model_output": output, "sample": x} | carried
        if "return_dict" in self.signature.names:
            call["return_dict"] = False
        result = self.signature.call(scheduler, call)
        return result[0], {f"carried.{name}": result[CARRIED[name]] for name in carried}

    def shown(self, step: int, memory: Memory | None, device: torch.device) -> dict[str, Any]:
        """The attributes that the scheduler would have before a step, had it taken the steps that the memory tells of.

        step: of the loop. memory: its rows are those of the loop's latents.
        """
        if memory is not None:
            return attributes(memory, device, shared=True)
        if step > 0 and "_step_index" in self.scheduler.__dict__:
            return {"_step_index": self.start + step}
        return {}

    def _restore(self, particles: Particles) -> Any:
        """A copy of the scheduler in the state of these particles."""
        scheduler = copy.copy(self.scheduler)
        state = scheduler.__dict__
        state.update(
            {k: v.copy() for k, v in state.items() if type(v) in (list, dict)}
        )  # `step` writes into them
        if particles.memory is not None:
            state.update(attributes(particles.memory, particles.x.device))
        elif particles.step > 0 and "_step_index" in state:
            state["_step_index"] = self.start + particles.step
        return scheduler


class _KeyedNoise(Intercept):
    """Normal draws of a `step` that was given no generator come from the candidates."""

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        super().__init__(lambda j, shape: draw(j))

    def answer(self, draw: NormalDraw) -> Tensor | None:
        if draw.generator is not None:
            raise UsageError("the scheduler draws from a generator of its own: choose another scheduler.")
        return super().answer(draw)


def restarts(scheduler: Any) -> bool:
    """Whether a scheduler can begin in the middle of a run without a history.

    Most fall back to first order. Linear multistep takes its order from the step number, and PNDM's Runge-Kutta phase
    counts its model calls from the start: without a history both give wrong results.
    """
    name = type(scheduler).__name__
    return name != "LMSDiscreteScheduler" and not (
        name == "PNDMScheduler" and not scheduler.config.get("skip_prk_steps")
    )
