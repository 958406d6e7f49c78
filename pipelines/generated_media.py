"""What a generator that is called as a whole returned: one image or video, as pixels, or one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.media_items import TEXT
from genscale.plugins.limits import shown

_FIELDS, _TEXTS = ("frames", "images", "videos"), "texts"


def item_of(output: Any, name: str, of_frames: bool = False) -> Tensor | str:
    """The text of an output that is one (or a list of one, or has one as `.texts`), else its pixels.

    of_frames: several images in an output are the frames of a video. UsageError: it is neither, or there are several
    texts.
    """
    found = output.get(_TEXTS) if isinstance(output, Mapping) else getattr(output, _TEXTS, None)
    found = output if found is None else found
    if isinstance(found, list | tuple) and found and all(isinstance(text, str) for text in found):
        if len(found) > 1:
            raise UsageError(
                f"{name} gave {len(found)} texts for one call, and a call is one candidate: let it make one text a "
                "call."
            )
        found = found[0]
    return found if isinstance(found, str) else pixels_of(output, name, of_frames)


def media_of(items: Sequence[Tensor | str], name: str) -> Media:
    """Items of one kind and size together. UsageError: they are not."""
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) == len(items):
        return Media(texts, TEXT)
    pixels = [item for item in items if isinstance(item, Tensor)]
    sizes = {tuple(item.shape) for item in pixels}
    if texts or len(sizes) > 1:
        what = (
            "texts and images"
            if texts
            else f"images of several sizes ({', '.join(map(_size, sorted(sizes)))})"
        )
        raise UsageError(f"{name} gave {what}, which cannot be scored together: give decode_batch=1.")
    return Media(torch.stack(pixels))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]}x{shape[-2]}"


def pixels_of(output: Any, name: str, of_frames: bool = False) -> Tensor:
    """The only image [3, h, w] or video [frames, 3, h, w] of an output: uint8, or float in [0, 1] (NaN may be in it).

    output: a PIL image; an array (channels last) or tensor (channels first), uint8 or in [0, 1]; a list of these, which
    is a video where it holds several; or what holds one of these as `.images`, `.frames` or first member.
    name: of the generator, for messages. of_frames: several images are the frames of a video, whatever the field is
    called. UsageError: it is something else, or several images of one prompt.
    """
    found, is_video = _member(output)
    if of_frames and is_video is False:
        is_video = None
    pixels = _pixels(found, name)
    if is_video and pixels.ndim == 3:
        pixels = pixels[None]
    if pixels.ndim == 5 and len(pixels) == 1:
        pixels = pixels[0]
    if not is_video and pixels.ndim == 4 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.ndim == 5 or (pixels.ndim == 4 and is_video is False):
        raise UsageError(
            f"{name} gave {len(pixels)} images for one call, and a call is one candidate: let it make one image a call."
        )
    if pixels.ndim not in (3, 4) or pixels.shape[-3] not in (1, 3, 4) or 0 in pixels.shape:
        raise UsageError(f"{name} gave {_said(output)}, which is no image or video: return pixels in [0, 1].")
    return _checked(_three_channels(pixels), name)


def _member(output: Any) -> tuple[Any, bool | None]:
    """The images or frames of an output; whether they are a video's (None: a list of several is)."""
    fields = output if isinstance(output, Mapping) else None
    for field in _FIELDS:
        found = fields.get(field) if fields is not None else getattr(output, field, None)
        if found is not None:
            return found, field != "images"
    return (output[0] if isinstance(output, tuple) and output else output), None


def _pixels(value: Any, name: str) -> Tensor:
    """Channels before height and width; uint8 or float."""
    if isinstance(value, Image.Image):
        return torch.from_numpy(np.array(value.convert("RGB"))).movedim(-1, -3)
    if isinstance(value, np.ndarray) and value.dtype != object:
        found = torch.from_numpy(np.ascontiguousarray(value))
        return found.movedim(-1, -3) if found.ndim > 2 else found[None]
    if isinstance(value, Tensor):
        return value.detach().cpu() if value.ndim > 2 else value.detach().cpu()[None]
    if isinstance(value, list | tuple) and value:
        parts = [_pixels(item, name) for item in value]
        if len({(part.shape, part.dtype) for part in parts}) > 1:
            raise UsageError(f"{name} gave frames of several sizes: a video has one.")
        return torch.stack(parts)
    raise UsageError(
        f"{name} gave {_said(value)}, which is no image or video: return PIL images, or pixels in [0, 1]."
    )


def _checked(pixels: Tensor, name: str) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise UsageError(f"{name} gave pixels of {pixels.dtype}: return uint8, or numbers in [0, 1].")
    outside = ((pixels < -0.01) | (pixels > 1.01)) & pixels.isfinite()
    if bool(outside.any()):
        low, high = float(pixels.nan_to_num(0.5).min()), float(pixels.nan_to_num(0.5).max())
        raise UsageError(f"{name} gave pixels from {low:g} to {high:g}: return them in [0, 1], or as uint8.")
    return pixels.float()


def _three_channels(pixels: Tensor) -> Tensor:
    if pixels.shape[-3] == 1:
        return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])
    return pixels[..., :3, :, :]


def _said(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {list(shape)}" if shape is not None else f" {shown(value)}")
