"""The state of a model's caches taken apart by rows, and put together again for other rows.

A cache keeps tensors of a whole model call, such as hidden states or attention outputs, whose first dimension is made
of rows as that of the model's input is, and counters that are the same for all rows. `CacheRows.of` reads both after a
call; `joined` makes from it what a cache would hold had exactly the given rows been in the last call. So rows can be
pruned, repeated and mixed with rows of other calls. Rows whose counters differ cannot share a call (`kind`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genscale.engine import holding
from genscale.errors import UsageError

State = tuple[type, dict[str, Any]]  # class of a state object, and its attributes
Slots = dict[tuple[int, str], State]  # (number of the slot, name of the cache context) -> state
ROW_COUNTS = ("batch_size",)  # attributes that hold a number of rows


class RowCacheState(NamedTuple):
    """What caches hold for one row: row `place` of a call."""

    call: CacheRows
    place: int


@dataclass(frozen=True, eq=False)
class CacheRows:
    """What caches hold after one call of n rows. kind: rows for which it is equal can be in one call."""

    n: int
    slots: Slots
    kind: Hashable

    @staticmethod
    def of(
        states: Mapping[tuple[int, str], Any],
        n: int,
        blocks: Mapping[tuple[int, str], int],
        on_host: bool = False,
    ) -> CacheRows:
        """Read state objects after a call of `n` latents.

        blocks: how many guidance copies of the latents each slot's tensors hold, as [block, row]. on_host: keep what
        has rows in the memory of the host. UsageError: a tensor has no rows to take apart.
        """
        slots: Slots = {}
        for key, state in states.items():
            found = {}
            for name, value in vars(state).items():
                if name in ROW_COUNTS and isinstance(value, int):
                    found[name] = _Count(value / n)
                else:
                    found[name] = _read(value, n, blocks.get(key, 1), on_host)
            slots[key] = (type(state), found)
        kind = tuple(
            (key, cls, _kind(found)) for key, (cls, found) in sorted(slots.items(), key=lambda s: s[0])
        )
        return CacheRows(n, slots, kind)

    def rows(self) -> tuple[RowCacheState, ...]:
        return tuple(RowCacheState(self, i) for i in range(self.n))


def joined(rows: Sequence[RowCacheState]) -> Slots:
    """Classes and attributes of the states that hold these rows, which must be of one kind."""
    slots = {}
    for key, (cls, first) in rows[0].call.slots.items():
        contents = [row.call.slots[key][1] for row in rows]
        slots[key] = (cls, {name: _write([c[name] for c in contents], rows) for name in first})
    return slots


@dataclass(frozen=True, eq=False)
class _RowTensor:
    """[blocks x rows x inner, ...]; device: the model's, where the cache needs it."""

    tensor: Tensor
    blocks: int
    inner: int
    device: torch.device

    def by_row(self) -> Tensor:
        """[blocks, rows, inner, ...]; a view where it can be one."""
        return self.tensor.reshape(self.blocks, -1, self.inner, *self.tensor.shape[1:])


@dataclass(frozen=True)
class _Count:
    """A number of rows, for one row."""

    each: float


@dataclass(frozen=True)
class _Shape:
    """The shape of a tensor whose first dimension is made of rows: for one row."""

    each: float
    others: tuple[int, ...]


def _read(value: Any, n: int, blocks: int, on_host: bool) -> Any:
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return value.clone()  # caches multiply into their accumulators
        for copies in (blocks, 1):
            inner, rest = divmod(value.shape[0], copies * n)
            if rest == 0:
                kept = holding.to_host(value) if on_host else value
                return _RowTensor(kept, copies, inner, value.device)
        raise UsageError(
            f"a cache of the model keeps a tensor of shape {list(value.shape)} for {n} candidates, which cannot be "
            "taken apart by candidate: search with batch_size=1, or disable the cache."
        )
    if isinstance(value, torch.Size):
        return _Shape(value[0] / n, tuple(value[1:]))
    if isinstance(value, list | tuple):
        return type(value)(_read(v, n, blocks, on_host) for v in value)
    if isinstance(value, dict):
        return {k: _read(v, n, blocks, on_host) for k, v in value.items()}
    return value


def _write(parts: Sequence[Any], rows: Sequence[RowCacheState]) -> Any:
    first = parts[0]
    if isinstance(first, _RowTensor):
        return _join(parts, rows)
    if isinstance(first, Tensor):
        return first.clone()
    if isinstance(first, _Count):
        return round(first.each * len(rows))
    if isinstance(first, _Shape):
        return torch.Size((round(first.each * len(rows)), *first.others))
    if isinstance(first, list | tuple):
        return type(first)(_write(column, rows) for column in zip(*parts, strict=True))
    if isinstance(first, dict):
        return {k: _write([part[k] for part in parts], rows) for k in first}
    return first


def _join(parts: Sequence[_RowTensor], rows: Sequence[RowCacheState]) -> Tensor:
    first, call = parts[0], rows[0].call
    if all(row.call is call for row in rows):
        index = [row.place for row in rows]
        if index == list(range(call.n)):
            return holding.to_model(first.tensor, first.device)
        made = first.by_row()[:, index]
    else:
        made = torch.cat([p.by_row()[:, r.place : r.place + 1] for p, r in zip(parts, rows, strict=True)], 1)
    return holding.to_model(made.flatten(0, 2), first.device)


def _kind(value: Any) -> Hashable:
    """What must be equal for two rows to be in one call."""
    if isinstance(value, _RowTensor):
        shape = tuple(value.tensor.shape[1:])
        return ("rows", value.blocks, value.inner, shape, value.tensor.dtype, value.device)
    if isinstance(value, Tensor):
        return ("number", float(value))
    if isinstance(value, list | tuple):
        return (type(value), *(_kind(v) for v in value))
    if isinstance(value, dict):
        return tuple((k, _kind(v)) for k, v in value.items())
    return value if isinstance(value, Hashable) else repr(value)
