"""One call of the pipeline in which a loop is followed for some candidates (see followed_loop.py)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genscale.pipelines.batch_exchange import BatchSource
from genscale.pipelines.followed_loop import FollowedLoop, Line
from genscale.pipelines.loop_noise import Draw, Place
from genscale.protocol.batches import Batch


class FollowedCall:
    """lines: the candidate of each row. composition: the prompt of each. rows: that of the probed call it repeats.

    replay: the draws before the loop. path: what `step` must return before the loop reaches the batch. native: the loop
    begins with the batch's latents as the pipeline makes them; restored: they are given to it in the first step, which
    `callback_on_step_end` must undo.
    """

    def __init__(
        self,
        loop: FollowedLoop,
        lines: tuple[Line, ...],
        rows: tuple[int, ...],
        composition: tuple[int, ...] | None = None,
    ) -> None:
        self.loop, self.lines, self.composition = loop, lines, composition
        loop.check_alone(lines)
        self.replay = loop.replay(lines, rows)
        self.path: list[Tensor] = []
        self.native = False
        self.restored: Tensor | None = None
        self.draw_in_loop = self._draw if loop.draws else None

    def _draw(self, draw: Draw, place: Place) -> Tensor | None:
        return self.loop.draw(draw, place, self.lines)

    def begin(self, batch: Batch) -> int:
        """The step at which the loop begins, for a call that is made for this batch."""
        self.loop.remember(self.lines, batch.step, batch.x)
        if batch.step == 0:
            self.native = not batch.grad and self.loop.begins_with(self.lines, batch.x)
            if not self.native:
                self.loop.check_restart()
        elif not self.loop.enterable:
            self.path = self.loop.path(self.lines, batch.step)
        elif (
            not self.loop.call.probe.callback_edits
        ):  # else the loop must pass the steps whose callbacks change it
            return batch.step - 1
        return 0

    def at_step_end(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """What `callback_on_step_end` returns."""
        if self.restored is None:
            return tensors
        latents, self.restored = self.restored, None
        return tensors | {"latents": latents}

    def begin_decoding(self, latents: Tensor, steps: int) -> int:
        """The step at which the loop begins that ends with these latents [n, *latent]."""
        if self.loop.enterable:
            return steps - 1
        self.path = self.loop.path(self.lines, steps, latents)
        return 0

    def goes_on(self, batch: Batch, jumped: bool, engine: BatchSource) -> bool:
        """Whether the loop can go from the last batch to this one. jumped: it is not at the next step."""
        if batch.prompts != self.composition or lines_of(self.loop, engine) != self.lines:
            return False
        if jumped and (batch.step == 0 or not self.loop.enterable or self.loop.call.probe.callback_edits):
            return False
        self.loop.remember(self.lines, batch.step, batch.x)
        return True


def lines_of(loop: FollowedLoop, engine: BatchSource) -> tuple[Line, ...]:
    """The candidates of the rows of the engine's open batch."""
    return tuple(loop.line(prompt, candidate) for prompt, candidate in engine.evaluated)
