"""The models inside a pipeline, watched while it runs: denoisers counted or skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[..., Any]
Watch = Callable[[str, nn.Module, Forward, tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def watched(components: dict[str, Any], watch: Watch) -> Iterator[None]:
    """Route the forward of every model among the components through `watch`; undone at the end."""
    saved: list[tuple[nn.Module, Any]] = []
    missing = object()
    seen: set[int] = set()
    try:
        for name, module in components.items():
            if not isinstance(module, nn.Module) or id(module) in seen:
                continue
            seen.add(id(module))
            saved.append((module, module.__dict__.get("forward", missing)))
            module.__dict__["forward"] = _route(name, module, module.forward, watch)
        yield
    finally:
        for module, forward in reversed(saved):
            if forward is missing:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward


def _route(name: str, module: nn.Module, forward: Forward, watch: Watch) -> Forward:
    def routed(*args: Any, **kwargs: Any) -> Any:
        return watch(name, module, forward, args, kwargs)

    routed.__wrapped__ = forward  # type: ignore[attr-defined]  # pipelines ask for a denoiser's signature
    return routed


class FakeOutput(tuple):  # type: ignore[type-arg]
    """What a skipped denoiser returns: a tuple, or an object with `.sample`, of zeros."""

    @property
    def sample(self) -> Tensor:
        return self[0]  # type: ignore[no-any-return]


def guess(module: nn.Module, sample: Any) -> FakeOutput:
    """Zeros in the likely shape of a denoiser's output: its input's, with its own number of channels."""
    if isinstance(sample, list):
        return FakeOutput(([torch.zeros_like(s) for s in sample],))
    shape = list(sample.shape)
    config = getattr(module, "config", None)
    channels = getattr(config, "out_channels", None)
    if sample.ndim >= 4 and isinstance(channels, int) and shape[1] == getattr(config, "in_channels", None):
        shape[1] = channels
    return FakeOutput((sample.new_zeros(shape),))


def zeros_like(output: Any, old: int, new: int) -> Any:
    """Zeros in the structure of a recorded output, with leading dimensions scaled from old to new rows."""
    if isinstance(output, Tensor):
        shape = list(output.shape)
        if shape and shape[0] % old == 0:
            shape[0] = shape[0] // old * new
        return output.new_zeros(shape)
    if isinstance(output, dict):  # diffusers' output classes are ordered dictionaries
        filled = {k: zeros_like(v, old, new) for k, v in output.items()}
        return type(output)(**filled) if type(output) is not dict else filled
    if type(output) is list and len(output) == old and old != new:  # one tensor a row
        return [torch.zeros_like(output[0])] * new
    if isinstance(output, list | tuple):
        return type(output)(zeros_like(v, old, new) for v in output)
    return output
