"""Steps a pipeline's scheduler through a whole run while nothing is evaluated, to find out how it steps.

The probe hands over each `step` call of the loop. The walk makes the same call, with a made-up model output and with
zeros in place of noise, on two schedulers:

- one that keeps its state in itself, as in the pipeline alone. What it draws is recorded.
- copies that get their state from a `Memory` (solver.py), as in a search.

So it is known before anything is spent which noise the pipeline alone would draw in which step, what the scheduler's
attributes are between steps, and whether a search can step it at all. A scheduler that draws anything but normal noise
of the latents' shape from the generator it was given or the global one (a Brownian tree has generators of its own), or
that keeps state where copies share it, is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genscale.errors import NoLoop, UsageError
from genscale.pipelines.noise_interception import Intercept, NormalDraw
from genscale.pipelines.scheduler_state import without_data
from genscale.pipelines.solver import SchedulerSolver
from genscale.protocol.particles import Memory, Particles


class SchedulerWalk:
    """What was found out; grows with every call of `step`.

    scheduler: the pipeline's, after it has set its timesteps; not changed. start: index of the loop's first timestep.

    draws: for each step, the calls for noise that the pipeline alone would make in it. memories: for each step, the
    solver's state before it, without the data of its rows; one more for the end of the loop.
    """

    def __init__(self, scheduler: Any, start: int) -> None:
        self.solver = SchedulerSolver(scheduler, start)
        self.draws: list[list[NormalDraw]] = []
        self.memories: list[Memory | None] = [None]
        self._alone = copy.deepcopy(scheduler)
        self._carried: dict[str, Tensor] = {}
        self._memory: Memory | None = None
        self._same: list[Tensor] = []  # for each step, whether both schedulers came to the same latents

    def step(self, call: dict[str, Any]) -> None:
        """Take the step that the pipeline's loop asks for. UsageError: a search cannot take it."""
        x = call["sample"].detach()
        output = _made_up(call["model_output"], x, 0.01 * (len(self.draws) + 1))
        recorded = RecordedDraws(x.shape, call.get("generator"))
        try:
            with torch.no_grad(), OtherDraws(recorded.given), recorded:
                alone, self._carried = self.solver.call_step(self._alone, call, output, x, self._carried)
        except UncontrolledNoise as error:
            refusal = self._refusal(f"draws noise in its step that no search can control ({error})")
            if error.given:  # then a whole call is a function of its generator
                raise NoLoop(str(refusal)) from None
            raise refusal from None
        self.draws.append(recorded.draws)
        self.solver.call = call
        particles = Particles(x, len(self.draws) - 1, (), self._memory)
        with torch.no_grad():
            for _ in range(2):  # the second time shows whether the first has changed what both begin with
                again, memory = self.solver.step(particles, output, lambda j: torch.zeros_like(x))
        self._same.append(((alone == again) | (alone.isnan() & again.isnan())).all())
        self._memory = memory
        self.memories.append(None if memory is None else without_data(memory))

    def finish(self, copies: int) -> None:
        """End the walk. copies: of each latent in the loop. UsageError: a search cannot step the scheduler."""
        if copies > 1 and any(self.draws):
            raise self._refusal(
                "draws other noise for each of the copies of a latent that this pipeline steps"
            )
        if self._same and not torch.stack(self._same).all():
            raise self._refusal(
                "does not give the same result when it steps again from the same state (it draws noise of its own, or "
                "keeps its history where genscale cannot see it)"
            )
        self._alone, self._memory, self._carried, self._same = None, None, {}, []
        self.solver.call = {}  # its tensors

    def state(self, device: torch.device) -> dict[str, Any]:
        """The attributes of the pipeline's own scheduler after the steps so far."""
        return self.solver.shown(len(self.draws), self._memory, device)

    def state_at(self, step: int, device: torch.device) -> dict[str, Any]:
        """The same before any step, with zeros for tensors of one row a latent."""
        return self.solver.shown(step, self.memories[step] if step < len(self.memories) else None, device)

    def _refusal(self, why: str) -> UsageError:
        return UsageError(
            f"{type(self.solver.scheduler).__name__} {why}, so a search with it would not be this pipeline's: "
            "choose another scheduler."
        )


def _made_up(output: Tensor, x: Tensor, value: float) -> Tensor:
    """An output for latents `x`, with a second half where the model also predicts variances.

    The output that the loop handed over may be a placeholder of another shape.
    """
    shape = list(x.shape)
    if x.ndim > 1 and list(output.shape) == [shape[0], 2 * shape[1], *shape[2:]]:
        shape = list(output.shape)
    return torch.full(shape, value, dtype=output.dtype, device=output.device)


class UncontrolledNoise(Exception):
    """A step draws something else than normal noise of the latents' shape; the message says what.

    given: from the generator that it was given.
    """

    def __init__(self, what: str, given: bool = False) -> None:
        super().__init__(what)
        self.given = given


class RecordedDraws(Intercept):
    """Records the normal draws of a step and answers with zeros.

    shape: of the latents. given: the generator that the step was given, or a list with one a row, or None.
    """

    def __init__(self, shape: torch.Size, given: Any) -> None:
        super().__init__(lambda j, shape: None)
        self.given = list(given) if isinstance(given, list | tuple) else [given]
        self.shape, self.draws = tuple(shape), list[NormalDraw]()

    def answer(self, draw: NormalDraw) -> Tensor:
        if draw.generator is not None and all(draw.generator is not g for g in self.given):
            raise UncontrolledNoise("from a generator of its own, as a Brownian tree does")
        by_row = len(self.given) > 1 and draw.shape == (1, *self.shape[1:])
        if draw.shape != self.shape and not by_row:
            raise UncontrolledNoise(f"of shape {list(draw.shape)} for latents of shape {list(self.shape)}")
        self.draws.append(draw)
        return torch.zeros(draw.shape, dtype=draw.dtype, device=draw.device)


def _same(a: torch.Generator, b: torch.Generator) -> bool:
    """By their states: the object that an operation sees is another one."""
    return a.device == b.device and torch.equal(a.get_state(), b.get_state())


class OtherDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, any random operation of torch raises UncontrolledNoise. given: generators that a step was given."""

    def __init__(self, given: Sequence[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given = [generator for generator in given if generator is not None]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            used = [part for part in (*args, *(kwargs or {}).values()) if isinstance(part, torch.Generator)]
            given = any(_same(part, generator) for part in used for generator in self.given)
            raise UncontrolledNoise(f"by torch.{func.overloadpacket.__name__}", given)
        return func(*args, **(kwargs or {}))
