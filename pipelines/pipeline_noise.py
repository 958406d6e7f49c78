"""The noise that a pipeline would draw inside its scheduler's steps, for candidate 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from genscale.errors import NoLoop
from genscale.pipelines.latent_layout import Layout
from genscale.pipelines.noise_interception import NormalDraw


class PipelineNoise:
    """Draws what the pipeline alone would draw: the same calls in the same order, from the same generators.

    draws: the calls of each step. rows: latents of the call. layout: of the latents in the pipeline.

    Searches of several prompts need their rows at different times, and a resumed one begins later: a draw is made once
    for all rows, after all that come before it, and kept.
    """

    def __init__(self, draws: Sequence[Sequence[NormalDraw]], rows: int, layout: Layout) -> None:
        self.layout = layout
        self._drawn: dict[tuple[int, int], Tensor] = {}
        self._to_come = self._draw_all(draws, rows * layout.copies * layout.inner)

    def row(self, row: int, step: int, draw: int) -> Tensor:
        """[*latent], the noise of a row in a step's draw number `draw`."""
        while (step, draw) not in self._drawn:
            place, noise = next(self._to_come, (None, None))
            if place is None or noise is None:
                raise NoLoop(
                    f"the scheduler draws other noise in step {step} than a first pass through the loop has found: "
                    "choose another scheduler."
                )
            self._drawn[place] = self.layout.to_rows(noise)
        return self._drawn[step, draw][row]

    def of_image(self, first: int, image: int, step: int, draw: int) -> Tensor:
        """The noise of one of several images of a prompt, the first of which has row `first`."""
        return self.row(first + image, step, draw)

    def _draw_all(
        self, draws: Sequence[Sequence[NormalDraw]], length: int
    ) -> Iterator[tuple[tuple[int, int], Tensor]]:
        for step, calls in enumerate(draws):
            left, number = iter(calls), 0
            while first := next(left, None):
                noise = first()
                if noise.shape[0] < length:  # a list of generators draws row by row
                    noise = torch.cat([noise, *(call() for call in islice(left, length - 1))])
                yield (step, number), noise
                number += 1


def _generators(generator: Any) -> list[torch.Generator]:
    if generator is None:
        return [torch.default_generator]
    some = generator if isinstance(generator, list | tuple) else [generator]
    return [g for g in some if isinstance(g, torch.Generator)]  # what is none is refused elsewhere


def generator_states(generator: Any) -> list[Tensor]:
    return [g.get_state() for g in _generators(generator)]


def restore_generators(generator: Any, states: list[Tensor]) -> None:
    for g, state in zip(_generators(generator), states, strict=True):
        g.set_state(state)
