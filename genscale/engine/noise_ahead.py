"""Noise of keys as stacks on the host, made by a thread before it is asked for.

Philox on the host takes tens to hundreds of milliseconds for the candidates of a large model, while the accelerator
waits. So what the next steps will ask for is named beforehand (`expect`), made in a thread while the model runs, and
written into pinned memory, from which it is copied without waiting. A key gives the same bits whoever draws it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from genscale.key import Key

MOST_AHEAD = 2**28  # bytes of noise that one prompt's process keeps in readiness


@cache
def _thread(process: int) -> ThreadPoolExecutor:
    """The one thread that makes noise. process: number of this process; a fork has not its parent's threads."""
    return ThreadPoolExecutor(1, thread_name_prefix="genscale-noise")


class NoiseAhead:
    """Standard normal noise of one shape.

    shape: [*latent]. device: where it is used. ahead: make it in a thread; None: where the device is not the host,
    since a thread would only take from the host what it gives.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device, ahead: bool | None = None) -> None:
        self.shape, self.pinned = shape, device.type == "cuda"
        self.ahead = device.type != "cpu" if ahead is None else ahead
        self.taken = 0  # rows that were ready, or under way, when they were asked for
        self._made: dict[Key, Future[Tensor]] = {}
        self._most = max(1, MOST_AHEAD // max(1, 4 * torch.Size(shape).numel()))

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copies: what is under way in the thread is made again when it is asked for."""
        return self.__dict__ | {"_made": {}}

    def forget(self) -> None:
        """Nothing more will be asked for: drop what is ready, and what waits for the thread."""
        while self._made:
            self._made.popitem()[1].cancel()

    def expect(self, keys: Sequence[Key]) -> None:
        """These will be asked for next. What was expected longest ago and not asked for is dropped for them."""
        if not self.ahead:
            return
        for key in keys[: self._most]:
            if key not in self._made:
                self._made[key] = _thread(os.getpid()).submit(key.normal, self.shape)
        while len(self._made) > self._most:
            self._made.pop(next(iter(self._made))).cancel()

    def stack(self, keys: Sequence[Key]) -> Tensor:
        """float32 [n, *latent] on the host, in pinned memory where the device is a GPU."""
        made = torch.empty((len(keys), *self.shape), dtype=torch.float32, pin_memory=self.pinned)
        for row, key in zip(made, keys, strict=True):
            ready = self._made.pop(key, None)
            if ready is None:
                key.normal_into(row)
            else:
                row.copy_(ready.result())
                self.taken += 1
        return made
