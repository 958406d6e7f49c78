"""Tells an exception that comes from the number of rows in a batch from every other one.

A loop may be unable to carry other rows than its call's: it blends latents with images that have one row a prompt, or
its conditioning cannot be gathered. It shows as an exception, and so does a fault of a model or of the user's own
code. The exception itself does not say which, so the same iteration is rehearsed with placeholder outputs, without
models and without callbacks:

- the loop's code fails with these rows again: they are the reason;
- it does not, and a model had raised: the rows are the reason if the first dimensions of its inputs are not those that
  it gets in a call with one row for each latent; where that fails, or was what failed, if they are not those of the
  call's own rows times their number, or if the model fails again, and is then given the call's own rows;
- all other exceptions are none of the rows' business and must reach the caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from genscale.errors import UsageError
from genscale.pipelines.failures import alike, fails_again, may_be_mismatch
from genscale.pipelines.intercepted_call import LOOP, LeaveLoop, LoopDriver, intercept
from genscale.pipelines.latent_layout import as_own_latents
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.row_gather import Gather, NeedsRowPerLatent, sample_of

Sizes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class FailedCall:
    """A call of a model that raised: the model, how often it was called before in the iteration, its inputs' sizes.

    again: makes the same call once more.
    """

    error: Exception
    model: str
    number: int
    sizes: Sizes
    again: Callable[[], Any]


class FailedLoop(Protocol):
    """The part of a serving driver that tells where it failed."""

    composition: tuple[int, ...] | None
    prompts: tuple[int, ...]  # prompt index of each latent in the loop
    phase: str
    index: int
    failed: FailedCall | None


class Rehearsal(LoopDriver):
    """One iteration at `step` with latents of `prompts`, with placeholder outputs; then the call ends.

    composition: prompt index of each row of the pipeline call; None: the call's own rows, and conditioning is
    gathered. sizes: of the inputs of each model call, by model and number. entered: the latents reached the loop.
    """

    def __init__(
        self, call: PipelineCall, prompts: tuple[int, ...], step: int, composition: tuple[int, ...] | None
    ) -> None:
        super().__init__(call.encoder_cache, call.placeholders)
        self.call, self.prompts, self.step_index, self.composition = call, prompts, step, composition
        self.given, sources = call.given_for(composition)
        self.rows = len(sources)
        self.reads_expected = call.probe.reads_expected
        self.replay = call.probe.replay_for(None if sources == tuple(range(call.rows)) else sources)
        self.sizes: dict[tuple[str, int], Sizes] = {}
        self.entered = False
        self._called: Counter[str] = Counter()

    def run(self) -> Rehearsal:
        intercept(self.call.pipe, self.given, self)
        return self

    def draw_before_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return self.replay(j, shape)

    def first_step(self) -> int:
        return self.step_index

    def call_model(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.entered:
            if self.composition is None and self.prompts != tuple(range(self.rows)):
                per_row = partial(self.call.per_row, name)
                gather = Gather(self.rows, self.prompts, sample_of(args, kwargs), per_row)
                args = tuple(gather(a, str(i)) for i, a in enumerate(args))
                kwargs = {k: gather(v, k) for k, v in kwargs.items()}
            self.sizes[name, self._called[name]] = sizes_of((args, kwargs))
            self._called[name] += 1
        return self.placeholders.get(name, module, forward, args, kwargs)

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        layout = self.call.probe.layout
        if self.entered:
            rows = [layout.to_rows(call[name]).shape[0] for name in ("model_output", "sample")]
            if rows != [len(self.prompts)] * 2:
                raise NeedsRowPerLatent
            raise LeaveLoop
        self.entered = True
        latents = self.call.latents_of(self.prompts)
        return layout.from_rows(as_own_latents(latents, self.call.latents)), self.index


def comes_from_rows(call: PipelineCall, driver: FailedLoop, error: Exception) -> bool:
    """Whether the loop raised `error` because it, or a model, cannot take latents of `driver.prompts`.

    In a call with one row for each latent, also whether the pipeline cannot be called for these rows.
    """
    composition, own = driver.composition, tuple(range(len(call.sources)))
    prompts = driver.prompts or composition
    if not prompts or prompts == own or not may_be_mismatch(error, call.arguments.given):
        return False
    if call.loop is not None if composition is not None else driver.phase != LOOP:
        return False
    step = min(driver.index, len(call.probe.evaluations) - 1)
    rehearsal, fails = _rehearsed(call, prompts, step, composition, error)
    if fails:
        return rehearsal.entered or composition is not None
    failed = driver.failed
    if failed is None or failed.error is not error:
        return False
    place = failed.model, failed.number
    if composition is None:
        alone, fails = _rehearsed(call, prompts, step, prompts, error)
        if not fails:
            wanted = alone.sizes.get(place)
            return wanted is not None and _other_rows(failed.sizes, wanted, rehearsal.rows, len(prompts))
    plain, fails = _rehearsed(call, own, step, None, error)
    wanted = plain.sizes.get(place)
    if fails or wanted is None:
        return False
    return _not_scaled(failed.sizes, wanted, len(own), len(prompts)) or fails_again(error, failed.again)


def _rehearsed(
    call: PipelineCall,
    prompts: tuple[int, ...],
    step: int,
    composition: tuple[int, ...] | None,
    error: Exception,
) -> tuple[Rehearsal, bool]:
    """A rehearsal, and whether it fails. An exception that does not come a second time is a fault, and is raised.

    error: the exception that is to be explained.
    """
    first, second = (Rehearsal(call, prompts, step, composition) for _ in range(2))
    try:
        return first.run(), False
    except Exception as one:
        try:
            second.run()
        except Exception as two:
            if alike(one, two):
                return second, True
            if not alike(two, error):
                raise
        raise


def not_in_batches(call: PipelineCall, n: int) -> UsageError:
    """A pipeline that, called with `n` rows, steps another number of latents."""
    cure = "call it with one prompt at a time" if n > 1 else "it cannot be searched"
    return UsageError(
        f"{type(call.pipe).__name__} was called for {n} images or videos and does not evaluate just as many latents "
        f"at a step: {cure}."
    )


def sizes_of(value: Any) -> Sizes:
    """Sizes of all tensors in arguments, in order; a list or tuple counts with its length."""
    if isinstance(value, Tensor):
        return (tuple(value.shape),)
    if isinstance(value, dict):
        return tuple(s for v in value.values() for s in sizes_of(v))
    if isinstance(value, list | tuple):
        return ((len(value),), *(s for v in value for s in sizes_of(v)))
    return ()


def _not_scaled(found: Sizes, own: Sizes, rows: int, n: int) -> bool:
    """Whether some input has the first dimension of the call's own `rows` where others have one for `n` latents."""
    if [len(a) for a in found] != [len(b) for b in own]:
        return True
    first = [(a[0], b[0]) for a, b in zip(found, own, strict=True) if len(a) > 1 and b[0] % rows == 0]
    scaled = [a * rows == b * n for a, b in first]
    return any(scaled) and not all(scaled)


def _other_rows(found: Sizes, wanted: Sizes, rows: int, n: int) -> bool:
    """Whether inputs have other first dimensions than wanted, or the call's `rows` where there should be `n`."""
    if len(found) != len(wanted):
        return True
    for a, b in zip(found, wanted, strict=True):
        if len(a) != len(b) or (a and a[0] != b[0]):
            return True
        if any(x != y and x * n == y * rows for x, y in zip(a, b, strict=True)):
            return True
    return False
