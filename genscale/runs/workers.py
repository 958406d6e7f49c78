"""The worker processes of a command: started once, for all of its searches with one model."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from genscale.runs.model_pipeline import LOADING, load_model
from genscale.runs.request import Request

_kept: dict[tuple[Any, ...], Any] = {}


def workers_of(request: Request, images: Collection[str]) -> Any:
    """The executor of a request; None: this process does the work.

    Each worker loads the model itself. On accelerators the workers take them in turn.
    """
    if request.workers == 1:
        return None
    from genscale.workers.processes import Processes

    key = (request.model, request.workers, *(getattr(request, name) for name in LOADING), *sorted(images))
    if key not in _kept:
        for other in _kept.values():
            other.close()
        _kept.clear()
        load = partial(load_model, request, images)
        _kept[key] = Processes(request.workers, load=load, devices=_devices(request))
    return _kept[key]


def _devices(request: Request) -> list[str] | None:
    """The accelerators, where a model is loaded onto one as a whole; None: where the model is loaded."""
    import torch

    if request.offload or request.device_map or (request.device or "cuda") != "cuda":
        return None
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or None
