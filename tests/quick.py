"""Which cases of a large test belong to the default run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

# What samplers are given that refuse a verifier without a probability: every preview passes, nothing is accepted.
NUMBERS: dict[str, dict[str, Any]] = {"accept_reject": {"accept": 1e9, "reject": (-1e9,), "checks": (0.5,)}}


def quick(values: Iterable[Any], keep: Iterable[Any], sets: bool = False) -> list[Any]:
    """All values as parameters; those not in `keep` are slow: CI runs them, the default run does not.

    sets: a value is a tuple of one for each of several names.
    """
    values, keep = list(values), list(keep)
    assert set(keep) <= set(values), f"unknown cases: {set(keep) - set(values)}"
    marks = {value: () if value in keep else pytest.mark.slow for value in values}
    return [pytest.param(*(value if sets else (value,)), marks=marks[value]) for value in values]


def third(values: Iterable[Any]) -> list[Any]:
    """All values as parameters, of which every third belongs to the default run."""
    values = list(values)
    return quick(values, values[::3])
