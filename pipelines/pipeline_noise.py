"""The noise that a pipeline would draw inside its scheduler's steps, for candidate 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class PipelineNoise:
    """Draws from the user's generator as the pipeline alone would: all rows at once, once a step.

    Searches of several prompts need their rows at different times; a draw is made for the first and kept.
    """

    def __init__(self, generator: Any, latents: Tensor) -> None:
        self.generator, self.latents = generator, latents
        self._drawn: dict[tuple[int, int], Tensor] = {}

    def row(self, row: int, step: int, draw: int) -> Tensor:
        if (step, draw) not in self._drawn:
            from diffusers.utils.torch_utils import randn_tensor

            self._drawn[step, draw] = randn_tensor(
                self.latents.shape,
                generator=self.generator,
                device=self.latents.device,
                dtype=self.latents.dtype,
            )
        return self._drawn[step, draw][row]

    def of_image(self, first: int, image: int, step: int, draw: int) -> Tensor:
        """The noise of one of several images of a prompt, the first of which has row `first`."""
        return self.row(first + image, step, draw)


def _generators(generator: Any) -> list[torch.Generator]:
    if generator is None:
        return [torch.default_generator]
    return list(generator) if isinstance(generator, list | tuple) else [generator]


def generator_states(generator: Any) -> list[Tensor]:
    return [g.get_state() for g in _generators(generator)]


def restore_generators(generator: Any, states: list[Tensor]) -> None:
    for g, state in zip(_generators(generator), states, strict=True):
        g.set_state(state)
