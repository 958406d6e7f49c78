"""Sampler options from a calibration: from which step on it scores previews."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from genscale.errors import UsageError
from genscale.plugins import registry
from genscale.protocol.interfaces import SamplerHooks
from genscale.results.calibration import Calibration


def fields(calibration: Calibration, sampler: str, given: Collection[str]) -> dict[str, Any]:
    """Sampler options that keep it from scoring previews before their scores are informative.

    Fractions mean the same model call here and with every sampler (genscale.algorithms.preview_steps).
    given: fields that the user set; they are not changed. A sampler with a field `window` gets the window. The
    fractions in `rungs`, or in the field that its class names in `previews_at`, are moved into the window.
    """
    cls = registry.load("sampler", sampler)
    known = registry.options(cls)
    field = next((n for n in ("window", "rungs", SamplerHooks.of(cls).previews_at) if n in known), None)
    if field is None:
        raise UsageError(
            f"sampler '{sampler}' has no window to calibrate: leave --calibration out, or use one that looks at "
            "previews at configurable steps, such as --sampler successive_halving."
        )
    if field in given:
        return {}
    start, end = calibration.window()
    if start >= end:
        raise UsageError(
            f"the calibration trusts no preview (mean rho stays below {calibration.threshold:g}): use best_of_n, "
            "which looks at finished images only."
        )
    if field == "window":
        return {field: (start, end)}
    return {field: _moved(known[field].default, start, [level.fraction for level in calibration.levels])}


def _moved(rungs: Any, start: float, every: Sequence[float]) -> tuple[float, ...]:
    """The rungs moved to `start` or later: if any lay before it, as many, evenly spaced from `start` on.

    "every" becomes all calibrated steps from `start` on but that of pure noise. None, where the sampler chooses by the
    verifier, becomes the first one that is trusted.
    """
    if rungs is None:
        return (start,)
    if isinstance(rungs, str):
        return tuple(fraction for fraction in every if fraction >= max(start, 1e-9))
    if min(rungs) >= start:
        return tuple(rungs)
    return tuple(start + (1 - start) * i / len(rungs) for i in range(len(rungs)))
