"""Videos whose chunks are an autoregressive Gaussian chain, x_t = A x_{t-1} + sqrt(1 - A²) e_t, as grey frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genscale.chunks.nodes import seed_of

A = 0.6
NEW = math.sqrt(1 - A * A)  # standard deviation of what is new in a chunk
SCALE = 0.05  # of a value, as grey around 0.5


def frames_of(value: float) -> Tensor:
    return torch.full((1, 3, 2, 2), 0.5 + SCALE * value)


def value_of(frames: Tensor) -> Tensor:
    """Values of the last frames [..., frames, 3, h, w]."""
    return (frames[..., -1, 0, 0, 0].double() - 0.5) / SCALE


def extend(prompt: str, frames: Tensor | None, generator: torch.Generator) -> Tensor:
    noise = float(torch.randn((), generator=generator, dtype=torch.float64))
    return frames_of(noise if frames is None else A * float(value_of(frames)) + NEW * noise)


def last_value(media: Any, prompts: Sequence[str]) -> Tensor:
    """The verifier: the chunk's value."""
    return value_of(media.pixels)


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def every_chain(
    branches: Sequence[int], seed: int, make: Callable[..., Tensor] = extend
) -> dict[tuple[int, ...], list[float]]:
    """The values of all chains of a full tree, by path: an enumeration that knows nothing of the search.

    Candidates 0 of candidates 0 draw from the generator of the seed, one after the other; each other candidate from
    one of its own, by its path.
    """
    own = generator(seed)
    level: dict[tuple[int, ...], list[float]] = {(): []}
    frames: dict[tuple[int, ...], Tensor | None] = {(): None}
    for count in branches:
        following = {}
        for path, values in level.items():
            for i in range(count):
                child = (*path, i)
                chosen = own if not any(child) else generator(seed_of(seed, child))
                made = make("", frames[path], chosen)
                frames[child] = made if frames[path] is None else torch.cat([frames[path], made])
                following[child] = [*values, float(value_of(made))]
        level = following
    return level
