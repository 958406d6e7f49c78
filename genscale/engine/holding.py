"""Where latents wait between model calls: beside the model, or in the memory of the host.

A search holds the latents of its whole population, and a model call takes a batch of it. With "host" only the open
batch is beside the model: what a sampler gets and holds is on the CPU, where it also computes with it. Copies change no
bit; what a sampler computes on another device may differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from genscale.protocol.answers import Graded, Prediction
from genscale.protocol.particles import Memory, Particles

DEVICE, HOST = "device", "host"
PLACES = (DEVICE, HOST)
CPU = torch.device("cpu")

Rows = TypeVar("Rows", Tensor, Particles, Prediction, Graded)


@dataclass(frozen=True)
class Holding:
    """place: one of PLACES. device: the model's."""

    place: str = DEVICE
    device: torch.device = CPU

    def aside(self, rows: Rows) -> Rows:
        """The rows where they wait."""
        return _each(rows, to_host) if self.place == HOST else rows

    def beside_model(self, rows: Rows) -> Rows:
        """The rows on the model's device, in memory of their own: a batch stays alive until the next one, and as a view
        it would keep the whole population that it was taken from."""
        on_host = self.place == HOST
        found: Rows = _each(rows, (lambda x: to_model(x, self.device)) if on_host else of_its_own)
        return found


def of_its_own(x: Tensor) -> Tensor:
    return x if x.untyped_storage().nbytes() == x.nbytes else x.clone()


def to_host(x: Tensor) -> Tensor:
    return x.to(CPU)


def to_model(x: Tensor, device: torch.device) -> Tensor:
    return x.to(device)


def _each(rows: Any, moved: Callable[[Tensor], Tensor]) -> Any:
    """The same with every tensor moved that has a row for each latent."""
    if isinstance(rows, Tensor):
        return moved(rows)
    if isinstance(rows, Memory):
        return replace(rows, rows={name: moved(value) for name, value in rows.rows.items()})
    parts = {f.name: getattr(rows, f.name) for f in fields(rows)}
    kinds = (Tensor, Memory, Prediction)
    return replace(rows, **{n: _each(part, moved) for n, part in parts.items() if isinstance(part, kinds)})
