"""Frames in the forms that pipelines and callables give them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.pipelines.output_media import NotPixels, as_media

FORMS = ("pil", "np", "pt")


def images_of(pixels: Tensor) -> list[Image.Image]:
    """Frames [frames, 3, h, w] in [0, 1] as PIL images of 8 bits, rounded as in diffusers."""
    found = Media(pixels[None])[0]
    assert isinstance(found, list)
    return found


def in_form(pixels: Tensor, form: str) -> Any:
    """Frames [frames, 3, h, w] as a list of PIL images, an array [frames, h, w, 3] or the tensor."""
    if form == "pil":
        return images_of(pixels)
    return pixels if form == "pt" else pixels.permute(0, 2, 3, 1).float().numpy()


def stacked(videos: list[Any]) -> Any:
    """Videos of one form as a pipeline returns several: a list of lists, or one array or tensor."""
    if isinstance(videos[0], Tensor):
        return torch.stack(videos)
    return np.stack(videos) if isinstance(videos[0], np.ndarray) else videos


def pixels_of(frames: Any) -> Tensor:
    """Frames in any of these forms as pixels [frames, 3, h, w] in [0, 1]. UsageError: they are none."""
    try:
        media = as_media(([frames],), None)
    except (NotPixels, ValueError, RuntimeError) as error:
        raise UsageError(_not_frames(str(error))) from None
    if not media.is_video or not len(media.pixels[0]):
        data = media.data
        shape = (
            f"it has the shape {list(data.shape[1:])}" if isinstance(data, Tensor) else f"it is {media.kind}"
        )
        raise UsageError(_not_frames(shape))
    return media.pixels[0].detach().float().cpu()


def _not_frames(why: str) -> str:
    return (
        f"what continues the video returned no frames ({why}): return a list of PIL images, an array [frames, h, w, 3] "
        "or a tensor [frames, 3, h, w], in [0, 1]."
    )


def joined_frames(parts: list[Any], overlap: int) -> Any:
    """The frames of chunks in their own form; the first `overlap` of every chunk but the first are left out."""
    kept = [part[overlap:] if i else part for i, part in enumerate(parts)]
    if len(kept) == 1:
        return kept[0]
    if isinstance(kept[0], Tensor):
        return torch.cat(kept)
    if isinstance(kept[0], np.ndarray):
        return np.concatenate(kept)
    return [frame for part in kept for frame in part]
