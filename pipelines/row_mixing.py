"""Finds models whose rows are not independent: each latent of a batch then depends on the others beside it.

A search evaluates latents of several candidates together, which is right only where a model gives each row what it
would get alone. Nearly all do. Some attend along the first dimension, by an attention layer that takes it for the
sequence, or normalise over it. Whether a model does is not read from its code but measured: a batch of different rows
is evaluated, and its first row alone. That costs one evaluation, once for each model, and is done only where
there is reason to: for layers that work along the first dimension by default, and for code that is neither a model of
diffusers nor of transformers, which the tests of genscale cover.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from genscale.pipelines.argument_values import tensors_of
from genscale.pipelines.failures import MISMATCH
from genscale.pipelines.row_gather import Gather, NeedsRowPerLatent, rows_of, sample_of

KNOWN = ("torch", "diffusers.models", "transformers", "peft", "accelerate", "genscale")
TOLERANCE = 1e-3  # relative to the largest value: models round differently for another number of rows
HALF = 0.05  # the same in half precision

_suspicious: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_independent: WeakSet[nn.Module] = WeakSet()


class RowsMix(Exception):
    """A model's rows depend on each other; the message names the model."""


@dataclass(frozen=True)
class Alone:
    """What a model makes of the first of `n` latents alone. rows: how many of the model's rows that were."""

    module: nn.Module
    output: Any
    n: int
    rows: int

    def compare(self, name: str, output: Any) -> None:
        """RowsMix: the first of the latents gets another in `output`, of all of them, ordered [block, latent]."""
        if _apart(tensors_of(output), tensors_of(self.output), self.n):
            raise RowsMix(name)
        _independent.add(self.module)


def first_alone(
    module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any, n: int
) -> Alone | None:
    """Evaluate the first of `n` latents alone; None where there is no reason to, or its share is not clear.

    Before the model is called for all of them: loops may read what the last call left behind.
    """
    if n < 2 or module in _independent or not suspicious(module):
        return None
    sample = sample_of(args, kwargs)
    blocks, rest = divmod(rows_of(sample), n)
    if rest:
        return None
    first = [block * n for block in range(blocks)]
    alone = [sample[i] for i in first] if isinstance(sample, list) else sample[first]
    gather = Gather(n, (0,), alone)

    def row(value: Any, key: str) -> Any:
        return alone if value is sample else gather(value, key)

    try:
        one = [row(a, str(i)) for i, a in enumerate(args)], {k: row(v, k) for k, v in kwargs.items()}
        with torch.no_grad():
            return Alone(module, forward(*one[0], **one[1]), n, blocks)
    except (NeedsRowPerLatent, *MISMATCH):
        return None  # it is not known which of its values are the row's


def suspicious(module: nn.Module) -> bool:
    """Whether there is reason to measure a model: see the module's description."""
    found = _suspicious.get(module)
    if found is None:
        found = _suspicious[module] = any(_unclear(part) for part in module.modules())
    return found


def interleaved(sample: Any, n: int) -> bool:
    """Whether the guidance copies of each of `n` different latents follow each other, as [latent, block].

    The pipelines of diffusers order rows [block, latent]; conditioning in that order belongs to other latents then.
    """
    if not isinstance(sample, Tensor) or n < 2 or sample.shape[0] % n or sample.shape[0] == n:
        return False
    blocks = sample.shape[0] // n
    by_latent = sample.reshape(n, blocks, *sample.shape[1:])
    by_block = sample.reshape(blocks, n, *sample.shape[1:])
    return bool((by_latent == by_latent[:, :1]).all()) and not bool((by_block == by_block[:1]).all())


def _unclear(part: nn.Module) -> bool:
    if isinstance(part, nn.MultiheadAttention | nn.RNNBase) and not part.batch_first:
        return True
    if isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
        return True
    processor = getattr(part, "processor", None)  # of a diffusers attention layer: any callable
    return not all(_known(type(one)) for one in (part, *([] if processor is None else [processor])))


def _known(cls: type[Any]) -> bool:
    return any(cls.__module__ == name or cls.__module__.startswith(name + ".") for name in KNOWN)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether numbers of a model differ by rounding only; those that are not floating-point numbers always do."""
    if not a.is_floating_point() or not b.numel():
        return True
    half = a.dtype in (torch.float16, torch.bfloat16)
    a, b = a.detach().float(), b.detach().float()
    allowed = (HALF if half else TOLERANCE) * float(b.abs().max().clamp(min=1e-12))
    return float((a - b).abs().max()) <= allowed


def _apart(whole: list[Tensor], alone: list[Tensor], n: int) -> bool:
    """Whether any tensor of the output differs in the rows of the first latent."""
    if len(whole) != len(alone):  # lists with one entry a row
        blocks = len(whole) // n
        whole = [whole[block * n] for block in range(blocks)] if blocks == len(alone) else []
    for a, b in zip(whole, alone, strict=False):
        if a.ndim and a.shape != b.shape and a.shape[0] == b.shape[0] * n:
            a = a[torch.arange(b.shape[0], device=a.device) * n]
        if a.shape == b.shape and not close(a, b):
            return True
    return False
