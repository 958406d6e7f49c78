"""Evaluate a mix: each batch of the engine becomes one batch for every source, and their outputs become one output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from genscale.diffusion.mixture_arithmetic import combined, rate
from genscale.diffusion.mixtures import Mix, MixtureContext, Source
from genscale.diffusion.prediction import View
from genscale.errors import UsageError
from genscale.protocol.batches import Batch, Output


class Mixer:
    """Turns a batch into the batches of the mix's sources, one at a time, and combines their outputs.

    view: what the outputs mean, or why that cannot be read. steps: model calls of the grid. rows: (prompt index, a
    source's prompt or None) -> the row of the model's prompts. rated: whether outputs carry the corrector's rate.
    """

    def __init__(
        self,
        mix: Mix,
        view: View | str,
        steps: int,
        rows: Callable[[int, str | None], int] = lambda prompt, text: prompt,
        rated: bool = False,
    ) -> None:
        self.mix, self.view, self.steps, self.rows, self.rated = mix, view, steps, rows, rated
        self._batch: Batch | None = None
        self._active: list[tuple[Source, float]] = []
        self._outputs: list[Output] = []

    def open(self, batch: Batch) -> Batch:
        """The first batch to evaluate in place of this one. A batch that was not finished is dropped."""
        self._batch, self._outputs = batch, []
        self._active = []
        if batch.branch is None and batch.step < self.steps:
            weights = self.mix.weights(self.moment(batch))
            self._active = [(s, w) for s, w in zip(self.mix.sources, weights, strict=True) if w != 0]
            if not self._active:
                raise UsageError(
                    f"all weights of the mix are 0 at step {batch.step}: give one of them a value."
                )
        return self._next() if self._active else batch

    def absorb(self, output: Output) -> Batch | Output:
        """Take an output; returns the next batch to evaluate, or the combined output."""
        if not self._active:
            return output
        self._outputs.append(output)
        return self._next() if len(self._outputs) < len(self._active) else self._mixed()

    def moment(self, batch: Batch) -> MixtureContext:
        return MixtureContext.at(self.view, batch.step, self.steps, batch.time)

    def _next(self) -> Batch:
        assert self._batch is not None
        source, _ = self._active[len(self._outputs)]
        return replace(
            self._batch,
            prompts=tuple(self.rows(p, source.prompt) for p in self._batch.prompts),
            branch=source.branch,
            model=source.model,
        )

    def _mixed(self) -> Output:
        batch = self._batch
        assert batch is not None
        with torch.set_grad_enabled(batch.grad):  # the caller's mode may differ
            value, rates = self._value(self.moment(batch))
        return Output(value, self._outputs[0].x, sum(o.evaluations for o in self._outputs), rates)

    def _value(self, moment: MixtureContext) -> tuple[Tensor, Tensor | None]:
        outputs, weights = [o.value for o in self._outputs], [w for _, w in self._active]
        x, level = self._outputs[0].x, moment.level
        joined = self.mix.join(moment, dict(zip((s for s, _ in self._active), outputs, strict=True)))
        if joined is not None:  # only linear combinations have a rate
            return joined, None
        if weights == [1.0]:  # one model's output as it is
            none = torch.zeros(len(x), dtype=torch.float64, device=x.device) if self.rated else None
            return outputs[0], none
        value = combined(outputs, weights, self.view, level, x)
        return value, rate(outputs, weights, self.view, level, x) if self.rated else None
