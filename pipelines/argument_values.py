"""Values that pipelines and models are given and give, with all that is nested in them: tensors, copies, equality."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in lists, tuples, dictionaries and autoencoders' distributions, in order."""
    if isinstance(value, Tensor):
        return [value]
    if is_distribution(value):
        value = vars(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for one in inner for tensor in tensors_of(one)]


def is_distribution(value: Any) -> bool:
    """Whether it is what an autoencoder of diffusers encodes to: mean and std, from which latents are drawn."""
    methods = all(callable(getattr(value, name, None)) for name in ("sample", "mode"))
    return methods and hasattr(value, "__dict__")


def recollected(value: Any) -> Any:
    """The same tensors in new lists and dictionaries."""
    if type(value) in (list, tuple):
        return type(value)(map(recollected, value))
    if isinstance(value, dict):  # also the output classes of diffusers and transformers
        made = copy.copy(value)
        for name, part in value.items():
            made[name] = recollected(part)
        return made
    return copy.copy(value) if is_distribution(value) else value


def copied(value: Any) -> Any:
    """The same with copies of all tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    return type(value)(map(copied, value)) if type(value) in (list, tuple) else value


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal in all they hold."""
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        both = isinstance(a, Tensor) and isinstance(b, Tensor)
        return both and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
