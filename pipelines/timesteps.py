"""The timesteps that a pipeline iterates over, as a tensor whose iteration a driver decides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

_KEEP = {
    "__getitem__",
    "to",
    "cuda",
    "cpu",
    "clone",
    "detach",
    "contiguous",
}  # their results are still the timesteps


class TimestepDriver(Protocol):
    def iterate(self, timesteps: Tensor) -> Iterator[Tensor]: ...


class Timesteps(Tensor):
    """A 1-D tensor like any other, but `for t in timesteps` iterates over `driver.iterate(timesteps)`."""

    _driver: TimestepDriver

    @staticmethod
    def of(values: Tensor, driver: TimestepDriver) -> Timesteps:
        made = values.as_subclass(Tensor).as_subclass(Timesteps)
        made._driver = driver
        return made

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        return self._driver.iterate(self.as_subclass(Tensor))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if not isinstance(result, Timesteps):
            source = next((a for a in args if isinstance(a, Timesteps)), None)
            if (
                source is not None
                and isinstance(result, Tensor)
                and result.ndim == 1
                and getattr(func, "__name__", "") in _KEEP
            ):
                return Timesteps.of(result, source._driver)
        return result
