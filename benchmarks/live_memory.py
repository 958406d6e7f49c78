"""Bytes of the tensors that are alive, and their peak: what an allocator would hold, seen from the operations.

On a CPU the resident size of a process moves with the allocator's moods and holds the weights; this counts the storages
that operations make from here on, and takes off each when nothing holds it any more. Work spaces inside an operation
are not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """A context; live and peak are bytes of storages made inside. Counts backward passes, too."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), given)
        return made

    def _count(self, storage: Any, given: set[int]) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._known or place in given:  # a view, or a change in place, of what was there before
            return
        self._known.add(place)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, place, size).atexit = False

    def _gone(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.live -= size
