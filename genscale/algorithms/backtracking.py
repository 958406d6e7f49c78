"""Paths that go back to more noise where a preview is bad: where they are checked, and where they resume."""

from __future__ import annotations

import math
from collections.abc import Sequence

from genscale.algorithms.preview_steps import after_preview, step_at
from genscale.algorithms.transition_kernels import outside
from genscale.diffusion.kernels import Kernel
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, branch


def check_steps(process: Process, fractions: Sequence[float], earliest: int = 1) -> list[int]:
    """Steps at which paths are checked, ascending: one after each checked state, whose model call makes the preview.

    States are those nearest to fractions of the run at which the pipeline's schedule lets a solve begin, without the
    last, at which it would be too late to go back. earliest: the first state; before it none is checked. State 0 is
    pure noise.
    """
    times, last = process.schedule.linear_time, process.model_steps - 2
    marks = {process.nearest(float(times[s])) for f in fractions if (s := step_at(process, f)) <= last}
    return sorted(after_preview(s) for s in marks if earliest <= s <= last)


def step_back(process: Process, step: int, back: float) -> int:
    """The step that a path is sent back to from `step`.

    It is at least the share `back` of the run earlier, and a step at which the pipeline's schedule lets a solve begin.
    """
    times = process.schedule.linear_time
    furthest = max(step - math.ceil(back * process.model_steps), 0)
    for wanted in range(furthest, 0, -1):
        if (allowed := process.nearest(float(times[wanted]))) <= wanted:
            return allowed
    return 0


def renoised(
    process: Process, key: Key, particles: Particles, back: int, numbers: Sequence[int]
) -> tuple[Particles, Kernel | None]:
    """New attempts by the forward process, and their kernel: few schedulers can begin in the middle of a run.

    numbers: the ids of the new candidates, one for each row.
    """
    parents = zip(particles.candidates, numbers, strict=True)
    children = [branch(key, number, parent, back, "renoised") for parent, number in parents]
    kernel = outside(process, "own") if back > 0 else None
    return process.renoise(particles, back, children), kernel
