"""How the first dimension of the latents in `scheduler.step` is made of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genscale.numerics.transfers import take_rows
from genscale.protocol.particles import Memory


@dataclass(frozen=True)
class Layout:
    """Latents are [copies x rows x inner, ...] in the pipeline and [rows, inner, ...] in the search.

    Nearly all pipelines step one row for each image or video (1, 1). Some fold the frames of a video into the first
    dimension (inner), some step the latents twice, once for each branch of guidance (copies).

    joint: several rows of one prompt are one candidate, and nothing says in which order those of several candidates
    would be: a prior steps its negative prompt beside the prompt. The call's own rows are evaluated at a time then.
    """

    copies: int = 1
    inner: int = 1
    joint: bool = False

    @staticmethod
    def of(sample: Tensor, noise: list[Tensor], prompt: Any, one_each: bool = True) -> Layout:
        """The layout of latents `sample` that were made of the draws `noise`, in a call with these prompts.

        one_each: the call asks for one image or video of each prompt.
        """
        rows, prompts = sample.shape[0], len(prompt) if isinstance(prompt, list | tuple) else 0
        for one in noise:
            n = sum(other.shape[0] for other in noise if other.shape[1:] == one.shape[1:])
            times, rest = divmod(rows, n) if n else (1, 0)
            if rest or times <= 1 or rows == prompts:
                continue
            if one.ndim == sample.ndim + 1 and n * one[0].numel() == sample.numel():
                return Layout(inner=times)
            if one.shape[1:] == sample.shape[1:] and torch.equal(sample, Layout(times).from_rows(sample[:n])):
                return Layout(copies=times)
        alone = one_each and (isinstance(prompt, str) or prompts == 1)
        return Layout(inner=rows, joint=True) if alone and rows > 1 else Layout()

    def to_rows(self, x: Tensor) -> Tensor:
        """[copies x rows x inner, ...] to [rows, inner, ...]; the copies are equal."""
        if self.copies > 1:
            x = x[: x.shape[0] // self.copies]
        return x.reshape(-1, self.inner, *x.shape[1:]) if self.inner > 1 else x

    def from_rows(self, x: Tensor) -> Tensor:
        """[rows, inner, ...] to [copies x rows x inner, ...]."""
        if self.inner > 1:
            x = x.flatten(0, 1)
        return x.repeat(self.copies, *(1,) * (x.ndim - 1)) if self.copies > 1 else x

    def memory_from_rows(self, memory: Memory, part: tuple[int, ...] | None) -> Memory:
        """The memory of some latents [rows, inner, ...] (None: of all) as that of [copies x rows x inner, ...]."""
        if part is None:
            return Memory({k: self.from_rows(v) for k, v in memory.rows.items()}, memory.rest)
        return Memory({k: self.from_rows(take_rows(v, part)) for k, v in memory.rows.items()}, memory.rest)


def as_own_latents(x: Tensor, own: Tensor | None, order: tuple[int, ...] | None = None) -> Tensor:
    """`x` in the dtype and the memory format of the pipeline's own latents.

    A search keeps stochastic states in float32. The memory format decides the last bits of a convolution's result.
    order: of the dimensions in memory, where they are not those of the initial latents.
    """
    if x.requires_grad:  # not the leaf itself: a pipeline may write into its latents
        x = x.clone()
    if own is not None:
        x = x.to(own.dtype)
    if order is not None and len(order) == x.ndim:
        inverse = sorted(range(x.ndim), key=order.__getitem__)
        return x.permute(order).contiguous().permute(inverse)
    if own is not None and own.ndim == 4 and x.ndim == 4 and not own.is_contiguous():
        return x.contiguous(memory_format=torch.channels_last)
    return x
