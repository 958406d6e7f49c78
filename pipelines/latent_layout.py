"""How the first dimension of the latents that `step` is given is made of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Latents [copies x rows x inner, ...] in the pipeline's hands are [rows, inner, ...] in the search's.

    Nearly all pipelines step one row a result. Some fold the frames of a video into the rows (inner), some step
    both guidance copies of the same latents (copies).
    """

    copies: int = 1
    inner: int = 1

    @staticmethod
    def of(sample: Tensor, noise: list[Tensor], prompt: Any) -> Layout:
        """What the layout must be, given the noise that latents `sample` were made of, and the call's prompts."""
        rows, prompts = sample.shape[0], len(prompt) if isinstance(prompt, list | tuple) else 0
        for one in noise:
            n = sum(other.shape[0] for other in noise if other.shape[1:] == one.shape[1:])
            times, rest = divmod(rows, n) if n else (1, 0)
            if rest or times <= 1 or rows == prompts:
                continue
            if one.ndim == sample.ndim + 1 and n * one[0].numel() == sample.numel():
                return Layout(inner=times)
            if one.shape[1:] == sample.shape[1:] and torch.equal(sample, Layout(times).laid_out(sample[:n])):
                return Layout(copies=times)
        return Layout()

    def rows_first(self, x: Tensor) -> Tensor:
        """[copies x rows x inner, ...] to [rows, inner, ...]; the copies are equal."""
        if self.copies > 1:
            x = x[: x.shape[0] // self.copies]
        return x.reshape(-1, self.inner, *x.shape[1:]) if self.inner > 1 else x

    def laid_out(self, x: Tensor) -> Tensor:
        """The way back."""
        if self.inner > 1:
            x = x.flatten(0, 1)
        return x.repeat(self.copies, *(1,) * (x.ndim - 1)) if self.copies > 1 else x
