"""A proxy for a pipeline's scheduler: the pipeline's loop calls it, and it calls a driver.

It is a copy of the scheduler whose class is a subclass of the scheduler's own, so `isinstance` checks, signatures and
attributes (sigmas, order, init_noise_sigma, ...) are as the pipeline expects. Before each step of the loop the driver
sets what the steps before it would have left on it (scheduler_state.py). Only three members differ:

- `timesteps` is a tensor whose iteration is decided by the driver (timesteps.py);
- `step` passes its arguments to the driver and returns the driver's latents, instead of computing a step;
- `scale_model_input` scales for the noise level that the driver is at, if that is none of the scheduler's, or as the
  driver does it.

Its class equals the scheduler's own by `==`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from genscale.errors import NoLoop, UsageError
from genscale.pipelines.step_signature import step_signature
from genscale.pipelines.timesteps import TimestepDriver, Timesteps


@dataclass(frozen=True)
class OffGrid:
    """A noise level between those of the grid: the timestep for the model, and kappa = sigma / alpha."""

    timestep: float
    kappa: float


ScaleRows = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]
"""(proxy, latents, further arguments by position and by name of `scale_model_input`) -> scaled latents."""


class SharedByCopies:
    """An object that a deep copy shares: a loop may copy its scheduler, whose proxy holds the driver."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class SchedulerDriver(TimestepDriver, Protocol):
    off_grid: OffGrid | None
    scale_rows: ScaleRows | None

    def step(self, call: dict[str, Any]) -> Any: ...
    def position(self) -> int | None: ...


def make_proxy(scheduler: Any, driver: SchedulerDriver) -> Any:
    """A copy of `scheduler` that passes its calls to `driver`."""
    proxy = copy.deepcopy(scheduler)
    timesteps = proxy.__dict__.pop("timesteps", None)
    proxy.__class__ = _subclass(type(scheduler))  # type: ignore[arg-type]
    proxy.__dict__["_driver"] = driver
    proxy.__dict__["_timesteps"] = timesteps
    return proxy


def proxy_of(pipe: Any, driver: SchedulerDriver) -> Any:
    """The proxy of a pipeline's scheduler. UsageError: the pipeline is in its own loop."""
    if "_driver" in pipe.scheduler.__dict__:
        raise UsageError(
            f"{type(pipe).__name__} is in the middle of its own loop (a callback called it): search with it before, "
            "after, or in a verifier."
        )
    while True:
        try:
            return make_proxy(pipe.scheduler, driver)
        except RuntimeError as error:
            # A call in another thread may have set an attribute while the scheduler was copied.
            if "changed size" not in str(error):
                raise


def plain_scheduler(proxy: Any) -> Any:
    """The scheduler behind a proxy, with all that the pipeline has set on it."""
    scheduler = copy.copy(proxy)
    scheduler.__class__ = type(proxy).__mro__[1]
    scheduler.__dict__.pop("_driver")
    scheduler.__dict__["timesteps"] = scheduler.__dict__.pop("_timesteps")
    if "is_scale_input_called" in scheduler.__dict__:
        scheduler.is_scale_input_called = True  # the proxy scaled its input
    return scheduler


class _EqualToItsBase(type):
    """The class of proxies' classes: some pipelines ask whether `type(scheduler) == SomeScheduler`."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.__mro__[1]

    def __hash__(cls) -> int:
        return hash(cls.__mro__[1])


@functools.cache
def _subclass(cls: type) -> type:
    signature = step_signature(cls)

    @functools.wraps(cls.step)  # type: ignore[attr-defined]
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = signature.by_name(self, args, kwargs)  # TypeError if the arguments are wrong
        return self.__dict__["_driver"].step(call)

    def timesteps(self: Any) -> Any:
        values = self.__dict__.get("_timesteps")
        if not isinstance(values, Tensor):
            return values
        return Timesteps.of(values, self.__dict__["_driver"])

    def set_timesteps(self: Any, values: Any) -> None:
        self.__dict__["_timesteps"] = values.as_subclass(Tensor) if isinstance(values, Tensor) else values

    members: dict[str, Any] = {
        "__deepcopy__": _copied,
        "step": step,
        "timesteps": property(timesteps, set_timesteps),
    }
    if hasattr(cls, "scale_model_input"):

        @functools.wraps(cls.scale_model_input)
        def scale_model_input(self: Any, *args: Any, **kwargs: Any) -> Any:
            own = self.__dict__["_driver"].scale_rows
            if own is not None:
                named = dict(kwargs)
                sample = args[0] if args else named.pop("sample")
                return own(self, sample, args[1:], named)
            with _level(self, self.__dict__["_driver"].position(), self.__dict__["_driver"].off_grid):
                return cls.scale_model_input(self, *args, **kwargs)  # type: ignore[attr-defined]

        members["scale_model_input"] = scale_model_input
    return _EqualToItsBase(cls.__name__, (cls,), members)


def _copied(proxy: Any, memo: dict[int, Any]) -> Any:
    """A deep copy that a pipeline makes in its call, to step other latents beside its own (sound, actions)."""
    made = copy.deepcopy(plain_scheduler(proxy), memo)

    def step(*args: Any, **kwargs: Any) -> Any:
        raise NoLoop(
            f"this pipeline steps other latents beside its own with a copy of its {type(made).__name__}, which a "
            "search cannot follow: use a pipeline that makes images or videos alone."
        )

    made.step = step
    return made


@contextmanager
def _level(proxy: Any, position: int | None, off_grid: OffGrid | None) -> Iterator[None]:
    """While active, `scale_model_input` scales for an off-grid noise level at this position of the grid.

    Only k-diffusion schedulers scale their input; their sigmas are sigma / alpha.
    """
    state = proxy.__dict__
    if off_grid is None or position is None:
        yield
        return
    kept = {
        name: state[name] for name in ("sigmas", "sigmas_interpol") if isinstance(state.get(name), Tensor)
    }
    for name, sigmas in kept.items():
        state[name] = sigmas.clone()
        state[name][min(position, len(sigmas) - 1)] = off_grid.kappa
    if "_step_index" in state:
        state["_step_index"] = position  # the timestep between two others has no index to be found
    try:
        yield
    finally:
        state.update(kept)


class StepResult(tuple):  # type: ignore[type-arg]
    """The result of `step`, however a pipeline reads it: by [0], as two values, or by attribute."""

    def __new__(cls, x: Tensor) -> StepResult:
        return super().__new__(cls, (x, x))

    @property
    def prev_sample(self) -> Tensor:
        return self[0]  # type: ignore[no-any-return]

    pred_original_sample = denoised = prev_sample


def start_index(timesteps: Tensor, full: Tensor) -> int:
    """The index of a loop's first timestep among the scheduler's `full` ones: not 0 if a pipeline skips some."""
    n = len(timesteps)
    starts = [i for i in range(len(full) - n + 1) if torch.equal(full[i : i + n].cpu(), timesteps.cpu())]
    return starts[-1] if starts else 0
