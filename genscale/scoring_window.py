"""Where a calibration makes a sampler begin to look at previews."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from genscale import plugins
from genscale.calibration import Calibration
from genscale.errors import Refusal


def fields(calibration: Calibration, sampler: str, given: Collection[str]) -> dict[str, Any]:
    """The fields of a sampler that keep it from looking before scores mean something.

    A preview counted "after i steps" is that of model call i - 1; particle methods, which score the state itself, would
    see as much one step earlier. That errs on the safe side.
    given: fields that the user set; they win. A sampler with a field `window` gets the window; of one with
    `rungs`, none is left before it.
    """
    known = plugins.options(plugins.load("sampler", sampler))
    field = next((name for name in ("window", "rungs") if name in known), None)
    if field is None:
        raise Refusal(
            f"sampler '{sampler}' has no window to calibrate: leave --calibration out, or use one that looks at "
            "previews at its leisure, such as --sampler successive_halving."
        )
    if field in given:
        return {}
    start, end = calibration.window()
    if start >= end:
        raise Refusal(
            f"the calibration trusts no preview (mean rho stays below {calibration.threshold:g}): use best_of_n, "
            "which looks at finished pictures only."
        )
    return {field: (start, end) if field == "window" else _moved(known["rungs"].default, start)}


def _moved(rungs: Any, start: float) -> tuple[float, ...]:
    """As many rungs, spread evenly from the start on if one of them lay before it."""
    if min(rungs) >= start:
        return tuple(rungs)
    return tuple(start + (1 - start) * i / len(rungs) for i in range(len(rungs)))
