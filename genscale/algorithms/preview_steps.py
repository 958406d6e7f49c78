"""What a fraction of the run means, for every sampler that scores previews and for calibrations.

Fraction f of a run of n model calls is the state after round(f n) of them. Its preview is the clean estimate that the
model makes of that state: that of the next call (number round(f n), counted from 0), which is also the first call of
the way on. So 0.5 of 8 calls is call 4 with every sampler, whether it asks for a Denoise of that state, or steps on
with the pipeline's scheduler and scores the clean estimate that the step leaves behind.
"""

from __future__ import annotations

from collections.abc import Sequence

from genscale.errors import UsageError
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


def steps_of(fractions: Sequence[float], process: Process, earliest: int = 0) -> list[int]:
    """The steps, increasing, at whose ends the previews at fractions of the run are there, without the end of the run.

    earliest: the first state that is previewed; earlier ones are moved there. State 0 is pure noise.
    """
    if fractions:
        process.schedule  # noqa: B018  without noise levels there are no previews: refused before anything is spent
    steps = {after_preview(max(step_at(process, f), earliest)) for f in fractions}
    return sorted(step for step in steps if step < process.steps)


def check_fractions(option: str, fractions: Sequence[float], noise: bool = False) -> None:
    """UsageError unless they are increasing and in (0, 1). noise: 0, the preview of pure noise, is one, too."""
    inside = all(f < 1 and (f > 0 or (noise and f == 0)) for f in fractions)
    if list(fractions) != sorted(set(fractions)) or not inside:
        raise UsageError(
            f"{option}={tuple(fractions)} must be increasing fractions of the run in {'[' if noise else '('}0, 1), "
            "such as 0.25,0.5."
        )
