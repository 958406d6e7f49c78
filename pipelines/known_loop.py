"""What a probe found of a loop, in the form that is kept for the next call (probe_memory.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genscale.pipelines.argument_values import same
from genscale.pipelines.latent_layout import Layout
from genscale.pipelines.scheduler_walk import SchedulerWalk


@dataclass(frozen=True)
class FirstStep:
    """What a probe sees at the first step of the loop.

    call: the arguments of `scheduler.step`, without the latents and the output.
    """

    latents: tuple[torch.Size, torch.dtype, torch.device]
    layout: Layout
    scheduler: Any
    timesteps: Tensor
    start: int
    reads: int
    rows: int
    call: dict[str, Any]

    def equals(self, other: FirstStep) -> bool:
        """Whether all of it is the same. What cannot be compared is not."""
        kinds = type(self.scheduler), type(other.scheduler)
        if kinds[0] is not kinds[1]:
            return False
        mine, others = (
            (s.latents, vars(s.layout), vars(s.scheduler), s.timesteps, s.start, s.reads, s.rows, s.call)
            for s in (self, other)
        )
        try:
            return same(mine, others)
        except Exception:  # of whatever the scheduler holds
            return False


@dataclass(frozen=True)
class KnownLoop:
    """What a probe found that walked through a loop without edits of the latents and without noise.

    modules: namespaces of those whose code runs the loop.
    """

    first: FirstStep
    evaluations: tuple[int, ...]
    walk: SchedulerWalk
    lists: bool
    modules: tuple[dict[str, Any], ...]
