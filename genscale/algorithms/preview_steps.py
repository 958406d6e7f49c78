"""What a fraction of the run means, for every sampler that scores previews and for calibrations.

Fraction f of a run of n model calls is the state after round(f n) of them. Its preview is the clean estimate that the
model makes of that state: that of the next call (number round(f n), counted from 0), which is also the first call of
the way on. So 0.5 of 8 calls is call 4 with every sampler, whether it asks for a Denoise of that state, or steps on
with the pipeline's scheduler and scores the clean estimate that the step leaves behind.
"""

from __future__ import annotations

from genscale.protocol.interfaces import Process


def step_at(process: Process, fraction: float) -> int:
    """The step of the state at a fraction of the run, and the number of the model call that previews it."""
    return round(fraction * process.model_steps)


def steps_between(process: Process, window: tuple[float, float]) -> range:
    """All steps from one fraction of the run to another, both included, that have a model call."""
    low, high = (step_at(process, f) for f in window)
    return range(low, min(high, process.model_steps - 1) + 1)


def after_preview(step: int) -> int:
    """Where a Solve has to end so that the clean estimate it leaves behind is the preview of the state at `step`."""
    return step + 1


def fraction_of(end: int, steps: int) -> float:
    """The fraction of a run of so many model calls whose preview a Solve to step `end` leaves behind."""
    return (end - 1) / steps
