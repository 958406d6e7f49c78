"""Other grids of noise levels than the pipeline's own, for samplers whose kernels step on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.errors import UsageError


@dataclass(frozen=True)
class Place:
    """Where a model call lies on the pipeline's grid.

    step: the nearest step. time: linear time of the call; None if it is that of the step.
    """

    step: int
    time: float | None = None


Grid = tuple[tuple[Place, ...], NoiseSchedule]
"""Model calls, and their noise levels followed by that of the clean end."""


def restart_grid(levels: NoiseSchedule, restarts: Sequence[int], calls: int) -> Grid:
    """Only those of the pipeline's own levels at which a solve may begin."""
    rows = [*restarts, calls]
    return tuple(Place(i) for i in restarts), NoiseSchedule(levels.alpha[rows], levels.sigma[rows])


def timed_grid(
    levels: NoiseSchedule, times: Sequence[float], calls: int, nearest: Callable[[float], int]
) -> Grid:
    """Levels at decreasing linear times; those above the pipeline's first level are left out.

    UsageError: none is left, or they do not decrease.
    """
    first = levels.level(0).time
    kept = [float(t) for t in times if t <= first + 1e-9]
    if not kept or any(b >= a for a, b in pairwise(kept)):
        raise UsageError(f"a time grid must decrease from {first:.3g} or below, unlike {list(times)}.")
    between = [*(levels.between(t) for t in kept), levels.level(calls)]
    alpha, sigma = (
        torch.tensor([getattr(b, name) for b in between], dtype=torch.float64) for name in ("alpha", "sigma")
    )
    return tuple(Place(nearest(t), t) for t in kept), NoiseSchedule(alpha, sigma)
