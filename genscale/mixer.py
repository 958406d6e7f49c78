"""The model side of a mix: the engine's batch becomes one batch a source, and their outputs one output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from genscale.errors import Refusal
from genscale.mix import Mix, Moment, Part, Source, rate, total_of
from genscale.prediction import View
from genscale.protocol import Batch, Output


@dataclass
class Mixer:
    """Between an engine and a model: `open` a batch, then `absorb` outputs until it gives the mixed one.

    view: how outputs are read, or why they cannot be. steps: model calls of the pipeline's grid. rows: (prompt,
    source.prompt) to the prompt that is asked in its place. rates: also give `Output.rate`. views: those of other
    models by name, if they differ; all must have the same noise levels. A batch that asks for one branch alone is
    passed through. When memory ran out, open the smaller batch: what was evaluated of the larger one is dropped, and
    counts in no output.
    """

    mix: Mix
    view: View | str
    steps: int
    rows: Callable[[int, str], int]
    rates: bool = False
    views: Mapping[str, View] = field(default_factory=dict)
    _batch: Batch | None = field(default=None, init=False)
    _todo: list[tuple[Source, float]] = field(default_factory=list, init=False)
    _done: list[Output] = field(default_factory=list, init=False)

    def moment(self, step: int, time: float | None = None) -> Moment:
        """Of a model call at a step of the grid, or near it at a linear time of its own."""
        if isinstance(self.view, str):
            return Moment(step, self.steps)
        levels = self.view.schedule
        level = levels.level(step) if time is None else levels.between(time)
        below = (levels.level(i) for i in range(step, levels.steps + 1))
        following = next(
            (other for other in below if other.time < level.time - 1e-9), levels.level(levels.steps)
        )
        return Moment(step, self.steps, level, following)

    def active(self, moment: Moment) -> list[tuple[Source, float]]:
        """The sources that are evaluated then, and their weights."""
        weights = self.mix.weights(moment)
        found = [(s, w) for s, w in zip(self.mix.sources, weights, strict=True) if w != 0]
        if not found:
            raise Refusal(f"all weights of the mix are 0 at step {moment.step}: give one source a weight.")
        return found

    def evaluations(self, prices: Callable[[Source, int], int]) -> tuple[int, ...]:
        """Evaluations of one row at each model call of the grid; prices: those of (a source, at a step)."""
        return tuple(
            sum(prices(source, i) for source, _ in self.active(self.moment(i))) for i in range(self.steps)
        )

    def weight_sum(self, step: int) -> float:
        """The sum of weights at a step of the grid."""
        return total_of(self.mix.weights(self.moment(step)))

    def open(self, batch: Batch) -> Batch:
        """The first batch for the model."""
        self._batch, self._done = batch, []
        if batch.branch is not None or batch.model or batch.step >= self.steps:  # the last: no model call
            self._todo = []
            return batch
        self._todo = self.active(self.moment(batch.step, batch.time))
        return self._ask(batch, self._todo[0][0])

    def absorb(self, output: Output) -> Batch | Output:
        """The next batch for the model, or what all of them make."""
        batch = self._batch
        assert batch is not None, "open a batch first"
        if not self._todo:
            return output
        self._done.append(output)
        if len(self._done) < len(self._todo):
            return self._ask(batch, self._todo[len(self._done)][0])
        made = self._mixed(batch, self._todo, self._done)
        self._done = []
        return made

    def _ask(self, batch: Batch, source: Source) -> Batch:
        if source.own:
            return batch
        prompts = batch.prompts
        if source.prompt is not None:
            prompts = tuple(self.rows(p, source.prompt) for p in prompts)
        return replace(batch, prompts=prompts, branch=source.branch, model=source.model)

    def _mixed(self, batch: Batch, asked: Sequence[tuple[Source, float]], done: Sequence[Output]) -> Output:
        moment = self.moment(batch.step, batch.time)
        with torch.set_grad_enabled(batch.grad):
            parts = [
                Part(source, weight, self._value(source, output, moment), output.x, self.view)
                for (source, weight), output in zip(asked, done, strict=True)
            ]
            alone = len(parts) == 1 and parts[0].weight == 1 and self.mix.linear
            value = parts[0].value if alone else self.mix.join(parts, moment)
            rates = None
            if self.rates and self.mix.linear:
                n = len(batch.prompts)
                rates = (
                    torch.zeros(n, dtype=torch.float64, device=value.device) if alone else rate(parts, moment)
                )
        return Output(value, done[0].x, sum(o.evaluations for o in done), rates)

    def _value(self, source: Source, output: Output, moment: Moment) -> Tensor:
        """A model's output as the pipeline's own model would have put it."""
        view = self.views.get(source.model)
        if view is None or isinstance(self.view, str) or moment.level is None:
            return output.value
        pair = view.pair(moment.level, output.value, output.x, limited=False)
        return self.view.output_at(moment.level, *pair).to(output.value.dtype)
