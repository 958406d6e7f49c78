"""Let `for i, t in enumerate(timesteps)` count steps of the grid, not iterations.

Pipelines index per-step lists by i (controlnet_keep[i], sigmas[i]) although a search makes more iterations
than there are steps. `enumerate` is shadowed in the pipeline's own module while one of its calls is visited.
"""

from __future__ import annotations

import builtins
import inspect
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_lock = threading.Lock()
_visits: Counter[int] = Counter()  # of each module, by id: several threads may visit pipelines of one class


@contextmanager
def enumerate_by_step(pipe: Any) -> Iterator[None]:
    module = inspect.unwrap(type(pipe).__call__).__globals__
    with _lock:
        _visits[id(module)] += 1
        module["enumerate"] = _enumerate
    try:
        yield
    finally:
        with _lock:
            _visits[id(module)] -= 1
            if not _visits[id(module)]:
                module.pop("enumerate", None)


def numbered(value: Tensor, index: int) -> Tensor:
    """A timestep that `enumerate` will count as `index`."""
    value._genscale_index = index  # type: ignore[attr-defined]
    return value


def _enumerate(iterable: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
    for count, value in builtins.enumerate(iterable, start):
        yield getattr(value, "_genscale_index", count), value
