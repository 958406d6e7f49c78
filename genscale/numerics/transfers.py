"""Rows of tensors, and copies between host and accelerator that the host does not wait for.

A copy from pageable memory, and an index that lies on the host, make the host wait until the accelerator has done all
that was asked of it before. Here copies go through pinned memory, and rows that follow each other are slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, without waiting for what the device has still to do; itself for the CPU."""
    if device.type == "cpu" or host.device == device:
        return host.to(device)
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)


def run_of(rows: Sequence[int]) -> slice | None:
    """The rows as a slice, if each is the one after the last; None if not, and for no rows."""
    if not rows or rows[0] < 0 or any(b != a + 1 for a, b in pairwise(rows)):
        return None
    return slice(rows[0], rows[-1] + 1)


def take_rows(x: Tensor, rows: slice | Sequence[int]) -> Tensor:
    """Rows of x [n, ...]. A slice gives a view. A list gives the whole of x, if it names all rows in order, else a copy
    in memory of its own, so that few rows do not hold those of all. IndexError: there is no such row."""
    if isinstance(rows, slice):
        return x[rows]
    run = run_of(rows)
    if run is None:
        return x[to_device(torch.as_tensor(list(rows), dtype=torch.long), x.device)]
    if run.stop > x.shape[0]:
        raise IndexError(f"row {run.stop - 1} of {x.shape[0]}")
    return x if run == slice(0, x.shape[0]) else x[run].clone()


class HostCopy:
    """A copy of a tensor on the host, which is made while the host goes on.

    The tensor must not be written to afterwards; on the CPU the copy is the tensor itself.
    """

    def __init__(self, x: Tensor) -> None:
        x = x.detach()
        self._host = x.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if x.device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(x.device))  # type: ignore[no-untyped-call]

    @property
    def arrived(self) -> bool:
        """Whether `get` would not wait."""
        return self._copied is None or bool(self._copied.query())  # type: ignore[no-untyped-call]

    def get(self) -> Tensor:
        """The copy; waits for it if it is under way."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
        return self._host
