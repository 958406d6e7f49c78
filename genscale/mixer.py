"""Between an engine and a model: every batch becomes one for each source of a mix, and their outputs one output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from genscale.mix import Mix, Moment, Source, combined, rate
from genscale.prediction import View
from genscale.protocol import Batch, Output


class Mixer:
    """Opens batches and absorbs outputs.

    view: what the outputs mean, or why that cannot be read. steps: model calls of the grid. rows: (prompt index, a
    source's prompt) -> prompt index of the model's. rated: also give the corrector's rate.
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
        """The first batch to evaluate for it; forgets a batch that was under way."""
        self._batch, self._outputs = batch, []
        self._active = []
        if batch.branch is None and batch.step < self.steps:
            weights = self.mix.weights(self.moment(batch))
            self._active = [(s, w) for s, w in zip(self.mix.sources, weights, strict=True) if w != 0]
        if self._active == [(Source(), 1.0)] and not self.rated:
            self._active = []
        return self._next() if self._active else batch

    def absorb(self, output: Output) -> Batch | Output:
        """The next batch to evaluate, or the mixed output."""
        if not self._active:
            return output
        self._outputs.append(output)
        return self._next() if len(self._outputs) < len(self._active) else self._mixed()

    def moment(self, batch: Batch) -> Moment:
        """Where a batch is; of one between the levels of the grid, the next level is the grid's below it."""
        if isinstance(self.view, str):
            return Moment(batch.step, self.steps)
        levels = self.view.schedule
        level, following = levels.level(batch.step), levels.level(batch.step + 1)
        if batch.time is not None:
            level = levels.between(batch.time)
            following = (
                following if following.time < batch.time else levels.level(min(batch.step + 2, levels.steps))
            )
        return Moment(batch.step, self.steps, level, following)

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
        assert self._batch is not None
        outputs, weights = [o.value for o in self._outputs], [w for _, w in self._active]
        moment, x = self.moment(self._batch), self._outputs[0].x
        seen = dict(zip((s for s, _ in self._active), outputs, strict=True))
        joined = self.mix.join(moment, seen)
        return Output(
            combined(outputs, weights, self.view, moment.level, x) if joined is None else joined,
            x,
            sum(o.evaluations for o in self._outputs),
            rate(outputs, weights, self.view, moment.level, x) if self.rated and joined is None else None,
        )
