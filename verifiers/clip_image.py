"""The preprocessing of a CLIP checkpoint, on float tensors and differentiable.

The usual preprocessors work on 8-bit images and round after resizing. Here the same steps use floating point, so that
scoring and gradient guidance share one path. The two agree to about half a level of 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.errors import UsageError

FITS = ("shortest", "longest", "squash")
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which preprocessor configurations use


@dataclass(frozen=True)
class Preparation:
    """Resize, crop and normalise: [n, 3, h, w] in [0, 1] to [n, 3, *size].

    size: height and width of the image tower's input: a centre crop, or padded with black.
    box: height and width that are resized to. fit: "shortest" brings the short side to the box, "longest" the
        long side, "squash" both.
    cut: whether there is a centre crop (a checkpoint may have none where images are square).
    rounds: whether half a pixel of margin is rounded (torchvision) or dropped (transformers).
    """

    size: tuple[int, int]
    box: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: str = "shortest"
    interpolation: str = "bicubic"
    cut: bool = True
    rounds: bool = True

    def __post_init__(self) -> None:
        if self.fit not in FITS or self.interpolation not in RESAMPLE.values():
            raise UsageError(
                f"images cannot be prepared with '{self.interpolation}' resizing to fit '{self.fit}': "
                f"give a checkpoint that uses one of {', '.join(RESAMPLE.values())} and {', '.join(FITS)}."
            )
        if self.fit == "shortest" and self.box[0] != self.box[1]:
            raise UsageError(
                f"images cannot be cut to {self.box[0]} x {self.box[1]}: give a checkpoint of square ones."
            )

    def __call__(self, pixels: Tensor) -> Tensor:
        """Float32, or float64 where the pixels are. Gradients pass everywhere.

        A cubic kernel overshoots at hard edges. Values are clamped to [0, 1], as 8 bits would: for drawn images that is
        ten times nearer to what the checkpoint saw in training. The gradient ignores the clamp; otherwise rounding
        would decide whether white and black areas have one.
        """
        x = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
        resized = self._resized(x.shape[-2], x.shape[-1])
        if resized != tuple(x.shape[-2:]):
            x = F.interpolate(x, size=resized, mode=self.interpolation, antialias=True, align_corners=False)
            x = x + (x.clamp(0, 1) - x).detach()
        x = self._middle(x) if self.cut else x
        mean, std = x.new_tensor(self.mean).view(3, 1, 1), x.new_tensor(self.std).view(3, 1, 1)
        return (x - mean) / std

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.fit == "squash":
            return self.box
        if self.fit == "longest":
            ratio = max(height / self.box[0], width / self.box[1])
            return round(height / ratio), round(width / ratio)
        short, edge = min(height, width), self.box[0]
        return int(edge * height / short), int(edge * width / short)

    def _middle(self, x: Tensor) -> Tensor:
        (height, width), (most, wide) = x.shape[-2:], self.size
        down, right = max(0, most - height), max(0, wide - width)
        if down or right:
            x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        top, left = self._half(x.shape[-2] - most), self._half(x.shape[-1] - wide)
        return x[..., top : top + most, left : left + wide]

    def _half(self, margin: int) -> int:
        return round(margin / 2) if self.rounds else margin // 2


def from_transformers(processor: Any) -> Preparation:
    """The preparation of a transformers image processor that resizes, cuts the middle and normalises, as that of CLIP.

    Some, such as ViT's, cut nothing. ConvNext's has no size of the cut but `crop_pct`, of images below 384 only.
    """
    size, plain = processor.size, not processor.do_normalize
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    edge, share = size.get("shortest_edge"), getattr(processor, "crop_pct", None)
    box = (edge, edge) if edge else (size.get("height"), size.get("width"))
    if not processor.do_resize or None in box:
        raise UsageError("the checkpoint's preprocessor resizes to no fixed size: give another checkpoint.")
    squash = not edge
    if edge and share:
        squash = edge >= 384
        crop, box = (None, box) if squash else ({"height": edge, "width": edge}, (int(edge / share),) * 2)
    return Preparation(
        size=(crop["height"], crop["width"]) if crop else box,
        box=box,
        mean=(0.0,) * 3 if plain else tuple(processor.image_mean),
        std=(1.0,) * 3 if plain else tuple(processor.image_std),
        fit="squash" if squash else "shortest",
        interpolation=RESAMPLE.get(int(processor.resample), str(processor.resample)),
        cut=bool(crop),
        rounds=False,
    )


def from_open_clip(settings: dict[str, Any]) -> Preparation:
    """The preparation of the `preprocess_cfg` that open_clip sets on an image tower."""
    size = settings["size"]
    box = (size, size) if isinstance(size, int) else (size[0], size[1])
    return Preparation(
        size=box,
        box=box,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        fit=settings.get("resize_mode") or "shortest",
        interpolation=settings.get("interpolation") or "bicubic",
    )
