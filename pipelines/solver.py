"""The pipeline's own scheduler as a function of explicit state.

Schedulers keep their history (earlier outputs, step counts) in attributes. Here a step takes an unused copy, sets the
particles' memory on it, runs its own `step`, and reads the memory off again. So histories belong to particles, which
can be pruned, branched and stored, with every scheduler class.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genscale.pipelines.noise_interception import Intercept
from genscale.protocol.particles import Memory, Particles

# CogVideoX's DPM scheduler keeps its history in the pipeline: an argument that is fed from an output.
CARRIED = {"old_pred_original_sample": 1}
MAX_STORED = 4096  # largest number of elements in a tensor of the memory that is not one row a particle


class SchedulerSolver:
    """Steps copies of a scheduler (implements `protocol.Solver`).

    scheduler: the pipeline's, after it has set its timesteps; never changed. start: index of the loop's first timestep
    among the scheduler's (image-to-image skips some). call: the arguments of the pipeline's latest `step` call by name,
    such as timestep and eta. stepped: the latents that were computed since the list was cleared.
    """

    def __init__(self, scheduler: Any, start: int) -> None:
        self.scheduler = scheduler
        self.start = start
        self.call: dict[str, Any] = {}
        self.stepped: list[Tensor] = []
        self.names = tuple(inspect.signature(type(scheduler).step).parameters)

    def step(
        self, particles: Particles, output: Tensor, draw: Callable[[int], Tensor]
    ) -> tuple[Tensor, Memory | None]:
        scheduler, call = self._restore(particles), dict(self.call)
        call |= {"model_output": output, "sample": particles.x}
        call |= {k: v for k, v in (("generator", None), ("return_dict", False)) if k in self.names}
        carried = [name for name in CARRIED if name in self.names]
        for name in carried:
            call[name] = None if particles.memory is None else particles.memory.rows.get(f"carried.{name}")
        with Intercept(lambda j, shape: draw(j)):
            result = scheduler.step(**call)
        memory = self._memory_of(scheduler, particles.x)
        for name in carried:
            memory.rows[f"carried.{name}"] = result[CARRIED[name]]  # type: ignore[index]
        self.stepped.append(result[0])
        return result[0], memory

    def _restore(self, particles: Particles) -> Any:
        """A copy of the scheduler in the state of these particles."""
        scheduler = copy.copy(self.scheduler)
        state = scheduler.__dict__
        state.update({k: list(v) for k, v in state.items() if type(v) is list})  # `step` writes into lists
        if particles.memory is not None:
            for name, value in particles.memory.rest.items():
                state[name] = _decode(value, particles.memory.rows, particles.x.device)
        elif particles.step > 0 and "_step_index" in state:
            state["_step_index"] = self.start + particles.step
        return scheduler

    def _memory_of(self, scheduler: Any, x: Tensor) -> Memory:
        before, rows, rest = self.scheduler.__dict__, dict[str, Tensor](), dict[str, Any]()
        for name, value in scheduler.__dict__.items():
            old = before.get(name)
            if value is old or (isinstance(value, int | float | str) and value == old):
                continue
            rest[name] = _encode(value, name, x, rows)
        return Memory(rows, rest)


def restarts(scheduler: Any) -> bool:
    """Whether a scheduler can begin in the middle of a run without a history.

    Most fall back to first order. Linear multistep takes its order from the step number, and PNDM's Runge-Kutta phase
    counts its model calls from the start: without a history both give wrong results.
    """
    name = type(scheduler).__name__
    return name != "LMSDiscreteScheduler" and not (
        name == "PNDMScheduler" and not scheduler.config.get("skip_prk_steps")
    )


def _encode(value: Any, name: str, x: Tensor, rows: dict[str, Tensor]) -> Any:
    """A value as JSON; tensors with one row a particle go into `rows`."""
    if isinstance(value, Tensor):
        if value.ndim == x.ndim and value.shape[0] == x.shape[0] and value.shape[2:] == x.shape[2:]:
            rows[name] = value
            return {"row": name}
        if value.numel() > MAX_STORED:
            raise ValueError(
                f"the scheduler keeps '{name}' of shape {list(value.shape)}, which has not one row a particle"
            )
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return {"list": [_encode(v, f"{name}.{i}", x, rows) for i, v in enumerate(value)]}
    if hasattr(value, "item"):  # NumPy numbers
        return value.item()
    return value


def _decode(value: Any, rows: Any, device: torch.device) -> Any:
    if not isinstance(value, dict):
        return value
    if "row" in value:
        return rows[value["row"]].clone()  # PNDM adds to its history in place
    if "tensor" in value:
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
    return [_decode(v, rows, device) for v in value["list"]]
