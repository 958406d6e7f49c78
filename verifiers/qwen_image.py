"""The image preprocessing of Qwen-VL: sides in whole tokens, cut into patches; on float tensors, differentiable.

Wang et al. 2024, "Qwen2-VL" (arXiv 2409.12191), section 2.1. Scoring and gradient guidance share one path, as in
`clip_image`. It agrees with transformers' own processors exactly on float images, and on 8-bit images to about a level
of 255 (they round and clamp after resizing in each direction).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from genscale.errors import UsageError
from genscale.verifiers.clip_image import RESAMPLE, Preparation

MAX_RATIO = 200  # largest aspect ratio; the model was not trained beyond


@dataclass(frozen=True)
class Patches:
    """[n, 3, h, w] in [0, 1] to rows of patches, of the size nearest to the images' own.

    patch: side of a patch. merge: patches along a side of a token. frames: times that an image is repeated, for
    a model made for videos. least, most: pixels that an image may have.
    """

    patch: int
    merge: int
    frames: int
    least: int
    most: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image of this size in pixels."""
        if max(height, width) > MAX_RATIO * min(height, width):
            raise UsageError(f"images of {width} x {height} are too narrow: give at most {MAX_RATIO} : 1.")
        unit = self.patch * self.merge
        rows, columns = (max(1, round(side / unit)) for side in (height, width))
        area = height * width
        if rows * columns * unit**2 > self.most:
            shrink = math.sqrt(self.most / area)
            rows, columns = (max(1, math.floor(side * shrink / unit)) for side in (height, width))
        elif rows * columns * unit**2 < self.least:
            grow = math.sqrt(self.least / area)
            rows, columns = (math.ceil(side * grow / unit) for side in (height, width))
        return rows * self.merge, columns * self.merge

    def tokens(self, height: int, width: int) -> int:
        """Number of image tokens that the language model gets for an image of this size."""
        down, across = self.grid(height, width)
        return down * across // self.merge**2

    def __call__(self, pixels: Tensor) -> Tensor:
        """Patches [n * down * across, 3 * frames * patch * patch], the tokens' patches side by side."""
        down, across = self.grid(*pixels.shape[-2:])
        size = (down * self.patch, across * self.patch)
        prepare = Preparation(
            size, size, self.mean, self.std, fit="squash", interpolation=self.interpolation, cut=False
        )
        n, high, wide = len(pixels), down // self.merge, across // self.merge
        x = prepare(pixels).reshape(n, 3, high, self.merge, self.patch, wide, self.merge, self.patch)
        x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # n, rows and columns of tokens, of their patches, colour, y, x
        x = x.unsqueeze(6).expand(*x.shape[:6], self.frames, *x.shape[6:])
        return x.flatten(5).flatten(0, 4)


def from_processor(processor: Any, max_pixels: int | None = None) -> Patches:
    """The preprocessing of a transformers Qwen2VLImageProcessor; `max_pixels` lowers its own limit."""
    size = processor.size
    least, most = (getattr(size, key, None) or size[key] for key in ("shortest_edge", "longest_edge"))
    return Patches(
        patch=processor.patch_size,
        merge=processor.merge_size,
        frames=processor.temporal_patch_size,
        least=min(least, max_pixels or least),
        most=min(most, max_pixels or most),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        interpolation=RESAMPLE.get(int(processor.resample), str(processor.resample)),
    )
