"""Other models that share a pipeline's latent space, called in place of its denoiser for single model calls.

No second pipeline runs: loop, conditioning and decoding stay the same. Only the denoiser's forward is replaced by
another model's, or by its own with other adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from genscale.errors import UsageError, did_you_mean
from genscale.pipelines.watched_models import is_denoiser

BASE, ADAPTER = "base", "adapter:"


class Variant(Protocol):
    """Runs a denoiser's call in another model."""

    def __call__(
        self, name: str, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any: ...


@dataclass(frozen=True)
class ReplacedModules:
    """Calls other modules, given under the names of the pipeline's components."""

    modules: Mapping[str, nn.Module]

    def __call__(
        self, name: str, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        other = self.modules.get(name, module)
        return forward(*args, **kwargs) if other is module else other(*args, **kwargs)


@dataclass(frozen=True)
class SwitchedAdapters:
    """Calls the pipeline's modules with only these adapters active (LoRA through PEFT); with none: the base model."""

    adapters: tuple[str, ...] = ()

    def __call__(
        self, name: str, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        with _switched(module, self.adapters):
            return forward(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class PerturbedModules:
    """Calls the pipeline's modules after `prepare` has changed them (skipped layers), then calls `restore`."""

    prepare: Callable[[nn.Module], None]
    restore: Callable[[nn.Module], None]

    def __call__(
        self, name: str, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        self.prepare(module)
        try:
            return forward(*args, **kwargs)
        finally:
            self.restore(module)


@contextmanager
def _switched(module: nn.Module, adapters: tuple[str, ...]) -> Iterator[None]:
    layers = _adapted(module)
    # A layer's forward reads only these two. PEFT's public methods also change which weights require gradients.
    before = [(layer._disable_adapters, layer._active_adapter) for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = not adapters
            if adapters:
                layer._active_adapter = list(adapters)
        yield
    finally:
        for layer, (disabled, active) in zip(layers, before, strict=True):
            layer._disable_adapters, layer._active_adapter = disabled, active


def _adapted(module: nn.Module) -> list[Any]:
    """Layers with adapters."""
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        return []
    return [m for m in module.modules() if isinstance(m, BaseTunerLayer)]


def variants(pipe: Any, names: set[str], models: Mapping[str, Any]) -> dict[str, Variant]:
    """A variant for each model that a mix names; "" is the pipeline's own and needs none.

    models: pipelines or modules by name. "base" is the pipeline with all adapters off, "adapter:NAME" with just that
    one on. UsageError: a name that is neither, a model that does not fit.
    """
    return {name: _variant(pipe, name, models) for name in sorted(names - {""})}


def _variant(pipe: Any, name: str, models: Mapping[str, Any]) -> Variant:
    if name in models:
        given = models[name]
        return given if isinstance(given, PerturbedModules) else ReplacedModules(_fitting(pipe, name, given))
    loaded = {a for m in denoisers(pipe).values() for layer in _adapted(m) for a in layer.scaling}
    if name == BASE:
        if not loaded:
            raise UsageError(
                "model 'base' is the pipeline with its adapters off, but none are loaded (or they are fused): "
                "load a LoRA, or give models={'base': ...}."
            )
        return SwitchedAdapters()
    if name.startswith(ADAPTER):
        adapter = name.removeprefix(ADAPTER)
        if adapter not in loaded:
            raise UsageError(
                f"adapter '{adapter}' is not loaded{did_you_mean(adapter, loaded)}: there "
                f"{'is none' if not loaded else 'are ' + ', '.join(sorted(loaded))}."
            )
        return SwitchedAdapters((adapter,))
    known = {*models, BASE}
    raise UsageError(
        f"the mix names model '{name}', which was not given{did_you_mean(name, known)}: give "
        f"models={{'{name}': ...}}."
    )


def denoisers(pipe: Any) -> dict[str, nn.Module]:
    """The pipeline's denoisers by component name."""
    found = {n: m for n, m in pipe.components.items() if isinstance(m, nn.Module) and is_denoiser(n)}
    return {
        n: m
        for n, m in found.items()
        if any(word in n for word in ("unet", "transformer", "prior", "decoder"))
    }


def _fitting(pipe: Any, name: str, other: Any) -> dict[str, nn.Module]:
    """The other model's denoisers under the names of the pipeline's."""
    own = denoisers(pipe)
    if isinstance(other, nn.Module):
        if len(own) != 1:
            raise UsageError(
                f"model '{name}' is one module, but {type(pipe).__name__} has {', '.join(own)}: give a pipeline."
            )
        found = {next(iter(own)): other}
    elif hasattr(other, "components"):
        found = {n: m for n, m in denoisers(other).items() if n in own}
    else:
        raise UsageError(
            f"model '{name}' must be a diffusers pipeline or a torch module, not {type(other).__name__}."
        )
    if not found:
        raise UsageError(
            f"model '{name}' ({type(other).__name__}) has no {' or '.join(own) or 'denoiser'} to put in place of "
            f"{type(pipe).__name__}'s."
        )
    for part, module in found.items():
        for field in ("in_channels", "out_channels"):
            mine, its = (getattr(getattr(m, "config", None), field, None) for m in (own[part], module))
            if mine != its and None not in (mine, its):
                raise UsageError(
                    f"model '{name}' has {its} {field.replace('_', ' ')}, {type(pipe).__name__} has {mine}: "
                    "they do not share a latent space."
                )
    return found
