"""Routes the forward of a pipeline's models through a driver, and makes placeholder outputs for skipped models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genscale.engine.ledger import Ledger
from genscale.pipelines.row_gather import rows_of, sample_of

Forward = Callable[..., Any]
Watch = Callable[[str, nn.Module, Forward, tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def watched(components: dict[str, Any], watch: Watch, watch_encode: Watch | None = None) -> Iterator[None]:
    """Route the forward of every model among the components through `watch`; undone at the end.

    watch_encode: the same for the `encode` of autoencoders. Of a compiled model the compiled call is routed, so that
    nothing of a search is compiled into it.
    """
    saved: list[tuple[nn.Module, str, Any]] = []
    missing = object()
    seen: set[int] = set()
    try:
        for name, module in components.items():
            if not isinstance(module, nn.Module) or id(module) in seen:
                continue
            seen.add(id(module))
            compiled = module.__dict__.get("_compiled_call_impl")  # by module.compile()
            attribute = "forward" if compiled is None else "_compiled_call_impl"
            saved.append((module, attribute, module.__dict__.get(attribute, missing)))
            module.__dict__[attribute] = _route(name, module, compiled or module.forward, watch)
            if watch_encode is not None and all(
                callable(getattr(module, m, None)) for m in ("encode", "decode")
            ):
                saved.append((module, "encode", module.__dict__.get("encode", missing)))
                encode: Any = module.encode
                module.__dict__["encode"] = _route(name, module, encode, watch_encode)
        yield
    finally:
        for module, attribute, before in reversed(saved):
            if before is missing:
                module.__dict__.pop(attribute, None)
            else:
                module.__dict__[attribute] = before


def _route(name: str, module: nn.Module, forward: Forward, watch: Watch) -> Forward:
    def routed(*args: Any, **kwargs: Any) -> Any:
        return watch(name, module, forward, args, kwargs)

    routed.__wrapped__ = forward  # type: ignore[attr-defined]  # pipelines read a denoiser's signature
    return routed


def modules_in(model: nn.Module) -> Iterator[nn.Module]:
    """As `model.modules()`, without the names that it makes of each on the way: a search goes through all often."""
    seen, rest = set[nn.Module](), [model]
    while rest:
        module = rest.pop()
        if module not in seen:
            seen.add(module)
            yield module
            if parts := module._modules:
                rest += [part for part in reversed(parts.values()) if part is not None]


def is_compiled(model: Any) -> bool:
    """Whether torch.compile was called for a model or a part of it."""
    parts = modules_in(model) if isinstance(model, nn.Module) else ()
    return any(p.__dict__.get("_compiled_call_impl") or "_orig_mod" in p._modules for p in parts)


def is_denoiser(name: str) -> bool:
    """Whether a component that the loop calls is a denoiser: its rows count as NFE."""
    return not any(word in name for word in ("controlnet", "adapter", "vae", "encoder"))


class PlaceholderOutputs:
    """Outputs for models that are skipped in a pass of the loop: zeros in the structure of a real output.

    recorded: name of a model -> a real output, and its number of rows. guess: a denoiser whose output is not recorded
    gets zeros in the likely shape; False evaluates it once. guessed: zeros were given so. evaluate: no model is
    skipped, since the loop reads more of the denoiser than its output. ledger: counts denoiser rows that are evaluated.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.recorded: dict[str, tuple[Any, int]] = {}
        self.guess, self.guessed, self.evaluate = True, False, False

    def get(self, name: str, module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> Any:
        """A placeholder for the output of this call; the real output where its structure is unknown."""
        rows = rows_of(sample_of(args, kwargs))
        if name in self.recorded and not self.evaluate:
            output, old = self.recorded[name]
            return zeros_like(output, old, rows, isinstance(sample_of(args, kwargs), list))
        if self.guess and is_denoiser(name) and not self.evaluate:
            self.guessed = True
            return likely_output(module, sample_of(args, kwargs))
        output = forward(*args, **kwargs)
        self.recorded[name] = (output, rows)
        if is_denoiser(name):
            self.ledger.probes += rows
            self.ledger.evaluations += rows
        return output


class LikelyOutput(tuple):  # type: ignore[type-arg]
    """A denoiser's output as a tuple that also has `.sample`, for pipelines that read either."""

    @property
    def sample(self) -> Tensor:
        return self[0]  # type: ignore[no-any-return]


def likely_output(module: nn.Module, sample: Any) -> LikelyOutput:
    """Zeros in the shape of a denoiser's input, with the number of output channels of its configuration."""
    if isinstance(sample, list):
        return LikelyOutput(([torch.zeros_like(s) for s in sample],))
    shape = list(sample.shape)
    config = getattr(module, "config", None)
    channels = getattr(config, "out_channels", None)
    if sample.ndim >= 4 and isinstance(channels, int) and shape[1] == getattr(config, "in_channels", None):
        shape[1] = channels
    return LikelyOutput((sample.new_zeros(shape),))


def zeros_like(output: Any, old: int, new: int, row_lists: bool = False) -> Any:
    """Zeros in the structure of a recorded output, with first dimensions scaled from `old` to `new` rows.

    row_lists: lists have one tensor a row, as for a model that takes its latents so; else their tensors have rows.
    """
    if isinstance(output, Tensor):
        shape = list(output.shape)
        if shape and shape[0] % old == 0:
            shape[0] = shape[0] // old * new
        return output.new_zeros(shape)
    if isinstance(output, dict):  # diffusers' output classes are ordered dictionaries
        filled = {k: zeros_like(v, old, new, row_lists) for k, v in output.items()}
        return type(output)(**filled) if type(output) is not dict else filled
    if row_lists and type(output) is list and len(output) == old and old != new:
        return [torch.zeros_like(output[0])] * new
    if isinstance(output, list | tuple):
        return type(output)(zeros_like(v, old, new, row_lists) for v in output)
    return output
