"""Finds out what a loop that edits its latents depends on, in a few more calls without the denoiser.

A search does not run a pipeline's loop from step 0 to the end for each candidate: it enters it at the step of a batch,
and it evaluates the latents of several candidates together. Whether the loop allows either is not read from its code
but tried: the latents that reach a step must be the same whichever way the loop came there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genscale.key import Key
from genscale.pipelines.intercepted_call import LeaveLoop, LoopDriver, intercept
from genscale.pipelines.loop_noise import made_up
from genscale.pipelines.noise_interception import Replay, joined
from genscale.pipelines.probed_call import ProbedCall

_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}


class Walk(LoopDriver):
    """Goes through the steps of `route` with placeholder outputs; seen: the latents that reached each step, by rows.

    latents: for each step of the route after the first, what `step` returns before it, [rows, *latent]. replay: the
    draws before the loop.
    """

    def __init__(
        self, call: ProbedCall, route: Sequence[int], latents: Sequence[Tensor], replay: Replay
    ) -> None:
        super().__init__(call.encoder_cache, call.placeholders)
        self.layout, self.reads_expected = call.probe.layout, call.probe.reads_expected
        self.route, self.latents, self.replay = list(route), list(latents), replay
        self.seen: dict[int, Tensor] = {}
        if call.probe.loop_draws:
            self.draw_in_loop = made_up

    def draw_before_loop(self, j: int, shape: tuple[int, ...]) -> Tensor | None:
        return self.replay(j, shape)

    def first_step(self) -> int:
        return self.route.pop(0)

    def on_step(self, call: dict[str, Any]) -> tuple[Tensor, int | None]:
        self.seen[self.index] = self.layout.to_rows(call["sample"]).detach().clone()
        if not self.route:
            raise LeaveLoop
        return self.layout.from_rows(self.latents.pop(0)), self.route.pop(0)


class LoopStudy:
    """What is found about a loop that edits its latents, by `look`.

    enterable: what reaches a step follows from the latents that the step before it returned and from the start of the
    call, so the loop may be entered at any step. alone: each row of the call may be evaluated in a call of its own.
    together: a row does not depend on the other rows of its call, nor on their draws. restarts: initial latents that a
    `step` returns reach step 0 unchanged, if `callback_on_step_end` returns them, too.
    """

    def __init__(self, call: ProbedCall) -> None:
        self.call, self.steps = call, len(call.probe.evaluations)
        self.draws = joined(call.probe.draws, call.rows)
        noise = Key((0,)).fold("study").normal((self.steps, *call.latents.shape))
        self.latents = list(noise.to(call.latents.device, call.latents.dtype))
        self.enterable = self.alone = self.together = self.restarts = False
        self._expected = self._own()

    def _own(self) -> dict[int, Tensor] | None:
        rows = self.call.rows
        return self._walk(tuple(range(rows)), (1,) * rows)

    def repeats(self) -> bool:
        """Whether the same latents reach every step when the pipeline is called again."""
        return self.enterable or self._expected is None or self._same(self._expected, self._own())

    def look(self) -> None:
        call, expected = self.call, self._expected
        self.enterable = expected is not None and self._same(expected, self._entered(), first=1)
        self.restarts = self.enterable and self._restarts()
        self.alone = expected is not None and (call.rows == 1 or self._rows_alone(expected))
        other = self._walk((0,), (-1,)) if self.alone else None
        pair = None if other is None else self._walk((0, 0), (1, -1))
        self.together = (
            expected is not None
            and other is not None
            and self._same({k: torch.cat([x[:1], other[k]]) for k, x in expected.items()}, pair)
        )

    def _rows_alone(self, expected: dict[int, Tensor]) -> bool:
        return all(
            self._same({k: x[p : p + 1] for k, x in expected.items()}, self._walk((p,), (1,)))
            for p in range(self.call.rows)
        )

    def _walk(self, rows: tuple[int, ...], signs: tuple[int, ...]) -> dict[int, Tensor] | None:
        """What reaches each step of a call with these rows, in order. signs: of the draws and latents of each."""
        own = rows == tuple(range(self.call.rows))
        sign = torch.tensor(signs)
        replaced = {} if own and set(signs) == {1} else self._signed(rows, sign)
        replay = Replay(self.draws, self.call.rows, None if own else rows, replaced)
        latents = [_times(x[list(rows)], sign) for x in self.latents[1:]]
        return self._run(list(range(self.steps)), latents, replay, None if own else rows)

    def _signed(self, rows: tuple[int, ...], sign: Tensor) -> dict[int, Tensor]:
        return {
            j: _times(draw[list(rows)], sign)
            for j, draw in enumerate(self.draws)
            if draw.shape[0] == self.call.rows
        }

    def _entered(self) -> dict[int, Tensor] | None:
        """What reaches each step where the one before it is entered with other latents, later steps first."""
        route = [step for k in range(self.steps - 1, 0, -1) for step in (k - 1, k)]
        latents = [x for k in range(self.steps - 1, 0, -1) for x in (-self.latents[k - 1], self.latents[k])]
        if not route:
            return {}
        return self._run(route, latents[1:], Replay(self.draws, self.call.rows), None)

    def _restarts(self) -> bool:
        x, replay = self.call.latents, Replay(self.draws, self.call.rows)
        own = {"latents": self.call.probe.layout.from_rows(x)}
        return self._same(
            {0: x}, self._run([0, 0], [x], replay, None, callback_on_step_end=lambda *_: dict(own))
        )

    def _run(
        self,
        route: list[int],
        latents: list[Tensor],
        replay: Replay,
        rows: tuple[int, ...] | None,
        **changes: Any,
    ) -> dict[int, Tensor] | None:
        """None: the pipeline fails in such a call."""
        arguments = self.call.arguments
        given = arguments.quiet(**changes)
        if rows is not None:
            given = arguments.composed(given, self.call.rows, rows, self.call.row_arguments())
        walk = Walk(self.call, route, latents, replay)
        try:
            intercept(self.call.pipe, given, walk)
        except Exception:
            return None
        return walk.seen

    def _same(self, expected: dict[int, Tensor], found: dict[int, Tensor] | None, first: int = 0) -> bool:
        """Whether the same latents reached every step from the `first` on."""
        if found is None:
            return False
        pairs = [(x, found.get(k)) for k, x in expected.items() if k >= first]
        tolerance = _TOLERANCE.get(self.call.latents.dtype, 1e-4)
        return all(
            y is not None and x.shape == y.shape and torch.allclose(x, y, rtol=tolerance, atol=tolerance)
            for x, y in pairs
        )


def _times(x: Tensor, sign: Tensor) -> Tensor:
    return x * sign.to(x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
