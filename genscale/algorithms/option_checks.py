"""Checks of options that several samplers share."""

from __future__ import annotations

from typing import Any

from genscale.errors import UsageError


def at_least(sampler: Any, **bounds: int) -> None:
    """Raise UsageError if a field of the sampler is below its bound. None is allowed."""
    for name, least in bounds.items():
        value = getattr(sampler, name)
        if value is not None and value < least:
            bound = "0 or more" if least == 0 else f"at least {least}"
            raise UsageError(f"{name}={value} must be {bound}.")


def window_of_run(window: tuple[float, ...], example: str) -> None:
    """Raise UsageError if a window is not two increasing fractions of the run."""
    if len(window) != 2 or not 0 <= window[0] <= window[1] <= 1:
        raise UsageError(f"window={window} must be two increasing fractions of the run, such as {example}.")
