"""The driver that evaluates an engine's batches in one call of the pipeline; serve.py tells how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import nullcontext
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from genscale.errors import UsageError
from genscale.pipelines.batch_exchange import BatchExchange
from genscale.pipelines.batch_padding import AS_THEY_ARE, padded_size
from genscale.pipelines.batch_parts import (
    OneAtATime,
    Part,
    batch_order,
    grouped,
    in_batch_order,
    own_rows,
    whole_or_split,
)
from genscale.pipelines.cache_rows import RowCacheState
from genscale.pipelines.followed_call import FollowedCall
from genscale.pipelines.intercepted_call import LeaveLoop, LoopDriver
from genscale.pipelines.latent_layout import as_own_latents
from genscale.pipelines.mixed_steps import RowSteps
from genscale.pipelines.one_branch import OneBranch
from genscale.pipelines.pipeline_call import PipelineCall
from genscale.pipelines.row_evidence import FailedCall, sizes_of
from genscale.pipelines.row_gather import Gather, GatherCache, NeedsRowPerLatent, rows_of, sample_of
from genscale.pipelines.row_mixing import Alone, RowsMix, first_alone, interleaved
from genscale.pipelines.step_study import Steps
from genscale.pipelines.watched_models import is_denoiser, zeros_like
from genscale.protocol.batches import Batch, Output


class ServingDriver(LoopDriver):
    """Evaluates the batches of one exchange in one call of the pipeline.

    sources: for each row of this pipeline call, the row of the probed call whose noise and conditioning it repeats.
    composition: prompt index of every row, if the call has one row a latent; then it serves only batches of just these
    prompts, in this order. followed: what the candidates bring into a loop that edits latents or draws noise.
    """

    def __init__(
        self,
        call: PipelineCall,
        exchange: BatchExchange,
        sources: tuple[int, ...],
        composition: tuple[int, ...] | None = None,
        followed: FollowedCall | None = None,
    ) -> None:
        super().__init__(call.encoder_cache, call.placeholders)
        self.call, self.probe, self.mixing = call, call.probe, call.mixing
        self.models_switched = nullcontext() if self.mixing is None else RLock()
        self.exchange, self.rows, self.composition = exchange, len(sources), composition
        self.reads_expected = call.probe.reads_expected
        self.start, self.start_known = call.probe.start, True  # comparing timesteps would wait for the device
        self.followed = followed
        if followed is None:
            self.replay = call.probe.replay_for(None if sources == tuple(range(call.rows)) else sources)
        else:
            self.replay, self.draw_in_loop = followed.replay, followed.draw_in_loop
        self.warm_up = True  # this pass evaluates nothing: it brings the loop to the step of the next batch
        self.prompts: tuple[int, ...] = ()  # prompt index of each latent under evaluation
        self.evaluations = 0  # NFE of the batch so far
        # For the user's callback: the last `step` was that of a batch; the pass only repeats what callbacks changed;
        # the next batch is not at the next step.
        self.after_real_step = self.replaying = self.jumped = False
        self._batch: Batch | None = None
        self._parts: Generator[tuple[Tensor, tuple[int, ...]], tuple[Tensor, Tensor], Output] | None = None
        self._part: Part | None = None  # of the batch, under evaluation
        self._gathered = GatherCache()
        self._one: OneBranch | None = None  # the only branch of guidance that the batch needs
        self.failed: FailedCall | None = None
        self._row_steps: RowSteps | None = None  # of the part under evaluation, where each row has its own
        self._order_seen = self._parted = False  # of the denoiser's rows; the batch has several parts
        self._called: Counter[str] = Counter()  # calls of each model in this iteration
        self._blocks: dict[str, int] = {}  # guidance copies of the latents in the last call of each model
        self.spared = 0.0  # of the part's NFE so far, how much work the model's caches spared

    def draw_before_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return self.replay(j, shape)

    @property
    def needs_graph(self) -> bool:
        return not self.warm_up and self._batch is not None and self._batch.grad

    def next_batch(self, output: Output | None) -> Batch:
        """The first batch (output None), or the one that follows this output. LeaveLoop: there is none."""
        with self.pipeline_restored():
            return self.exchange.next_batch(output)

    def first_step(self) -> int:
        batch = self._batch = self.next_batch(None)
        if self.followed is None:
            return 0
        start = self.followed.begin(batch)
        if self.followed.native:  # no warm-up: the loop begins with what the pipeline makes of noise
            self._open(batch)
        return start

    def scheduler_state(self, step: int) -> Mapping[str, Any]:
        batch = self._batch
        if self.warm_up or batch is None or step != batch.step:
            return self.probe.state_at(step)
        memory, rows = None, None if self._part is None else self._part.in_call
        if batch.memory is not None:
            memory = self.probe.layout.memory_from_rows(batch.memory, rows)
        return self.call.solver.shown(step, memory, batch.x.device)

    # ---------------------------------------------------------------- models

    def call_model(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self.warm_up or self.index == len(self.probe.evaluations):
            return self.placeholders.get(name, module, forward, args, kwargs)
        sample = sample_of(args, kwargs)
        rows = rows_of(sample)
        self._blocks[name] = max(1, rows // (len(self.prompts) * self.probe.layout.inner))
        if self.prompts != tuple(range(self.rows)) and self.composition is None:
            per_row = partial(self.call.per_row, name)
            gather = Gather(self.rows, self.prompts, sample, per_row)
            args = tuple(self._gathered(gather, name, str(i), a) for i, a in enumerate(args))
            kwargs = {k: self._gathered(gather, name, k, v) for k, v in kwargs.items()}
        self.caches.meet(kwargs)
        if self._row_steps is not None:
            given = self._row_steps.given
            args, kwargs = given((name, self._called[name]), module, forward, args, kwargs, self.call.ledger)
        alone = None if self._one is not None else self._first_alone(name, module, forward, args, kwargs)
        evaluate = partial(self._forward, name, module, forward, args, kwargs)
        try:
            if self._one is not None and is_denoiser(name):
                output, nfe = self._one(
                    len(self.prompts), args, kwargs, partial(self._forward, name, module, forward),
                    partial(self.placeholders.get, name, module, forward, args, kwargs),
                )  # fmt: skip
                self.evaluations += nfe
                return output
            output, spared = self.call.cache_work.call(name, module, len(self.prompts), evaluate)
        except Exception as error:
            self.failed = FailedCall(error, name, self._called[name], sizes_of((args, kwargs)), evaluate)
            raise
        finally:
            self._called[name] += 1
        if alone is not None:
            alone.compare(name, output)
        if is_denoiser(name):
            self.evaluations += rows
            self.spared += rows * spared
        if name not in self.placeholders.recorded:
            # Zeros: an autograd graph, or memory that a CUDA graph writes into again, must not outlive the batch.
            self.placeholders.recorded[name] = (zeros_like(output, rows, rows), rows)
        return output

    def _first_alone(
        self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any
    ) -> Alone | None:
        """One latent of the batch alone, where a model may mix them. RowsMix: the loop orders rows otherwise."""
        n, denoiser = len(self.prompts), is_denoiser(name)
        if self.call.own_rows or self.caches or n < 2:
            return None
        if denoiser and not self._order_seen:
            self._order_seen = True
            if interleaved(sample_of(args, kwargs), n):
                raise RowsMix(name)
        alone = first_alone(module, forward, args, kwargs, n)
        if denoiser and alone is not None:
            self.call.ledger.probes += alone.rows
            self.call.ledger.evaluations += alone.rows
        return alone

    def _forward(self, name: str, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """The output of the model that the batch names (a mix has several), with a graph if the batch needs one."""
        run, batch = forward, self._batch
        if batch is not None and batch.model and is_denoiser(name):
            assert self.mixing is not None
            variant = self.mixing.variants[batch.model]

            def run(*args: Any, **kwargs: Any) -> Any:
                with self.models_switched:
                    return variant(name, module, forward, args, kwargs)

        if batch is not None and self.needs_graph:
            return self.call.models.call(run, args, kwargs, batch.checkpoint)
        return run(*args, **kwargs)

    # ---------------------------------------------------------------- steps

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        self._called.clear()
        if self.warm_up:
            return self._finish_warm_up(call["sample"])
        if self._one is not None and self._one.must_repeat():
            self.after_real_step = self.replaying = self.jumped = False
            return call["sample"], self.index
        layout = self.probe.layout
        with torch.set_grad_enabled(self.needs_graph):
            value, x = layout.to_rows(call["model_output"]), layout.to_rows(call["sample"])
            if x.shape[0] != len(self.prompts) or value.shape[0] != len(self.prompts):
                raise NeedsRowPerLatent
            self.after_real_step = self.index < len(self.probe.evaluations)
            self.replaying = self.jumped = False
            self.call.solver.call = call
            answer = self._absorb(value, x)
        if isinstance(answer, Tensor):
            return answer, self.index
        batch = self._batch = self.next_batch(answer)
        if self.exchange.engine.could_mix and not self.exchange.studied:
            raise LeaveLoop
        self.jumped = batch.step != self.index + 1
        if self.composition is not None and batch.prompts != self.composition:
            raise NeedsRowPerLatent
        if self.followed is not None and not self.followed.goes_on(batch, self.jumped, self.exchange.engine):
            raise LeaveLoop
        if self.followed is not None and self.jumped:  # edits between the steps before the batch's come first
            self.warm_up, self.prompts = True, batch.prompts
            return layout.from_rows(batch.x.detach()), batch.step - 1
        return self._open(batch), batch.step

    def _absorb(self, value: Tensor, x: Tensor) -> Tensor | Output:
        """The latents of the batch's next part; after its last part, the batch's output."""
        assert self._parts is not None
        try:
            latents, self.prompts = self._parts.send((value, x))
        except StopIteration as finished:
            output: Output = finished.value
            return output
        return self.probe.layout.from_rows(latents)

    def _finish_warm_up(self, sample: Tensor) -> tuple[Tensor, int | None]:
        """Go to the step of the batch: at once, or step by step where the user's callback changes what follows."""
        batch = self._batch
        assert batch is not None
        self.after_real_step, self.replaying = False, self.probe.callback_edits and batch.step > 0
        if self.followed is not None and self.followed.path:
            return self.probe.layout.from_rows(self.followed.path.pop(0)), self.index + 1
        if self.replaying and self.index + 1 < batch.step:
            return sample, self.index + 1
        latents = self._open(batch)
        if self.followed is not None and batch.step == 0:
            self.followed.restored = latents
        return latents, batch.step

    def end_of_step(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """What `callback_on_step_end` returns. One that changes later steps allows no jump but in a new call."""
        if getattr(self.pipe, "_interrupt", False):
            left = None if self.jumped or self._parted else self.probe.layout.to_rows(tensors["latents"])
            self.exchange.left = left if left is None or self._part is None else self._part.from_call(left)
        elif self._parted and self.probe.callback_edits:  # it sees parts after the first a step too early
            raise OneAtATime
        if self.jumped and self.probe.callback_edits:
            raise LeaveLoop
        return tensors if self.followed is None else self.followed.at_step_end(tensors)

    # ---------------------------------------------------------------- batches

    def _open(self, batch: Batch) -> Tensor:
        """Begin a batch; the latents of its first part, as `step` returns them."""
        if self.composition is not None and batch.prompts != self.composition:
            raise NeedsRowPerLatent
        self.warm_up, self._batch = False, batch
        self._one = None if batch.branch is None else OneBranch(self.call.branches(), batch.branch)
        if self._one is not None and self.followed is not None and not self._one.branches.together:
            raise UsageError(
                f"{type(self.pipe).__name__} edits latents in its loop and evaluates the branches of guidance one "
                "after the other: they cannot be evaluated alone."
            )
        self.off_grid = None if batch.time is None else self.call.level_of(batch.time)
        self.call.solver.calls = None if batch.steps is None else self._steps.calls
        self._parts = self._in_parts(batch)
        with torch.set_grad_enabled(batch.grad):
            latents, self.prompts = next(self._parts)
            return self.probe.layout.from_rows(latents)

    def _in_parts(
        self, batch: Batch
    ) -> Generator[tuple[Tensor, tuple[int, ...]], tuple[Tensor, Tensor], Output]:
        """Evaluate a batch in one part, or in several (`_parts_of`)."""
        kept, nfe, skipped, values, samples = self._kept(batch), 0, 0.0, [], []
        parts, after = self._parts_of(batch, kept), list[RowCacheState]()
        self._parted = len(parts) > 1
        for part in parts:
            self._part, self.evaluations, self.spared = part, 0, 0.0
            self._set_row_steps(batch.steps, part)
            own = self.call.own_rows
            prompts = tuple(range(self.rows)) if own else tuple(batch.prompts[i] for i in part.rows)
            before = [kept[i] for i in part.in_call] if kept else []
            self.caches.load(before or [None] * len(prompts), prompts)
            latents = part.to_call(batch.x)
            if latents._base is not None and self.call.compiled:
                latents = latents.clone()  # views, and where they begin, make other graphs
            value, x = yield as_own_latents(latents, self.probe.latents), prompts
            values.append(part.from_call(value))
            # A copy: some loops write the next latents into the tensor of which this is a view.
            samples.append(part.from_call(x).clone() if len(parts) > 1 else part.from_call(x))
            nfe += part.evaluations(self.evaluations)
            skipped += self.spared * part.wanted / len(part.rows)
            if kept:
                if before[0] is None:
                    self.caches.begun_at(batch.step)
                left = self.caches.read(len(prompts), self._blocks, self.exchange.engine.on_host)
                after += [left[i] for i in part.places]
        value, x = in_batch_order(parts, values), in_batch_order(parts, samples)
        states = tuple(after[i] for i in batch_order(parts)) if kept else ()
        return Output(value, x, nfe, caches=states, skipped=skipped)

    def _kept(self, batch: Batch) -> tuple[RowCacheState | None, ...]:
        """What the model's caches hold for each row of a batch; (): they begin empty and nothing of them is kept.

        So it is for calls that are not those of the pipeline's own run: at other noise levels, of one branch of
        guidance, of a mix.
        """
        plain = batch.branch is None and batch.time is None and self.mixing is None
        return (batch.caches or (None,) * len(batch.prompts)) if self.caches and plain else ()

    def _parts_of(self, batch: Batch, kept: tuple[RowCacheState | None, ...]) -> list[Part]:
        """Rows of which the model's caches hold unlike states are apart."""
        if not kept:
            return self._of_group(batch.prompts)
        return grouped(self.caches.groups(kept), batch.prompts, self._of_group)

    def _of_group(self, prompts: tuple[int, ...]) -> list[Part]:
        """One part, filled up if so asked, or two if there are as many rows as in the call but other prompts.

        With equal counts, conditioning (to be gathered) and what the loop made of the latents (to be left alone)
        look the same.
        """
        if self.call.own_rows:
            return own_rows(prompts, self.rows)
        n, own, most = len(prompts), tuple(range(self.rows)), self.exchange.engine.batch_size
        if self.composition is not None:
            return whole_or_split(prompts, False)
        pad = AS_THEY_ARE if self.caches.apart or self.needs_graph else self.exchange.pad
        size = padded_size(n, most, pad, lambda m: m != self.rows or prompts == own)
        if size > n:
            return [Part((*range(n), *(0,) * (size - n)), n)]
        return whole_or_split(prompts, n == self.rows and prompts != own)

    @property
    def _steps(self) -> Steps:
        return self.exchange.steps or Steps()

    def _set_row_steps(self, at: tuple[int, ...] | None, part: Part) -> None:
        self._row_steps = None if at is None else RowSteps(self._steps, tuple(at[i] for i in part.rows))
        self.scale_rows = None if self._row_steps is None else self._row_steps.scaled
