"""A region of an image with a text of its own: a box or a mask, and the image of it that a verifier scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.errors import UsageError, quoted
from genscale.report.read_image import read_mask

VIEWS = ("crop", "mask")


@dataclass(frozen=True, eq=False)
class Box:
    """A text and the region that should show it.

    text: what the region shows. box: (x0, y0, x1, y1), left, upper, right and lower edge as fractions of width and
    height, y downwards. mask: instead of a box, [h, w] in [0, 1] or a grey image file; 1 (white) is inside. For
    videos the region is the same in every frame.
    """

    text: str
    box: tuple[float, float, float, float] | None = None
    mask: Tensor | str | Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise UsageError(f"a box needs a text that says what it shows, not {quoted(self.text)}.")
        if (self.box is None) == (self.mask is None):
            raise UsageError(f"{quoted(self.text)} needs either a box or a mask.")
        if self.mask is not None and not isinstance(self.mask, Tensor | str | Path):
            raise UsageError(
                f"the mask of {quoted(self.text)} must be a tensor or an image file, not {self.mask!r}."
            )
        if self.box is not None:
            object.__setattr__(self, "box", _checked(self.box, self.text))
        else:
            _ = self.cover  # errors are raised here, not during a run

    @cached_property
    def cover(self) -> Tensor | None:
        """The mask [h, w], float32 in [0, 1]; None for a box."""
        mask = self.mask
        if mask is None:
            return None
        cover = mask.detach().float().cpu() if isinstance(mask, Tensor) else _read(Path(mask), self.text)
        if cover.ndim != 2 or not cover.isfinite().all() or cover.min() < 0 or cover.max() > 1:
            raise UsageError(f"the mask of {quoted(self.text)} must be [height, width] of numbers in [0, 1].")
        if cover.max() == 0:
            raise UsageError(f"the mask of {quoted(self.text)} is black: paint white where it should be.")
        return cover

    @property
    def area(self) -> float:
        """Share of the image, in (0, 1]."""
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            return (x1 - x0) * (y1 - y0)
        assert self.cover is not None
        return float(self.cover.mean())

    def bounds(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(left, upper, right, lower) in pixels of the smallest box around the region; at least one pixel each way."""
        x0, y0, x1, y1 = self.box if self.box is not None else self._bounding()
        left, right = _pixels(x0, x1, width)
        upper, lower = _pixels(y0, y1, height)
        return left, upper, right, lower

    def _bounding(self) -> tuple[float, float, float, float]:
        assert self.cover is not None
        rows, columns = (self.cover > 0).any(1).nonzero()[:, 0], (self.cover > 0).any(0).nonzero()[:, 0]
        h, w = self.cover.shape
        return (
            int(columns[0]) / w,
            int(rows[0]) / h,
            (int(columns[-1]) + 1) / w,
            (int(rows[-1]) + 1) / h,
        )

    def seen(self, pixels: Tensor, view: str, fill: float | str) -> Tensor:
        """The image [..., 3, h, w] that is scored, of images or frames [..., 3, h, w]; differentiable.

        view: "crop", the region alone, enlarged to the image's size (bilinear, antialiased); or "mask", the whole
        image with everything outside painted over. fill: what is painted outside: a grey in [0, 1], or "mean", the
        mean colour inside. A crop shows that only where a mask leaves some of its bounding box out.
        """
        h, w = pixels.shape[-2:]
        left, upper, right, lower = self.bounds(h, w)
        inside = self._inside(h, w, (left, upper, right, lower)).to(pixels)
        if view == "mask" or self.cover is not None:
            colour: Tensor | float = fill  # type: ignore[assignment]
            if fill == "mean":
                colour = (pixels * inside).sum((-2, -1), keepdim=True) / inside.sum()
            pixels = inside * pixels + (1 - inside) * colour
        if view == "mask":
            return pixels
        crop = pixels[..., upper:lower, left:right]
        if crop.shape[-2:] == (h, w):
            return crop
        flat = crop.reshape(-1, *crop.shape[-3:])
        large = F.interpolate(flat, size=(h, w), mode="bilinear", antialias=True, align_corners=False)
        return large.reshape(*crop.shape[:-2], h, w)

    def _inside(self, h: int, w: int, bounds: tuple[int, int, int, int]) -> Tensor:
        """[h, w] in [0, 1]."""
        if self.cover is not None:
            return F.interpolate(
                self.cover[None, None], size=(h, w), mode="bilinear", antialias=True, align_corners=False
            )[0, 0].clamp(0, 1)
        left, upper, right, lower = bounds
        inside = torch.zeros(h, w)
        inside[upper:lower, left:right] = 1
        return inside


def _pixels(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(round(low * size), size - 1)
    return first, min(max(round(high * size), first + 1), size)


def _checked(box: object, text: str) -> tuple[float, float, float, float]:
    try:
        x0, y0, x1, y1 = (float(v) for v in box)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise UsageError(
            f"the box of {quoted(text)} must be four numbers x0, y0, x1, y1, not {box!r}."
        ) from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise UsageError(
            f"the box of {quoted(text)} must be fractions with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, "
            f"not {(x0, y0, x1, y1)}."
        )
    return x0, y0, x1, y1


def _read(path: Path, text: str) -> Tensor:
    grey = read_mask(path, f"the mask '{path}' of {quoted(text)}")
    return torch.from_numpy(np.asarray(grey, np.float32) / 255)
