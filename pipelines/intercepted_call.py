"""Runs a pipeline's own `__call__` while a driver decides what its denoising loop does.

`intercept` replaces the pipeline's scheduler by a proxy (scheduler_proxy.py), routes the forward of its models through
the driver (watched_models.py) and calls the pipeline. The pipeline then prepares prompts, latents and timesteps as
always. In its loop it meets the driver at three places:

    for t in scheduler.timesteps    LoopDriver.iterate yields the timesteps, in the order the driver wants
    denoiser(latents, t, ...)       LoopDriver.call_model evaluates the model, or returns a placeholder
    scheduler.step(output, t, x)    LoopDriver.on_step takes the model output and returns the next latents

So the loop body becomes a service: on_step hands over one batch's output and returns the latents of the next batch,
at whatever step that is. The drivers are Probe (probe.py) and BranchProbe (branches.py), which find out how the loop
works without evaluating the denoiser, ServingDriver (serve.py), which evaluates an engine's batches, and
DecodingDriver (decode.py), which only uses the code behind the loop. Everything on the pipeline is restored
afterwards, also after an exception.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from genscale.pipelines.device_cache import cached_device
from genscale.pipelines.encoder_cache import EncoderCache
from genscale.pipelines.loop_noise import Draw, LoopIntercept, Place, place_of
from genscale.pipelines.model_caches import ModelCaches, caches_of
from genscale.pipelines.modular_blocks import caller_of
from genscale.pipelines.noise_interception import Intercept
from genscale.pipelines.own_thread import Hold, held
from genscale.pipelines.pipeline_lock import claimed
from genscale.pipelines.scheduler_proxy import OffGrid, SharedByCopies, StepResult, proxy_of, start_index
from genscale.pipelines.scheduler_state import ShownState
from genscale.pipelines.step_numbering import enumerate_by_step, numbered
from genscale.pipelines.watched_models import PlaceholderOutputs, is_denoiser, watched

BEFORE, LOOP, AFTER = "before", "loop", "after"
SEVERAL = "it runs more than one loop over scheduler.timesteps"


class LeaveLoop(BaseException):
    """Ends a pipeline's call from inside its loop; not an Exception, so that no pipeline catches it."""


class PipelineInterrupted(Exception):
    """The pipeline was told to stop (`pipe._interrupt`), usually by the user's callback."""


class UnsupportedLoop(Exception):
    """The pipeline does not loop over `scheduler.timesteps` with one `scheduler.step` each; the message says why."""


class LoopDriver(SharedByCopies):
    """Base class of the drivers: keeps the phase of the call and the position in the loop.

    encoder_cache: outputs of the prompt encoders, shared by all calls of one search. placeholders: how to skip a model.
    """

    def __init__(self, encoder_cache: EncoderCache, placeholders: PlaceholderOutputs) -> None:
        self.encoder_cache, self.placeholders = encoder_cache, placeholders
        self.phase = BEFORE
        self.index = 0  # step of the grid that the loop is at
        self._reading_after = False  # after the loop, in a further iteration over the timesteps
        self._in_loop = False  # the loop's iterator is not exhausted, nor given up
        self.stepped = self.any_step = False  # `step` was called in this iteration; in this pipeline call
        self.reads_expected = self.reads_done = 0  # iterations before the loop that only read the timesteps
        self.off_grid: OffGrid | None = None  # the noise level to show to the loop instead of the grid's
        self.scale_rows: Any = None  # a ScaleRows, in place of the scheduler's `scale_model_input`
        self.start, self.start_known = 0, False  # the scheduler's index of the loop's first timestep
        self.timesteps: Tensor | None = None
        self.scheduler: Any = None
        self.pipe: Any = None
        self.pipe_state: dict[str, Any] = {}  # the pipeline's attributes before the call
        self.suspended = False  # the pipeline is as it was before the call, for a while
        self.caches = ModelCaches({})
        self.thread = threading.get_ident()  # the only one whose model calls are the loop's
        self.hold: Hold | None = None
        # Held while this search has switched its models to others, which calls of other threads must not see.
        self.models_switched: AbstractContextManager[Any] = nullcontext()
        # Gives the results of normal draws inside the loop; slows down every tensor operation there.
        self.draw_in_loop: Callable[[Draw, Place], Tensor | None] | None = None
        self._shown: ShownState | None = None
        self._noise: Intercept | LoopIntercept | None = None
        self._grad_mode: bool | None = None  # the loop's own

    # ---- what the subclasses decide

    @property
    def needs_graph(self) -> bool:
        """Whether the latents that `step` returns need an autograd graph."""
        return False

    def draw_before_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        """The result of the j-th normal draw before the loop; None draws from the pipeline's generator."""
        return None

    def on_draw(self, noise: Tensor) -> None:
        """Called with a copy of the result of every normal draw before the loop."""

    def draw_after_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return None

    def call_model(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """The output of a model that is called inside the loop."""
        return self.placeholders.get(name, module, forward, args, kwargs)

    def first_step(self) -> int:
        """The step at which the loop begins."""
        return 0

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        """The latents that `scheduler.step` returns, and the step to go to next (None: leave the loop).

        call: the arguments of `step` by name.
        """
        raise NotImplementedError

    def scheduler_state(self, step: int) -> Mapping[str, Any]:
        """Attributes that the scheduler would have before this step had it taken the others itself."""
        return {}

    # ---- called by the scheduler proxy

    @property
    def loop_counter(self) -> int:
        """The loop variable i of `for i, t in enumerate(timesteps)`; -1 in the warm-up pass before step 0."""
        assert self.timesteps is not None
        return min(self.index, len(self.timesteps) - 1)

    def iterate(self, timesteps: Tensor) -> Iterator[Tensor]:
        """Iteration over the timesteps: in the loop, one value for each call of `step`."""
        if self.any_step or self.reads_done < self.reads_expected:  # not the loop: the values are only read
            self.reads_done += 1
            self._reading_after = self.phase == AFTER
            try:
                yield from timesteps
            finally:
                self._reading_after = False
            return
        if self._in_loop:  # the loop's own body reads timesteps, such as those that it gives to `add_noise`
            yield from timesteps
            return
        if self.phase == LOOP:  # an earlier iteration that was left early
            self._leave_loop()
        self._in_loop = True
        try:
            yield from self._iterations(timesteps)
        finally:
            self._in_loop = False

    def _iterations(self, timesteps: Tensor) -> Iterator[Tensor]:
        index: int | None = self.first_step()
        while index is not None and (index < len(timesteps) or self.stepped):
            self._enter_loop(timesteps, index)
            yield numbered(self._timestep(timesteps, index), self.loop_counter)
            if self.stepped:
                index = self.next
            else:  # no call of `step`: perhaps the values are only read
                index += 1
                if getattr(self.pipe, "_interrupt", False):
                    raise PipelineInterrupted
                if self.any_step:
                    raise UnsupportedLoop("it does not call scheduler.step for every timestep")
        self._leave_loop()

    def _timestep(self, timesteps: Tensor, index: int) -> Tensor:
        on_grid = timesteps[min(max(index, 0), len(timesteps) - 1)]
        if self.off_grid is None:
            return on_grid
        dtype = on_grid.dtype if on_grid.is_floating_point() else torch.float32
        return torch.full_like(on_grid, self.off_grid.timestep, dtype=dtype)

    def step(self, call: dict[str, Any]) -> StepResult:
        """`scheduler.step` of the proxy."""
        if self.phase == AFTER:
            raise UnsupportedLoop(SEVERAL)
        if self.phase != LOOP:
            raise UnsupportedLoop("it calls scheduler.step outside a loop over scheduler.timesteps")
        if self.stepped:
            raise UnsupportedLoop("it calls scheduler.step, or that of a copy, more than once for a timestep")
        self.stepped = self.any_step = True
        # Pipelines set no_grad once, where they begin, so the mode can be changed from here to the next step. Code of
        # the search in between runs in the loop's own mode; `intercept` restores the caller's.
        if self._grad_mode is None:
            self._grad_mode = torch.is_grad_enabled()
        torch.set_grad_enabled(self._grad_mode)
        if self.hold is not None and self.hold.interrupted():
            self.pipe._interrupt = True
        self.stop_drawing()
        x, self.next = self.on_step(call)
        self._follow_draws(after_step=True)
        torch.set_grad_enabled(self._grad_mode or self.needs_graph)
        self._show_state(self.index + 1 if self.next is None else self.next)
        return StepResult(x)

    def _show_state(self, step: int) -> None:
        assert self._shown is not None
        self._shown.show(step, self.scheduler_state(step))

    def position(self) -> int | None:
        """The scheduler's own index of the step that the loop is at; None outside the loop."""
        if self.phase != LOOP or self.timesteps is None:
            return None
        return self.start + min(max(self.index, 0), len(self.timesteps) - 1)

    @contextmanager
    def pipeline_restored(self) -> Iterator[None]:
        """The pipeline as it was before the call, while the search decodes and scores in the middle of a step.

        A verifier may use the pipeline itself, or another one with the same models.
        """
        inside, state = dict(self.pipe.__dict__), self.pipe.__dict__
        _replace(state, self.pipe_state | {k: False for k in ("_interrupt",) if k in inside})
        self.suspended = True
        self.caches.lend()
        try:
            yield
        finally:
            self.suspended = False
            self.caches.take_back()
            interrupt = state.get("_interrupt") or inside.get("_interrupt")
            _replace(state, inside | ({"_interrupt": True} if interrupt else {}))

    def on_model_call(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.suspended or threading.get_ident() != self.thread:
            return self._call_outside(name, module, forward, args, kwargs)
        if self.phase == LOOP:
            return self.call_model(name, module, self._without_interception(forward), args, kwargs)
        if self._reading_after and is_denoiser(name):
            raise UnsupportedLoop(SEVERAL)
        if self.phase == BEFORE and "vae" not in name and not torch.is_grad_enabled():
            return self.encoder_cache(name, self._without_interception(forward), args, kwargs)
        return forward(*args, **kwargs)

    def on_encode(self, name: str, module: nn.Module, encode: Any, args: Any, kwargs: Any) -> Any:
        """An autoencoder's `encode`: the same input image has the same latents in every call of a search."""
        noise, apart = self._noise, self.suspended or threading.get_ident() != self.thread
        if apart or self.phase != BEFORE or torch.is_grad_enabled() or not isinstance(noise, Intercept):
            return encode(*args, **kwargs)
        return self.encoder_cache.encode(name, encode, args, kwargs, lambda: noise.count)

    def _call_outside(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """A call of the model that is not the loop's: a verifier's, or one of another thread."""
        self.caches.called_outside(name)
        with self.models_switched:
            return forward(*args, **kwargs)

    def _enter_loop(self, timesteps: Tensor, index: int) -> None:
        self.stop_drawing()
        if self.phase == BEFORE:
            if not self.start_known:
                self.start = start_index(timesteps, self.scheduler.__dict__["_timesteps"])
            self._shown = ShownState(self.scheduler)
            self._show_state(index)
        self.phase, self.index, self.stepped, self.timesteps = LOOP, index, False, timesteps
        self._follow_draws(after_step=False)

    def _leave_loop(self) -> None:
        if self.any_step:
            self.phase = AFTER
            self._intercept_draws(self.draw_after_loop, None)
        else:  # not the loop: the values were only read
            self.phase = BEFORE
            self.reads_expected += 1
            self.reads_done += 1
            self.start_drawing()

    # ---- random draws

    def _intercept_draws(
        self, source: Callable[..., Tensor | None], on_draw: Callable[[Tensor], None] | None
    ) -> None:
        self.stop_drawing()
        self._noise = Intercept(source, on_draw)
        self._noise.__enter__()  # type: ignore[no-untyped-call]

    def _follow_draws(self, after_step: bool) -> None:
        answer = self.draw_in_loop
        if answer is not None:
            self._noise = LoopIntercept(
                lambda draw, j: answer(draw, place_of(self.index, after_step, draw, j))
            )
            self._noise.__enter__()  # type: ignore[no-untyped-call]

    def _without_interception(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A model's forward without the interception of draws, which would slow down every tensor operation."""
        if self._noise is None:
            return forward

        def run(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                if self._noise is not None:
                    stack.enter_context(self._noise.paused())
                return forward(*args, **kwargs)

        return run

    def start_drawing(self) -> None:
        self._intercept_draws(self.draw_before_loop, self.on_draw)

    def stop_drawing(self) -> None:
        if self._noise is not None:
            self._noise.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._noise = None


def intercept(pipe: Any, arguments: dict[str, Any], driver: LoopDriver) -> Any:
    """Call the pipeline under a driver. Returns its output, or None when the driver ended the call."""
    with ExitStack() as stack:
        stack.enter_context(claimed(pipe))
        pipe, driver.hold = stack.enter_context(held(pipe))
        driver.pipe, driver.pipe_state = pipe, dict(pipe.__dict__)
        # An earlier call may have been left inside its loop; this one may be, too.
        components = dict(pipe.components)
        driver.caches = caches_of(components)
        driver.caches.reset()
        if driver.hold is not None:
            stack.callback(driver.caches.reset)
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        # Restores what a call leaves on the pipeline: guidance scale, step counts, the scheduler.
        stack.callback(_replace, pipe.__dict__, driver.pipe_state)
        stack.enter_context(cached_device(pipe, driver.encoder_cache.device))
        driver.scheduler = proxy_of(pipe, driver)
        pipe.__dict__["scheduler"] = driver.scheduler
        pipe.__dict__["_progress_bar_config"] = {"disable": True}
        stack.enter_context(watched(components, driver.on_model_call, driver.on_encode))
        if hasattr(pipe, "encode_prompt"):
            pipe.__dict__["encode_prompt"] = driver.encoder_cache.prompts.before(
                pipe, lambda: driver.phase == BEFORE and not torch.is_grad_enabled()
            )
        stack.enter_context(enumerate_by_step(driver.encoder_cache.loop_modules))
        stack.callback(driver.stop_drawing)
        driver.start_drawing()
        try:
            # Copies, since some pipelines write into the lists that they are given.
            run = stack.enter_context(caller_of(pipe, driver.encoder_cache.guiders))
            return run(**{k: list(v) if type(v) is list else v for k, v in arguments.items()})
        except LeaveLoop:
            return None


def _replace(state: dict[str, Any], content: dict[str, Any]) -> None:
    state.clear()
    state.update(content)
