"""A computer with a host and an accelerator, played on a CPU: which bytes would lie where.

Tensors that `genscale.engine.holding` moves lie where it moves them, and so does what is computed from them, with all
that it is computed with. An operation on tensors of both places is an error, as on real devices, and as there a
move makes a copy. Vectors, such as scores, are left out: their way to the host is not seen here.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genscale.engine import holding

HOST, MODEL, ANY = "host", "model", "any"


class TwoPlaces(TorchDispatchMode):
    """A context. live, peak: by place, bytes of storages made inside; ANY: of those that met neither place."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = Counter[str](), Counter[str]()
        self._places: dict[int, tuple[str, int]] = {}  # storage: (place, bytes)
        self._moves = [
            patch.object(holding, "to_host", lambda x: self._moved(x, HOST)),
            patch.object(holding, "to_model", lambda x, device: self._moved(x, MODEL)),
        ]

    def __enter__(self) -> TwoPlaces:
        for move in self._moves:
            move.start()
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        for move in self._moves:
            move.stop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        places = {self.place(t) for t in given if t.ndim > 1} - {ANY}
        if len(places) > 1:
            raise RuntimeError(f"{func} got tensors of both places")
        place = next(iter(places), ANY)
        made = func(*args, **(kwargs or {}))
        there = {t.untyped_storage()._cdata for t in given}
        for tensor in [*given, *tree_leaves(made)]:
            if isinstance(tensor, Tensor) and tensor.ndim > 1:
                self._set(tensor, place, new=tensor.untyped_storage()._cdata not in there)
        return made

    def place(self, tensor: Tensor) -> str:
        """Where a tensor lies."""
        return self._places.get(tensor.untyped_storage()._cdata, (ANY, 0))[0]

    def _set(self, tensor: Tensor, place: str, new: bool) -> None:
        """Let a storage lie in a place, if it lies in none. new: it was made just now."""
        storage = tensor.untyped_storage()
        at = storage._cdata
        if at not in self._places:
            if not new:  # made before the context: weights
                return
            weakref.finalize(storage, self._gone, at).atexit = False
            self._places[at] = (ANY, storage.nbytes())
            self._add(ANY, storage.nbytes())
        before, size = self._places[at]
        if before == ANY and place != ANY:
            self._places[at] = (place, size)
            self._add(ANY, -size)
            self._add(place, size)

    def _add(self, place: str, size: int) -> None:
        self.live[place] += size
        self.peak[place] = max(self.peak[place], self.live[place])

    def _gone(self, at: int) -> None:
        place, size = self._places.pop(at)
        self._add(place, -size)

    def _moved(self, x: Tensor, place: str) -> Tensor:
        if self.place(x) == place:
            return x
        copy = torch.empty_strided(x.size(), x.stride(), dtype=x.dtype)  # not of x, which has a place
        self._set(copy, place, new=True)
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            copy.copy_(x)
        return copy
