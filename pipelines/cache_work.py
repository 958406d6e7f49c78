"""How much of a model call a cache spared, measured in floating point operations.

The first call of a model is made by empty caches, so it computes everything. It is counted with torch's own counter of
floating point operations, as a whole and for each module that a cache may skip. Of every later call it is noted which
of these modules were computed. A compiled model is not counted, since nothing may be put into its graph: its calls
count as if nothing was spared. Nor is text K/V, which spares the small part of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from genscale.pipelines.model_caches import ModelCaches

HALVES_CALLS = "diffusers.hooks.faster_cache"  # computes some calls for the conditional rows alone


@dataclass
class _Costs:
    """Operations of one call, where everything is computed: of the whole, and of each module without those inside."""

    total: float = 0.0
    alone: dict[int, float] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    latents: int = 1


class CacheWork:
    """Notes what the calls of cached models compute. One for a search; `watching` for each call of the pipeline."""

    def __init__(self) -> None:
        self._costs: dict[str, _Costs] = {}
        self._inside: list[float] = []  # operations of what is inside the running modules, innermost last
        self._ran: list[tuple[int, int]] = []  # (module, rows it was given), of the present call
        self._counter: Any = None  # while a first call is counted
        self._measured: _Costs | None = None
        self._watched: dict[str, set[int]] = {}

    @contextmanager
    def watching(self, caches: ModelCaches) -> Iterator[None]:
        """Note which modules are computed. Undone at the end."""
        self._watched = {}
        with ExitStack() as stack:
            for name, hook in caches.skipping():
                plain, key = hook.fn_ref.original_forward, id(hook)
                self._watched.setdefault(name, set()).add(key)
                hook.fn_ref.original_forward = self._noted(key, hook, plain)
                stack.callback(setattr, hook.fn_ref, "original_forward", plain)
            yield

    def call(self, name: str, module: nn.Module, latents: int, run: Callable[[], Any]) -> tuple[Any, float]:
        """The result of a model call for so many latents, and the share of its work that was spared, in [0, 1]."""
        if not self._watched.get(name):
            return run(), 0.0
        self._ran.clear()
        costs = self._costs.get(name)
        if costs is None:
            return self._measure(name, latents, run), 0.0
        result = run()
        done = costs.total - sum(costs.alone.values())
        for key, rows in self._ran:
            given = costs.rows[key] * latents / costs.latents
            done += costs.alone.get(key, 0.0) * (min(1.0, rows / given) if given else 1.0)
        return result, max(0.0, 1.0 - done / costs.total) if costs.total else 0.0

    def _measure(self, name: str, latents: int, run: Callable[[], Any]) -> Any:
        from torch.utils.flop_counter import FlopCounterMode

        self._measured = _Costs(latents=latents)
        try:
            with FlopCounterMode(display=False) as self._counter:
                result = run()
                self._measured.total = float(self._counter.get_total_flops())
            if self._measured.alone.keys() >= self._watched[name]:  # else something was skipped already
                self._costs[name] = self._measured
        finally:
            self._counter = self._measured = None
            self._inside.clear()
        return result

    def _noted(self, key: int, hook: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
        halves = type(hook).__module__ == HALVES_CALLS

        def run(*args: Any, **kwargs: Any) -> Any:
            rows = _rows((*args, *kwargs.values())) if halves else 0
            self._ran.append((key, rows))
            if self._counter is None or self._measured is None:
                return plain(*args, **kwargs)
            before = self._counter.get_total_flops()
            self._inside.append(0.0)
            result = plain(*args, **kwargs)
            whole = float(self._counter.get_total_flops() - before)
            self._measured.alone[key] = whole - self._inside.pop()
            self._measured.rows[key] = rows
            if self._inside:
                self._inside[-1] += whole
            return result

        return run


def _rows(values: tuple[Any, ...]) -> int:
    """Rows of the first tensor that has several dimensions."""
    return next((v.shape[0] for v in values if isinstance(v, Tensor) and v.ndim > 1), 0)
