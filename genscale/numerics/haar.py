"""The orthonormal Haar transform of latents: a low band of coarse structure, and high bands of detail.

White noise stays white under the transform. A search can therefore redraw only the low band, and the noise is still
standard normal. Sizes need not be powers of 2: if a size is odd, the last entry is copied into the low band unchanged,
which keeps the transform orthonormal. (Haar 1910; pyramid of Mallat 1989.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genscale.errors import UsageError


@dataclass(frozen=True)
class Plane:
    """Which axes of latents of one shape are spatial.

    shape: of one latent, without a batch dimension. grid: shape to which the latent is reshaped, so that its spatial
    axes are separate. axes: the spatial axes of `grid`, as negative indices.
    """

    shape: tuple[int, ...]
    grid: tuple[int, ...]
    axes: tuple[int, ...]

    @staticmethod
    def of(shape: Sequence[int], rows: int | None = None) -> Plane:
        """The plane of one latent [*shape], without a batch dimension.

        For [..., height, width] the spatial axes are the last two. The frames of a video are not transformed, whichever
        axis they are. For packed latents [tokens, channels], as in Flux, the tokens are a grid of `rows` rows in
        row-major order. Without `rows` the grid is a square if the number of tokens is a square number, else a single
        row: the low band is then smooth along the order of the tokens only. For [d] the only axis is transformed.
        UsageError: the latents are not tokens that can be arranged in `rows` rows.
        """
        shape = tuple(shape)
        if rows is not None and (len(shape) != 2 or rows < 1 or shape[0] % rows):
            raise UsageError(f"latents of shape {list(shape)} are not tokens in {rows} rows: leave rows out.")
        if len(shape) != 2:
            return Plane(shape, shape, (-2, -1) if len(shape) > 2 else (-1,))
        side = math.isqrt(shape[0])
        rows = rows or (side if side**2 == shape[0] else 1)
        return Plane(shape, (rows, shape[0] // rows, shape[1]), (-3, -2))

    def split(self, x: Tensor, level: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The low band and the high bands of x [*shape] after `level` halvings."""
        return split(x.reshape(self.grid), level, self.axes)

    def join(self, low: Tensor, high: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`: [*shape]."""
        return join(low, high, self.axes).reshape(self.shape)


def split(x: Tensor, level: int, axes: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The low band after `level` halvings of each axis, and the high bands in the order of their computation.

    The axes are halved one after the other, and each halving gives one high band. The low band is that of the usual
    separable transform. An axis of size 1 is not changed.
    """
    high = []
    for _ in range(level):
        for axis in axes:
            x, detail = _halve(x, axis)
            high.append(detail)
    return x, tuple(high)


def join(low: Tensor, high: Sequence[Tensor], axes: Sequence[int]) -> Tensor:
    """The inverse of `split`, with the same axes."""
    for i in reversed(range(len(high))):
        low = _double(low, high[i], axes[i % len(axes)])
    return low


def _halve(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    x = x.movedim(axis, -1)
    n = x.shape[-1] // 2 * 2
    even, odd = x[..., 0:n:2], x[..., 1:n:2]
    low = torch.cat([(even + odd) / math.sqrt(2), x[..., n:]], -1)
    return low.movedim(-1, axis), ((even - odd) / math.sqrt(2)).movedim(-1, axis)


def _double(low: Tensor, detail: Tensor, axis: int) -> Tensor:
    low, detail = low.movedim(axis, -1), detail.movedim(axis, -1)
    pairs = detail.shape[-1]
    mean = low[..., :pairs]
    both = torch.stack([(mean + detail) / math.sqrt(2), (mean - detail) / math.sqrt(2)], -1).flatten(-2)
    return torch.cat([both, low[..., pairs:]], -1).movedim(-1, axis)
