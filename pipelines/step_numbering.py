"""Makes `for i, t in enumerate(timesteps)` count steps of the grid instead of iterations.

Pipelines index per-step lists by i (controlnet_keep[i], sigmas[i]), and a search runs more iterations than there are
steps. So `enumerate` is shadowed in the pipeline's module during an intercepted call.
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
_active: Counter[int] = Counter()  # intercepted calls by id of the module: there may be several, in threads


@contextmanager
def enumerate_by_step(pipe: Any) -> Iterator[None]:
    module = inspect.unwrap(type(pipe).__call__).__globals__
    with _lock:
        _active[id(module)] += 1
        module["enumerate"] = _enumerate
    try:
        yield
    finally:
        with _lock:
            _active[id(module)] -= 1
            if not _active[id(module)]:
                module.pop("enumerate", None)


def numbered(value: Tensor, index: int) -> Tensor:
    """A timestep that the shadowed `enumerate` counts as `index`."""
    value._genscale_index = index  # type: ignore[attr-defined]
    return value


def _enumerate(iterable: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
    for count, value in builtins.enumerate(iterable, start):
        yield getattr(value, "_genscale_index", count), value
