"""Random numbers that a pipeline draws inside its loop: for candidate 0 those that it would draw alone.

The pipeline draws in a fixed order: before the model call of step 0, inside the scheduler's step, after that step,
before the next model call, and so on, from the generator of its call or from torch's global one. Candidate 0 draws
from the same generators in the same order. All other candidates draw from their own keys, by the place of the draw:
(step, 0 before the scheduler's step or 1 after it, 0 from a generator or 1 from the global stream, number of the draw
among those from the same generator).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genscale.engine.origins import Origin
from genscale.errors import UsageError
from genscale.key import Key
from genscale.pipelines.noise_interception import Pausable

Place = tuple[int, int, int, int]

_NORMAL = (torch.randn, torch.randn_like)
_OTHER = frozenset(
    ("rand", "rand_like", "randint", "randint_like", "randperm", "normal", "bernoulli", "multinomial", "poisson",
     "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "cauchy_", "geometric_", "log_normal_")
)  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """A call of torch.randn or randn_like. generator: what it was given. like: an empty tensor as its result."""

    shape: tuple[int, ...]
    like: Tensor
    generator: Any

    @staticmethod
    def of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Draw:
        if func is torch.randn:
            size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            shape = tuple(int(s) for s in size)
            like = torch.empty(shape, dtype=kwargs.get("dtype"), device=kwargs.get("device"))
        else:
            options = {k: v for k, v in kwargs.items() if k in ("dtype", "device", "memory_format")}
            like = torch.empty_like(args[0], **options)
            shape = tuple(like.shape)
        return Draw(shape, like, kwargs.get("generator"))

    def make(self, generator: torch.Generator | None, shape: tuple[int, ...] | None = None) -> Tensor:
        """What torch would return; shape: another one, of more rows."""
        if shape is None or shape == self.shape:
            return torch.empty_like(self.like).normal_(generator=generator)
        return self.like.new_empty(shape).normal_(generator=generator)

    def of_key(self, key: Key) -> Tensor:
        return key.normal(self.shape).to(self.like.device, self.like.dtype)


class LoopIntercept(Pausable):
    """While active, `answer(draw, j)` decides each normal draw, j counting those from the same generator.

    None makes it as it was asked for.

    UsageError: the loop draws other random numbers than normal ones.
    """

    def __init__(self, answer: Callable[[Draw, int], Tensor | None]) -> None:
        super().__init__()
        self.answer, self.counts = answer, Counter[int]()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _NORMAL:
            draw = Draw.of(func, args, kwargs)
            result = self.answer(draw, self.counts[id(draw.generator)])
            self.counts[id(draw.generator)] += 1
            return func(*args, **kwargs) if result is None else result
        name = getattr(func, "__name__", "")
        if name in _OTHER:
            raise UsageError(
                f"the pipeline draws random numbers by torch's '{name}' in its loop, which a search cannot repeat for "
                "each candidate: only those of randn and randn_like can be."
            )
        return func(*args, **kwargs)


class LoopNoise:
    """The draws of one pipeline call's loop, for any candidate.

    generator: the user's. rows: of the call. shapes: of the draws in a call with these rows, by their place. states: of
    torch's global generators where the loop begins.
    """

    def __init__(
        self,
        generator: Any,
        rows: int,
        shapes: Mapping[Place, tuple[int, ...]],
        states: Mapping[str, Tensor],
    ) -> None:
        self.states = states
        self.given, self.rows, self.shapes = generator, rows, shapes
        self.each = generators_of(generator)
        self._global: dict[torch.device, torch.Generator] = {}
        self._drawn: dict[tuple[int, Place], Tensor] = {}

    def of_row(self, row: int) -> torch.Generator | None:
        """The user's generator for a call with this one row."""
        return self.each[row if len(self.each) > 1 else 0]  # type: ignore[no-any-return]

    def draw(self, draw: Draw, place: Place, row: int | None, origin: Origin | None) -> Tensor | None:
        """The draw at this place of a call; None: its generator is the pipeline's own.

        row, origin: of a call with one row; row is None in a call with all rows, whose draws are the pipeline's own.
        """
        if draw.generator is not None and all(draw.generator is not g for g in self.each):
            return None
        if row is not None and origin is None:
            return made_up(draw, place)
        if row is not None and origin is not None and not origin.own:
            return draw.of_key(Key(origin.candidate.key).fold("loop", *place))
        of_all = self.rows > 1 and (draw.generator is None or len(self.each) == 1)
        stream = 0
        if draw.generator is not None and len(self.each) > 1:
            stream = next(i for i, g in enumerate(self.each) if g is draw.generator)
        if (stream, place) not in self._drawn:
            shape = self.shapes.get(place) if of_all else None
            self._drawn[stream, place] = draw.make(self._generator(draw), shape)
        whole = self._drawn[stream, place]
        return whole.clone() if row is None or not of_all else self._of_row(whole, draw, row)

    def _of_row(self, whole: Tensor, draw: Draw, row: int) -> Tensor:
        """The part of a draw for all rows that belongs to one. Rows are ordered [block, row]."""
        n = draw.shape[0] if draw.shape else 0
        if tuple(whole.shape) == draw.shape or whole.shape[0] != n * self.rows:
            return whole.clone()
        return whole.reshape(n, self.rows, *whole.shape[1:])[:, row].clone()

    def _generator(self, draw: Draw) -> torch.Generator | None:
        if draw.generator is not None or self.each[0] is None:
            return draw.generator  # type: ignore[no-any-return]  # None: torch's global one
        # With a generator of the user's, torch's global one stays as it is: two searches draw the same from it.
        device = draw.like.device
        if device not in self._global:
            self._global[device] = torch.Generator(device)
            self._global[device].set_state(self.states.get(device.type, global_states(device)[device.type]))
        return self._global[device]


def generators_of(generator: Any) -> list[Any]:
    """The user's generator or generators as a list; [None] where there is none."""
    return list(generator) if isinstance(generator, list | tuple) else [generator]


def made_up(draw: Draw, place: Place) -> Tensor:
    """Noise for a call that belongs to no candidate."""
    return draw.of_key(Key((0,)).fold("loop", *place))


def place_of(step: int, after_step: bool, draw: Draw, j: int) -> Place:
    return max(step, 0), int(after_step), int(draw.generator is None), j


def global_states(device: torch.device) -> dict[str, Tensor]:
    """States of torch's global generators, of the CPU and of a device, by its type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type not in ("cpu", "meta"):
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states


def restore_global(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type], device)
