"""Warns where all candidates would be the same: a masked text model at temperature 0, the default, draws nothing."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

_GREEDY = {"LLaDA2Pipeline", "AdaptiveBlocks"}


def warn_of_equal_candidates(
    function: Any, given: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]
) -> None:
    """given: the arguments of the call. arms: what each changes in it; empty without arms."""
    if not _GREEDY & {cls.__name__ for cls in type(function).__mro__}:
        return
    defaults = {name: p.default for name, p in inspect.signature(type(function).__call__).parameters.items()}
    for arm in arms or ({},):
        call = {**defaults, **given, **arm}
        method = call.get("sampling_method", "multinomial")
        if call["temperature"] == 0 or method == "greedy":
            warnings.warn(
                f"{type(function).__name__} draws nothing at temperature={call['temperature']} with "
                f"sampling_method='{method}', so all candidates are the same text: give "
                "temperature=0.9, or another above 0.",
                stacklevel=5,
            )
            return
