"""Hands an engine's batches to a pipeline's loop, and the loop's outputs to the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Protocol, cast

from torch import Tensor

from genscale.engine.ledger import Ledger
from genscale.engine.mixture_batches import Mixer
from genscale.errors import UsageError
from genscale.pipelines.batch_padding import AS_THEY_ARE
from genscale.pipelines.intercepted_call import LeaveLoop
from genscale.pipelines.step_study import Steps
from genscale.protocol.batches import Batch, Decode, Output
from genscale.protocol.particles import Candidate


class BatchSource(Protocol):
    """Who has the batches that a pipeline's loop evaluates: an Engine, or in a worker process a TaskedEngine."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def on_host(self) -> bool: ...
    @property
    def could_mix(self) -> bool: ...
    @property
    def evaluated(self) -> list[tuple[int, Candidate]]: ...
    def run(self) -> Generator[Batch, Output, None]: ...
    def halve(self, rows: int) -> Batch | None: ...
    def one_by_one(self) -> Batch: ...
    def mix_steps(self, allowed: bool) -> Batch | None: ...
    def finish_unfinished(self, decode: Decode, left: Tensor | None = None) -> None: ...
    def interrupted(self) -> str: ...


if TYPE_CHECKING:
    from genscale.engine.engine import Engine

    _ENGINE: type[BatchSource] = Engine  # it is one


class BatchExchange:
    """Drives the engine's generator from inside a pipeline's loop.

    The loop may be left and entered again (memory ran out, another call is needed), so the batch that is not yet
    evaluated is kept here. Exceptions of the engine (a verifier's) are kept, too, since the pipeline must not handle
    them as its own.

    prepare: makes the pipeline's models differentiable, before the first batch with a graph. mixer: turns each batch of
    the engine into one for each prediction of a mix, and their outputs into one. pad: how batches are filled up
    (batch_padding.py).

    batch: the batch to evaluate. answered: how many were. closed: the engine has ended. error: what the engine raised.
    studied: whether it is known if batches may hold rows of different steps. steps: what these need, if so.
    left: the batch's latents where the user's callback interrupted the pipeline, with what the loop and the callback
    made of them.
    """

    def __init__(
        self,
        engine: BatchSource,
        prepare: Callable[[], None],
        mixer: Mixer | None = None,
        pad: str = AS_THEY_ARE,
    ) -> None:
        self.pad = pad
        self.engine, self.loop, self.prepare, self.mixer = engine, engine.run(), prepare, mixer
        self.batch: Batch | None = None
        self.error: BaseException | None = None
        self.closed, self.answered = False, 0
        self.left: Tensor | None = None
        self.studied, self.steps = mixer is not None, cast("Steps | None", None)
        self._started = 0.0  # when the batch was handed out
        self._advance(self._first)

    def next_batch(self, output: Output | None) -> Batch:
        """The batch to evaluate (output None), or the one that follows this output. LeaveLoop: there is none."""
        if output is not None:
            self.answered += 1
            self.engine.ledger.add_seconds("denoise", time.perf_counter() - self._started)
            self._advance(lambda: self._following(output))
        if self.batch is None or self.closed or self.error:
            raise LeaveLoop
        self._started = time.perf_counter()
        return self.batch

    def _following(self, output: Output) -> Batch:
        """The batch of the mix's next prediction, or of the engine."""
        if self.mixer is None:
            return self.loop.send(output)
        following = self.mixer.absorb(output)
        return following if isinstance(following, Batch) else self.mixer.open(self.loop.send(following))

    def _first(self) -> Batch:
        batch = next(self.loop)
        return batch if self.mixer is None else self.mixer.open(batch)

    def _advance(self, make: Callable[[], Batch]) -> None:
        try:
            self.batch = make()
            if self.batch.grad:
                self.prepare()
        except StopIteration:
            self.batch, self.closed = None, True
        except BaseException as error:
            # Python turns a StopIteration that leaves a generator into a RuntimeError; the user's own comes through.
            ended = isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration)
            self.error = error.__cause__ if ended else error

    def one_by_one(self) -> None:
        """Replace the batch by one of one latent; so are all that follow."""
        batch = self.engine.one_by_one()
        self.batch = batch if self.mixer is None else self.mixer.open(batch)

    def mix_steps(self, steps: Steps | None) -> None:
        """Let batches hold rows of different steps; None: not any more, and an open one that does is replaced."""
        self.studied, self.steps = True, steps
        if steps is not None:
            steps.one_size = self.pad != AS_THEY_ARE
        batch = self.engine.mix_steps(steps is not None)
        if batch is not None:
            self.batch = batch

    def halve(self, error: Exception, filled_up: int = 0) -> None:
        """After the accelerator's memory ran out: replace the batch by a smaller one.

        filled_up: latents of the model call, if it was filled up (batch_padding.py).
        """
        assert self.batch is not None
        smaller = self.engine.halve(max(len(self.batch.prompts), filled_up))
        if smaller is None:
            raise UsageError(
                f"one latent does not fit into the accelerator's memory ({str(error).splitlines()[0]}): "
                "use offloading, a smaller size or a smaller dtype."
            ) from error
        self.batch = smaller if self.mixer is None else self.mixer.open(smaller)
