"""One call of a pipeline with its loop in our hands (DESIGN 1.1).

A visit swaps the scheduler for a stand-in, watches the models and runs the pipeline's own `__call__`. What the
loop does is decided by one of three conductors: Probe finds out what the loop is like without running
the denoiser; Serve answers an engine's batches; Decode only lets the pipeline's tail turn latents into media.
Everything is put back afterwards, also after an exception.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genscale.pipelines.device_cache import steady_device
from genscale.pipelines.encoder_cache import Memo
from genscale.pipelines.noise_interception import Intercept
from genscale.pipelines.row_gather import rows_of, sample_of
from genscale.pipelines.scheduler_proxy import OffGrid, StepResult, index_of, stand_in
from genscale.pipelines.step_numbering import numbered, true_indices
from genscale.pipelines.watched_models import guess, watched, zeros_like

BEFORE, LOOP, AFTER = "before", "loop", "after"


class Done(BaseException):
    """Ends a pipeline's call from inside its loop; not an Exception, so that no pipeline swallows it."""


class Interrupted(Exception):
    """The pipeline was told to stop (`pipe._interrupt`), usually by the user's callback."""


class Templates:
    """Outputs that models of the loop gave once, to skip them later with zeros of the right structure."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Any, int]] = {}
        self.guessing = True  # False: the likely shape did not do, so the first call must be real
        self.real_rows = 0  # denoiser rows that were spent on finding out

    def skip(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        rows = rows_of(sample_of(args, kwargs))
        if name in self.known:
            output, old = self.known[name]
            return zeros_like(output, old, rows)
        if self.guessing and is_denoiser(name):
            return guess(module, sample_of(args, kwargs))
        output = forward(*args, **kwargs)
        self.known[name] = (output, rows)
        if is_denoiser(name):
            self.real_rows += rows
        return output


def is_denoiser(name: str) -> bool:
    return not any(word in name for word in ("controlnet", "adapter", "vae", "encoder"))


class LoopDriver:
    """Base of the three: phases, the position in the loop, and the pipeline's draws.

    draws: what the loop's preparation draws, in order; None records real draws instead.
    """

    def __init__(self, memo: Memo, templates: Templates) -> None:
        self.memo, self.templates = memo, templates
        self.phase = BEFORE
        self.index = 0  # step of the grid that the loop is at
        self.stepped = self.any_step = False
        self.readings = self.read = 0  # iterations over the timesteps before the loop: known, done
        self.off_grid: OffGrid | None = None  # the noise level that the loop is at, if it is not of its grid
        self.start = 0  # the scheduler's index of the loop's first timestep
        self.timesteps: Tensor | None = None
        self.scheduler: Any = None
        self.pipe: Any = None
        self.outside: dict[str, Any] = {}  # the pipeline's attributes before the visit
        self.is_parked = self.cached = False
        self._noise: Intercept | None = None
        self._mode: bool | None = None  # the loop's own grad mode

    # ---- what the subclasses decide

    @property
    def graph(self) -> bool:
        """Whether what is handed out shall have a graph."""
        return False

    def source(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        """The j-th draw before the loop; None draws it for real."""
        return None

    def seen(self, noise: Tensor) -> None:
        """Told of every draw before the loop."""

    def tail_source(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return None

    def evaluate(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """A model called inside the loop."""
        return self.templates.skip(name, module, forward, args, kwargs)

    def first_index(self) -> int:
        """The step that the loop is told it begins at."""
        return 0

    def after_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        """The latents to hand out and the step to go on with (None: leave the loop)."""
        raise NotImplementedError

    # ---- the pipeline's side

    @property
    def counter(self) -> int:
        """The loop variable i: -1 in a pass that only leads up to step 0."""
        assert self.timesteps is not None
        return min(self.index, len(self.timesteps) - 1)

    def iterate(self, timesteps: Tensor) -> Iterator[Tensor]:
        """Iteration over the timesteps: in the loop, one value for each step that is taken."""
        if self.any_step or self.read < self.readings:  # these only read the values
            self.read += 1
            yield from timesteps
            return
        if self.phase == LOOP:  # a reading that was left early
            self._leave_loop()
        index: int | None = self.first_index()
        while index is not None and (index < len(timesteps) or self.stepped):
            self._enter_loop(timesteps, index)
            yield numbered(self._timestep(timesteps, index), self.counter)
            if self.stepped:
                index = self.next
            else:  # nothing was evaluated: somebody only reads the values
                index += 1
                if getattr(self.pipe, "_interrupt", False):
                    raise Interrupted
        self._leave_loop()

    def _timestep(self, timesteps: Tensor, index: int) -> Tensor:
        own = timesteps[min(max(index, 0), len(timesteps) - 1)]
        if self.off_grid is None:
            return own
        dtype = own.dtype if own.is_floating_point() else torch.float32
        return torch.full_like(own, self.off_grid.timestep, dtype=dtype)

    def step(self, call: dict[str, Any]) -> StepResult:
        if self.phase == AFTER:
            raise NotInvertible("it runs more than one loop over scheduler.timesteps")
        if self.phase != LOOP:
            raise NotInvertible("it calls scheduler.step outside a loop over scheduler.timesteps")
        self.stepped = self.any_step = True
        # Pipelines run under no_grad, which sets the mode once, where they begin: it can be another from here to the
        # next step. What the search does in between is without a graph; `intercept` puts back the caller's mode.
        if self._mode is None:
            self._mode = torch.is_grad_enabled()
        torch.set_grad_enabled(self._mode)
        x, self.next = self.after_step(call)
        torch.set_grad_enabled(self._mode or self.graph)
        if "_step_index" in self.scheduler.__dict__:  # add_noise reads it, where loops blend after a step
            following = self.index + 1 if self.next is None else self.next
            self.scheduler._step_index = self.start + following
        return StepResult(x)

    def position(self) -> int | None:
        """The scheduler's own index of the step that the loop is at."""
        if self.phase != LOOP or self.timesteps is None:
            return None
        return self.start + min(max(self.index, 0), len(self.timesteps) - 1)

    @contextmanager
    def parked(self) -> Iterator[None]:
        """The pipeline as it was before the visit, while the search decodes and judges in the midst of a step.

        A verifier may use the pipeline itself, or another one with the same models.
        """
        inside, state = dict(self.pipe.__dict__), self.pipe.__dict__
        _replace(state, self.outside | {k: False for k in ("_interrupt",) if k in inside})
        self.is_parked = True
        try:
            yield
        finally:
            self.is_parked = False
            interrupt = state.get("_interrupt") or inside.get("_interrupt")
            _replace(state, inside | ({"_interrupt": True} if interrupt else {}))

    def watch(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.is_parked:
            return forward(*args, **kwargs)
        if self.phase == LOOP:
            return self.evaluate(name, module, forward, args, kwargs)
        if self.phase == BEFORE and "vae" not in name and not torch.is_grad_enabled():
            return self.memo(name, self._unheard(forward), args, kwargs)
        return forward(*args, **kwargs)

    def _enter_loop(self, timesteps: Tensor, index: int) -> None:
        self.stop_drawing()
        if self.phase == BEFORE:
            self.start = index_of(timesteps, self.scheduler.__dict__["_timesteps"])
        self.phase, self.index, self.stepped, self.timesteps = LOOP, index, False, timesteps

    def _leave_loop(self) -> None:
        if self.any_step:
            self.phase = AFTER
            self._intercept(self.tail_source, None)
        else:  # that was no loop, the values were only read
            self.phase = BEFORE
            self.readings += 1
            self.read += 1
            self.start_drawing()

    # ---- random draws

    def _intercept(self, source: Callable[..., Tensor | None], seen: Callable[[Tensor], None] | None) -> None:
        self.stop_drawing()
        self._noise = Intercept(source, seen)
        self._noise.__enter__()  # type: ignore[no-untyped-call]

    def _unheard(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """An encoder, run without listening for draws: every tensor operation would pay for it."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                if self._noise is not None:
                    stack.enter_context(self._noise.paused())
                return forward(*args, **kwargs)

        return run

    def start_drawing(self) -> None:
        self._intercept(self.source, self.seen)

    def stop_drawing(self) -> None:
        if self._noise is not None:
            self._noise.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._noise = None


class NotInvertible(Exception):
    """The pipeline's loop is not the loop of DESIGN 1.1; the message says which call broke the contract."""


def intercept(pipe: Any, arguments: dict[str, Any], driver: LoopDriver) -> Any:
    """Call the pipeline under a driver. Returns its output, or None when the driver ended the call."""
    driver.pipe, driver.outside = pipe, dict(pipe.__dict__)
    driver.cached = forget_caches(pipe)  # of a call that was left in its loop
    with ExitStack() as stack:
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        # Whatever a call leaves on the pipeline (guidance scale, step counts, the scheduler) is put back.
        stack.callback(_replace, pipe.__dict__, driver.outside)
        stack.enter_context(steady_device(pipe, driver.memo.device))
        driver.scheduler = stand_in(pipe.scheduler, driver)
        pipe.__dict__["scheduler"] = driver.scheduler
        pipe.__dict__["_progress_bar_config"] = {"disable": True}
        stack.enter_context(watched(dict(pipe.components), driver.watch))
        if hasattr(pipe, "encode_prompt"):
            pipe.__dict__["encode_prompt"] = _remembering(pipe, driver)
        stack.enter_context(true_indices(pipe))
        stack.callback(driver.stop_drawing)
        driver.start_drawing()
        try:
            # Copies, since some pipelines write into the lists that they are given.
            return pipe(**{k: list(v) if type(v) is list else v for k, v in arguments.items()})
        except Done:
            return None


def _remembering(pipe: Any, driver: LoopDriver) -> Callable[..., Any]:
    encode = pipe.encode_prompt

    @functools.wraps(encode)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        if driver.phase != BEFORE or torch.is_grad_enabled():
            return encode(*args, **kwargs)
        return driver.memo.prompts(pipe, encode, args, kwargs)

    return encode_prompt


def forget_caches(pipe: Any) -> bool:
    """Reset what cached models (`enable_cache`) keep from step to step; whether there are any."""
    cached = [m for m in pipe.components.values() if getattr(m, "is_cache_enabled", False)]
    for model in cached:
        model._reset_stateful_cache()
    return bool(cached)


def _replace(state: dict[str, Any], content: dict[str, Any]) -> None:
    state.clear()
    state.update(content)
