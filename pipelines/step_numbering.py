"""Makes `for i, t in enumerate(timesteps)` count steps of the grid instead of iterations.

Pipelines index per-step lists by i (controlnet_keep[i], sigmas[i]), and a search runs more iterations than there are
steps. So `enumerate` is shadowed during an intercepted call, in the modules whose code runs the loop: at first
those of the `__call__` of the pipeline and its parents. The probe sees the others, and is then repeated: the loop may
be in a helper function or behind a decorator.
"""

from __future__ import annotations

import builtins
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from genscale.pipelines.call_signature import call_chain

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


def modules_of_call(cls: type[Any]) -> list[Namespace]:
    """The modules of `__call__` of a pipeline, of its parents, and of what these pass their arguments to."""
    functions = (inspect.unwrap(function) for function in call_chain(cls))
    found = {id(f.__globals__): f.__globals__ for f in functions if hasattr(f, "__globals__")}
    return list(found.values())


def calling_modules(depth: int, outermost: Callable[..., Any]) -> list[Namespace]:
    """The modules of all code between the caller `depth` frames up and the function `outermost`, torch's and ours left
    out."""
    found: dict[int, Namespace] = {}
    frame = sys._getframe(depth + 1)
    while frame is not None and frame.f_code is not outermost.__code__:
        if not str(frame.f_globals.get("__name__")).startswith(("torch.", "genscale.")):
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
