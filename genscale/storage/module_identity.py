"""The weights and settings of a model as plain data, to see whether it is still the same.

Of every weight and persistent buffer: name, type, shape and two checksums of all its bits, one of its rows and one of
its columns, so that exchanged values are noticed as well. They are computed where the weights are, at the speed of
reading them once or twice; the numbers of all weights are copied to the CPU together. Of every submodule: its class,
its plain public attributes (such as the scale of an adapter) and the adapters of PEFT that are active or merged.
Of the hooks, those of caches count (`enable_cache`). Others do not, nor methods replaced on an instance: offloading,
compiling and watching a model need them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_ROW, _COLUMN = -7046029254386353131, -4417276706812531889  # odd: multiplying by them loses no bits
_IGNORED = (
    *("training", "gradient_checkpointing", "use_slicing"),
    *("hf_device_map", "model_parallel", "is_parallelizable", "name_or_path", "warnings_issued"),
    "config",  # is taken apart
)
"""Attributes that do not change what a model computes: how and where it runs, and where it was loaded from."""


def described_module(module: nn.Module) -> dict[str, Any]:
    """Its weights, settings and configuration, as plain values. Two that are equal compute the same."""
    caches = _caches(module)
    return {
        **({"caches": caches} if caches else {}),
        "weights": _weights(module),
        "settings": {_plain_name(name): _settings(part) for name, part in module.named_modules()},
        "config": _config(module),
    }


def _plain_name(name: str) -> str:
    return name.replace("_orig_mod.", "").removesuffix("_orig_mod")  # torch.compile puts it there


def _config(module: nn.Module) -> dict[str, Any]:
    config = getattr(module, "config", None)  # of diffusers
    return _plain_part(dict(config)) if isinstance(config, Mapping) else {}


def _caches(module: nn.Module) -> list[str]:
    """Hooks of diffusers that reuse parts of earlier outputs, with their settings."""
    found = set()
    for part in module.modules():
        hooks = getattr(part.__dict__.get("_diffusers_hook"), "hooks", {})
        for hook in hooks.values():
            if getattr(hook, "_is_stateful", False):
                settings = {**vars(hook), **getattr(getattr(hook, "config", None), "__dict__", {})}
                found.add(f"{type(hook).__qualname__} {_numbers(settings)}")
    return sorted(found)


def _numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    flat = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in settings.items()}
    return {k: v for k, v in sorted(flat.items()) if not k.startswith("_") and _is_plain(v)}


def _settings(module: nn.Module) -> dict[str, Any]:
    kind = type(module)
    found = {"class": f"{kind.__module__}.{kind.__qualname__}"} | _plain_part(vars(module))
    for name, part in vars(module).items():  # attention processors and the like
        if callable(part) and callable(getattr(type(module), name, None)):
            continue  # a wrapped method, as accelerate wraps `forward`
        if not name.startswith("_") and name not in _IGNORED and hasattr(part, "__dict__"):
            kind = part if isinstance(part, type) else type(part)
            inner = {} if isinstance(part, nn.Module | type) else _plain_part(vars(part))
            found[name] = inner | {"class": getattr(part, "__qualname__", kind.__qualname__)}
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(module, BaseTunerLayer):
        found["adapters"] = [module.active_adapters, module.disable_adapters, module.merged_adapters]
    return found


def _plain_part(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The public attributes that are numbers, texts, or collections of such."""
    names = [name for name in attributes if not name.startswith("_") and name not in _IGNORED]
    # What is None may be filled by the first call, as tables of frequencies are.
    return {
        name: attributes[name]
        for name in names
        if attributes[name] is not None and _is_plain(attributes[name])
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)


# ---------------------------------------------------------------- weights


def _weights(module: nn.Module) -> dict[str, Any]:
    tensors = {
        _plain_name(n): t for n, t in module.state_dict(keep_vars=True).items() if isinstance(t, Tensor)
    }
    offloaded = _offloaded(module)
    parts: list[tuple[str, str, Tensor]] = []  # name, what is known without its values, checksums
    for name, tensor in tensors.items():
        for suffix, inner in _inner(offloaded.get(name, tensor)):
            if inner.device.type != "meta":
                parts.append((name + suffix, f"{inner.dtype} {tuple(inner.shape)}", _checksums(inner)))
    sums: dict[int, list[int]] = {}
    for device in {part[2].device for part in parts}:
        places = [n for n, part in enumerate(parts) if part[2].device == device]
        sums |= dict(zip(places, torch.stack([parts[n][2] for n in places]).tolist(), strict=True))
    return {name: [about, *sums[n]] for n, (name, about, _) in enumerate(parts)}


def _offloaded(module: nn.Module) -> dict[str, Tensor]:
    """Weights that accelerate keeps elsewhere while the module is not called."""
    found = {}
    for prefix, part in module.named_modules():
        kept = getattr(getattr(part, "_hf_hook", None), "weights_map", None)
        if kept is None:
            continue
        for name, _ in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            if name in kept:
                found[_plain_name(f"{prefix}.{name}" if prefix else name)] = kept[name]
    return found


def _inner(tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Tensors that a quantized weight consists of; a plain weight is its own."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return [("", tensor.detach())]
    names, _ = flatten()
    return [(f".{name}{suffix}", t) for name in names for suffix, t in _inner(getattr(tensor, name))]


def _checksums(tensor: Tensor) -> Tensor:
    """int64 [2], on the tensor's device: sums of its bits in rows and in columns, modulo 2**64."""
    data = tensor.detach().contiguous().reshape(-1)
    if data.numel() == 0:
        return torch.zeros(2, dtype=torch.int64, device=data.device)
    if data.data_ptr() % 8 or data.storage_offset() * data.element_size() % 8:
        data = data.clone()  # words of 64 bits begin at multiples of 8 bytes
    data = data.view(torch.uint8)
    whole = data.numel() // 8
    words = data[: whole * 8].view(torch.int64)
    rest = data[whole * 8 :].to(torch.int64)
    width = 1 << (int(math.sqrt(whole)).bit_length() if whole else 0)
    square = words[: whole // width * width].view(-1, width)
    tail = torch.cat([words[square.numel() :], rest])
    return torch.stack(
        [
            _weighted(square.sum(1), _ROW) + _weighted(tail, _COLUMN),
            _weighted(square.sum(0), _COLUMN) + _weighted(tail, _ROW),
        ]
    )


def _weighted(values: Tensor, factor: int) -> Tensor:
    """The sum of value i times (2 i + 1) times a factor."""
    places = torch.arange(1, 2 * values.numel() + 1, 2, device=values.device)
    return (values * places).sum() * factor
