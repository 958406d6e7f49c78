"""Makes a pipeline's models differentiable while a search takes gradients, and restores them.

Weights are frozen, so that only the latents have an autograd graph. Denoiser calls of an unrolled run, and decoders,
use gradient checkpointing: their activations are computed again in the backward pass, one call at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from genscale.errors import UsageError
from genscale.pipelines.noise_interception import Intercept

_NONE = object()


class DifferentiableModels:
    """The models of one pipeline while gradients are taken through it.

    From `prepare` to `restore` parameters are frozen, methods lose a no_grad decorator, and decoders checkpoint
    block by block. others: models that are called in place of the pipeline's.
    """

    def __init__(self, pipe: Any, others: Mapping[str, nn.Module] | None = None) -> None:
        self.pipe, self.others = pipe, others or {}
        self.prepared = False
        self._frozen: list[tuple[nn.Module, str]] = []
        self._open: list[tuple[nn.Module, str]] = []
        self._blocks: list[tuple[nn.Module, str, Any]] = []

    @property
    def models(self) -> dict[str, nn.Module]:
        own = {k: m for k, m in self.pipe.components.items() if isinstance(m, nn.Module)}
        return own | dict(self.others)

    def prepare(self) -> None:
        """Freeze, and let decoders checkpoint. UsageError: a model is not differentiable."""
        if self.prepared:
            return
        for name, model in self.models.items():
            if getattr(model, "is_cache_enabled", False):
                raise UsageError(
                    f"the pipeline's {name} caches parts of earlier outputs, which have no gradient: call "
                    f"pipe.{name}.disable_cache() first."
                )
            if any(p.is_inference() for p in model.parameters()):
                raise UsageError(
                    f"the pipeline's {name} was loaded inside torch.inference_mode() and has no gradient: load it "
                    "outside."
                )
        self.prepared = True
        for model in self.models.values():
            for part in model.modules():
                names = [n for n, p in part._parameters.items() if p is not None and p.requires_grad]
                self._frozen += [(part, n) for n in names]
        for part, name in self._frozen:
            _parameter(part, name).requires_grad_(False)
        for model in self.models.values():
            self._undecorate(model)
        for model in self._decoders():
            if getattr(model, "_supports_gradient_checkpointing", False) and not self.offloaded:
                self._checkpoint_blocks(model)

    def restore(self) -> None:
        # By name: offloading may have replaced the parameters meanwhile.
        for part, name in self._frozen:
            _parameter(part, name).requires_grad_(True)
        for part, name, old in self._blocks:
            _restore_attribute(part, name, old)
        for part, name in self._open:
            del part.__dict__[name]
        self._frozen, self._blocks, self._open, self.prepared = [], [], [], False

    @property
    def offloaded(self) -> bool:
        """Whether weights move to the accelerator and back in every call."""
        hooks = ("_hf_hook", "_diffusers_hook")
        return any(hasattr(part, h) for m in self.models.values() for part in m.modules() for h in hooks)

    def call(self, forward: Callable[..., Any], args: Any, kwargs: Any, again: bool) -> Any:
        """A denoiser's forward with its graph. again: checkpointed, that is, computed again in the backward pass."""
        args, kwargs = _without_inference_tensors(args), _without_inference_tensors(kwargs)
        forward = _keeping_weights(forward) if self.offloaded else forward
        return (
            checkpoint(forward, *args, use_reentrant=False, **kwargs) if again else forward(*args, **kwargs)
        )

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Decoders that cannot checkpoint block by block (or are offloaded) are checkpointed as a whole."""
        whole = [
            m
            for m in self._decoders()
            if not any(part is b for b, _, _ in self._blocks for part in m.modules())
        ]
        saved = [(m, m.__dict__.get("decode", _NONE)) for m in whole]
        for model in whole:
            decode: Any = model.decode
            model.__dict__["decode"] = _checkpointed(_keeping_weights(decode) if self.offloaded else decode)
        try:
            yield
        finally:
            for model, old in saved:
                _restore_attribute(model, "decode", old)

    def _decoders(self) -> list[nn.Module]:
        return [m for m in self.models.values() if callable(getattr(m, "decode", None))]

    def _undecorate(self, model: nn.Module) -> None:
        """Remove @torch.no_grad from methods, which would silently cut the graph inside a model (HiDream's experts)."""
        for part in model.modules():
            kind: Any = type(part)
            for name, method in without_graph(kind):
                if name not in part.__dict__:
                    part.__dict__[name] = method.__get__(part)
                    self._open.append((part, name))

    def _checkpoint_blocks(self, model: nn.Module) -> None:
        for part in model.modules():
            if isinstance(getattr(part, "gradient_checkpointing", None), bool):
                for name, value in (
                    ("gradient_checkpointing", True),
                    ("_gradient_checkpointing_func", _block),
                ):
                    self._blocks.append((part, name, part.__dict__.get(name, _NONE)))
                    part.__dict__[name] = value


def _block(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _checkpointed(module.__call__)(*args, **kwargs)


def _checkpointed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checkpointed where there is a graph; normal draws inside are repeated in the second computation."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)
        drawn: list[Tensor] = []

        def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
            first = Intercept(lambda j, shape: None, drawn.append)
            return first, Intercept(lambda j, shape: drawn[j])

        return checkpoint(function, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


class _KeepWeights(TorchFunctionMode):
    """Keeps weights that a graph needs alive although offloading replaces the data of parameters.

    A graph (or a checkpoint) refers to the parameter of a frozen layer; here it gets another tensor of the same data.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.__name__ not in ("__get__", "__set__") and not func.__name__.endswith("_"):
            args = tuple(_detached(a) for a in args)
            kwargs = {k: _detached(v) for k, v in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def _detached(value: Any) -> Any:
    if isinstance(value, nn.Parameter):
        return value.detach()
    return type(value)(_detached(v) for v in value) if type(value) in (list, tuple) else value


def _keeping_weights(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with _KeepWeights():
            return function(*args, **kwargs)

    return run


def _without_inference_tensors(value: Any) -> Any:
    """Inference tensors cloned, since a graph cannot save them."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) is dict:
        return {k: _without_inference_tensors(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without_inference_tensors(v) for v in value)
    return value


@cache
def without_graph(cls: type) -> tuple[tuple[str, Any], ...]:
    """Methods that torch.no_grad or its like decorates, undecorated; the wrapper is known by its code's name."""
    found = {}
    for base in reversed(cls.__mro__):
        for name, method in vars(base).items():
            code = getattr(method, "__code__", None)
            found[name] = (
                getattr(method, "__wrapped__", None) if code and code.co_name == "decorate_context" else None
            )
    return tuple((name, method) for name, method in found.items() if method is not None)


def _restore_attribute(part: nn.Module, name: str, old: Any) -> None:
    if old is _NONE:
        del part.__dict__[name]
    else:
        part.__dict__[name] = old


def _parameter(part: nn.Module, name: str) -> nn.Parameter:
    found = part._parameters[name]
    assert found is not None
    return found
