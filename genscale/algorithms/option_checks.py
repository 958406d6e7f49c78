"""Checks of options that several samplers share."""

from __future__ import annotations

from typing import Any

from genscale.errors import UsageError
from genscale.plugins import limits
from genscale.plugins.limits import COUNT, Limits


def check_options(sampler: Any, **least: int) -> None:
    """Raise UsageError if a field of the sampler has another type than its annotation, or is out of range.

    least: the bounds of whole numbers from below; from above it is 100,000. None is allowed. Lists become tuples.
    """
    limits.check_plugin(f"sampler {type(sampler).__name__}", sampler)
    for name, value in vars(sampler).items():
        if isinstance(value, list):
            object.__setattr__(sampler, name, tuple(value))
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int) and number > COUNT.most:
                raise UsageError(f"{name}={value} must be {COUNT.most:,} at most.")
    for name, bound in least.items():
        value = getattr(sampler, name)
        if value is not None and value < bound:
            raise UsageError(f"{name}={value} must be {Limits(bound)}.")


def window_of_run(window: tuple[float, ...], example: str) -> None:
    """Raise UsageError if a window is not two increasing fractions of the run."""
    if len(window) != 2 or not 0 <= window[0] <= window[1] <= 1:
        raise UsageError(f"window={window} must be two increasing fractions of the run, such as {example}.")
