"""What a scheduler's `step` leaves on the scheduler: read into plain data and rows, and written back.

`memory_of` compares a scheduler after a step with one that has not stepped, and keeps all attributes that differ.
`attributes` is the inverse. `ShownState` puts such attributes on the proxy that the pipeline's loop sees
(scheduler_proxy.py), so that whatever the loop asks between steps, the proxy answers as if it had stepped itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genscale.errors import NoLoop
from genscale.protocol.particles import Memory

MAX_STORED = 4096  # largest number of elements in a tensor of the memory that is not one row a particle


Numbers = Callable[[Tensor], Any]


def memory_of(after: Any, before: Any, x: Tensor, numbers: Numbers = Tensor.tolist) -> Memory:
    """All attributes of scheduler `after` that are not those of `before`.

    x: [n, *latent], the latents it stepped. numbers: reads a small tensor as `Tensor.tolist` does.

    UsageError: an attribute is neither a number, a text, a tensor, nor a list or dictionary of these.
    """
    rows, rest, old = dict[str, Tensor](), dict[str, Any](), before.__dict__
    for name, value in after.__dict__.items():
        was = old.get(name, _ABSENT)
        if value is was or (isinstance(value, int | float | str) and value == was):
            continue
        try:
            rest[name] = _encode(value, name, x, rows, numbers)
        except TypeError as error:
            raise NoLoop(
                f"{type(before).__name__} keeps {error} in its attribute '{name}' from step to step, which cannot be "
                "stored for each candidate: choose another scheduler."
            ) from error
    return Memory(rows, rest)


def attributes(memory: Memory, device: torch.device, shared: bool = False) -> dict[str, Any]:
    """The attributes that `memory_of` read. shared: row tensors are those of the memory, only to be looked at."""
    return {name: _decode(value, memory.rows, device, shared) for name, value in memory.rest.items()}


def without_data(memory: Memory) -> Memory:
    """The same memory, whose rows are zeros that take no space."""
    return Memory({k: v.new_zeros(()).expand(v.shape) for k, v in memory.rows.items()}, memory.rest)


_ABSENT = object()


class ShownState:
    """The attributes of a proxy that stand for steps taken.

    Attributes that were shown and are not shown any more get the values that they had before the loop; before step 0
    all attributes do, also those that the loop's own calls have changed.
    """

    def __init__(self, proxy: Any) -> None:
        self.state: dict[str, Any] = proxy.__dict__
        self.found = dict(self.state)
        self.names = {"_step_index"} & self.state.keys()

    def show(self, step: int, shown: Mapping[str, Any]) -> None:
        if step == 0:
            self.state.clear()
            self.state.update(self.found)
        shown = {"_timesteps" if k == "timesteps" else k: v for k, v in shown.items()}
        for name in self.names - shown.keys():
            if name in self.found:
                self.state[name] = self.found[name]
            else:
                self.state.pop(name, None)
        self.state.update(shown)
        self.names |= shown.keys()


def _encode(value: Any, name: str, x: Tensor, rows: dict[str, Tensor], numbers: Numbers) -> Any:
    """A value as JSON; tensors with one row a particle go into `rows`. TypeError: it cannot be."""
    if isinstance(value, Tensor):
        if value.ndim == x.ndim and value.shape[0] == x.shape[0] and value.shape[2:] == x.shape[2:]:
            rows[name] = value
            return {"row": name}
        if value.numel() > MAX_STORED:
            raise TypeError(f"a tensor of shape {list(value.shape)}, which has not one row a particle,")
        return {"tensor": numbers(value), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return {"list": [_encode(v, f"{name}.{i}", x, rows, numbers) for i, v in enumerate(value)]}
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: _encode(v, f"{name}.{k}", x, rows, numbers) for k, v in value.items()}}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an object of the class {type(value).__name__}")


def _decode(value: Any, rows: Mapping[str, Tensor], device: torch.device, shared: bool) -> Any:
    if not isinstance(value, dict):
        return value
    if "row" in value:
        row = rows[value["row"]]
        return row if shared else row.clone()  # PNDM adds to its history in place
    if "tensor" in value:
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
    if "dict" in value:
        return {k: _decode(v, rows, device, shared) for k, v in value["dict"].items()}
    return [_decode(v, rows, device, shared) for v in value["list"]]
