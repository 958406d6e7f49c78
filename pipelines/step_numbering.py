"""Makes `for i, t in enumerate(timesteps)` count steps of the grid instead of iterations.

Pipelines index per-step lists by i (controlnet_keep[i], sigmas[i]), and a search runs more iterations than there are
steps. So `enumerate` is shadowed during an intercepted call, in the modules whose code runs the loop. Which these are
is seen by the probe, which goes through the steps in their order and needs no shadow: the loop may be in a parent's
module, in a helper function, or behind a decorator.
"""

from __future__ import annotations

import builtins
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_lock = threading.Lock()
_active: Counter[int] = Counter()  # intercepted calls by id of the module: there may be several, in threads

Namespace = dict[str, Any]


@contextmanager
def enumerate_by_step(modules: list[Namespace]) -> Iterator[None]:
    """Inside, `enumerate` counts steps in the code of these modules, but for those that have one of their own."""
    with _lock:
        shadowed = [m for m in modules if m.get("enumerate", _enumerate) is _enumerate]
        for module in shadowed:
            _active[id(module)] += 1
            module["enumerate"] = _enumerate
    try:
        yield
    finally:
        with _lock:
            for module in shadowed:
                _active[id(module)] -= 1
                if not _active[id(module)]:
                    module.pop("enumerate", None)


def calling_modules(depth: int, outermost: Callable[..., Any]) -> list[Namespace]:
    """The modules of all code between the caller `depth` frames up and the function `outermost`, torch's left out."""
    found: dict[int, Namespace] = {}
    frame = sys._getframe(depth + 1)
    while frame is not None and frame.f_code is not outermost.__code__:
        if not str(frame.f_globals.get("__name__")).startswith("torch."):
            found[id(frame.f_globals)] = frame.f_globals
        frame = frame.f_back  # type: ignore[assignment]
    return list(found.values())


def numbered(value: Tensor, index: int) -> Tensor:
    """A timestep that the shadowed `enumerate` counts as `index`."""
    value._genscale_index = index  # type: ignore[attr-defined]
    return value


def _enumerate(iterable: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
    for count, value in builtins.enumerate(iterable, start):
        yield getattr(value, "_genscale_index", count), value
