"""The models inside a pipeline, watched while it runs: encoders remembered, denoisers counted or skipped."""

from __future__ import annotations

import hashlib
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

    routed.__signature__ = _signature(forward)  # type: ignore[attr-defined]
    return routed


def _signature(forward: Forward) -> Any:
    import inspect  # pipelines look at a denoiser's signature to know what it takes

    return inspect.signature(forward)


class Memo:
    """Answers of the prompt and image encoders, so that a prompt is encoded once however often its
    pipeline is called. Keyed by the content of the arguments."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Any] = {}

    def __call__(self, name: str, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        digest = hashlib.blake2b(digest_size=16)
        _digest((args, kwargs), digest)
        key = (name, digest.hexdigest())
        if key not in self._known:
            self._known[key] = forward(*args, **kwargs)
        return self._known[key]


def _digest(value: Any, digest: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(repr((tuple(value.shape), value.dtype, value.device)).encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for k in sorted(value):
            digest.update(str(k).encode())
            _digest(value[k], digest)
    elif isinstance(value, list | tuple):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        for v in value:
            _digest(v, digest)
    else:
        digest.update(repr(value).encode())


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
