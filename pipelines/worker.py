"""What a worker process does: evaluates batches in its pipeline's own loop, and decodes and scores candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genscale.engine.judging import Judged, Judging, Unjudged
from genscale.engine.ledger import Ledger
from genscale.engine.spread import Evaluate, Evaluated, Judge, JudgedThere
from genscale.engine.verifier_calls import Left
from genscale.engine.verifier_roles import Roles
from genscale.errors import UsageError
from genscale.pipelines.batch_padding import AS_THEY_ARE
from genscale.pipelines.bound_call import Arguments
from genscale.pipelines.decode import Decoder
from genscale.pipelines.loop_noise import restore_global
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.serve import serve
from genscale.protocol.batches import Batch, Decode, Output
from genscale.protocol.particles import Candidate
from genscale.workers import wire


@dataclass(frozen=True)
class CallAsGiven:
    """A pipeline's call before anything is drawn from its generators.

    arguments: by position and by name (`wire.dumps`). states: of torch's global generators.
    """

    arguments: bytes
    states: Any


@dataclass(frozen=True)
class Opening:
    """What a worker must know of a search.

    roles: the verifiers. batch_size: rows in one model call, at most; decode_batch: that are decoded together. pad: how
    batches are filled up. branches: whether single branches of guidance will be evaluated.
    """

    call: CallAsGiven
    roles: Roles
    batch_size: int
    decode_batch: int
    pad: str = AS_THEY_ARE
    branches: bool = False


class Worker:
    """A pipeline in a worker process. made: the pipeline, or what makes it. devices: of all workers' pipelines."""

    def __init__(self, i: int, made: Any, makes: bool, devices: list[str] | None) -> None:
        self.pipe = made() if makes else made
        if devices is not None:
            self.pipe.to(devices[i % len(devices)])
        with suppress(AttributeError):
            self.pipe.set_progress_bar_config(disable=True)

    def open(self, opening: Opening) -> Callable[[Iterator[Any], Callable[[Any], None]], None]:
        """Find out about the call, as the driver of the search has."""
        args, kwargs = wire.loads(opening.call.arguments)
        restore_global(opening.call.states, torch.device(getattr(self.pipe, "device", "cpu")))
        call = PipelineCall(self.pipe, Arguments(self.pipe, args, kwargs))
        if opening.branches:
            call.branches()  # now: it calls the pipeline, which cannot be done inside its loop
        decoder = Decoder(call, with_callback=False)
        opening.roles.prepare(call.texts, call.latents.device)
        return partial(_serve, call, decoder, opening)


def _serve(
    call: PipelineCall,
    decoder: Decoder,
    opening: Opening,
    tasks: Iterator[Any],
    answer: Callable[[Any], None],
) -> None:
    tasked = TaskedEngine(tasks, answer, opening, decoder.media, call)
    serve(call, tasked, decoder.for_unfinished().media, pad=opening.pad)


class TaskedEngine:
    """Hands the batches that a worker is given to its pipeline's loop, in place of an `Engine`.

    Where memory runs out it divides them; the driver of the search does not see that.
    """

    on_host = could_mix = False

    def __init__(
        self,
        tasks: Iterator[Any],
        answer: Callable[[Any], None],
        opening: Opening,
        decode: Decode,
        call: PipelineCall,
    ) -> None:
        self.batch_size, self.ledger = opening.batch_size, Ledger()
        self._tasks, self._answer, self._device = tasks, answer, call.latents.device
        self._solver = call.solver
        self._roles, self._decode, self._decoded = opening.roles, decode, opening.decode_batch
        self.evaluated: list[tuple[int, Candidate]] = []  # followed loops are not spread
        self._pieces: list[Batch] = []  # of the batch under way; the first is being evaluated

    def run(self) -> Generator[Batch, Output, None]:
        """Yield batches and be sent their outputs, until no task is left."""
        for task in self._tasks:
            if isinstance(task, Judge):
                self._answer(self._judged(task))
            else:
                yield from self._evaluated(task)

    def _evaluated(self, task: Evaluate) -> Generator[Batch, Output, None]:
        started = time.perf_counter()
        self._pieces = task.batch.to(self._device).split(self.batch_size)
        outputs = []
        while self._pieces:
            outputs.append((yield self._pieces[0]))
            del self._pieces[0]
        self._answer(Evaluated(Output.cat(outputs), time.perf_counter() - started, self._solver.call))

    def _judged(self, task: Judge) -> JudgedThere:
        ledger, started = Ledger(), time.monotonic()
        judging = Judging(self._roles, self._decode, ledger)

        def left() -> float:
            return task.seconds - (time.monotonic() - started)

        found = self._in_parts(judging, task.asked.to(self._device), left)
        if not task.shows:
            found.media = None
        return JudgedThere(found, ledger)

    def _in_parts(self, judging: Judging, asked: Unjudged, left: Left) -> Judged:
        """Decode and score as many together as fit into memory."""
        while True:
            try:
                parts = asked.split(self._decoded)
                return Judged.cat([(len(part), judging(part, left)) for part in parts])
            except torch.cuda.OutOfMemoryError as error:
                if self._decoded == 1:
                    raise UsageError(
                        "decoding and scoring of one candidate does not fit into the accelerator's memory: use "
                        f"offloading, a smaller size, or a verifier on another device ({error})."
                    ) from error
                self._decoded = max(1, self._decoded // 2)

    # ---------------------------------------------------------------- what the pipeline's loop asks for

    def halve(self, rows: int) -> Batch | None:
        """After memory ran out on a batch of `rows`: a smaller batch instead of it, or None if it was one row."""
        if rows <= 1:
            return None
        self.batch_size = max(1, rows // 2)
        return self._again()

    def one_by_one(self) -> Batch:
        """Another batch instead of the open one, of one latent, as all that follow."""
        self.batch_size = 1
        return self._again()

    def _again(self) -> Batch:
        self._pieces = [small for piece in self._pieces for small in piece.split(self.batch_size)]
        return self._pieces[0]

    def mix_steps(self, allowed: bool) -> Batch | None:
        """The driver of the search makes no batches of several steps."""
        return None

    def finish_unfinished(self, decode: Decode, left: Tensor | None = None) -> None:
        raise AssertionError("a worker's call has no callback that could interrupt it")

    def interrupted(self) -> str:
        return "interrupted"
