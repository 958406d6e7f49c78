"""Changes of an image that do not matter for its prompt: a verifier's score should hardly move."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

QUALITY = 90  # of the JPEG file, of 100: no difference can be seen
EDGE = 64  # one pixel in so many is cut off at every edge; at least one
_SIDES = re.compile(
    r"\b(left|right|clockwise|counterclockwise|anticlockwise|east|west)\b|[\"“”«»]|(?<!\w)'", re.I
)


def cropped(pixels: Tensor) -> Tensor:
    """Pixels [n, 3, h, w] without 1/64 at every edge (at least a pixel), at their former size."""
    height, width = pixels.shape[-2:]
    down, right = max(1, height // EDGE), max(1, width // EDGE)
    inner = pixels[..., down : height - down, right : width - right]
    return F.interpolate(inner, (height, width), mode="bilinear", antialias=True, align_corners=False).clamp(
        0, 1
    )


def compressed(pixels: Tensor) -> Tensor:
    """Pixels [n, 3, h, w] in [0, 1] as JPEG files of quality 90 give them back."""
    found = []
    for one in (pixels.detach().float().cpu() * 255).round().byte().movedim(1, -1).numpy():
        file = io.BytesIO()
        Image.fromarray(one).save(file, "JPEG", quality=QUALITY)
        found.append(np.asarray(Image.open(file).convert("RGB")))
    again = torch.from_numpy(np.stack(found)).movedim(-1, 1).float() / 255
    return again.to(pixels.device, pixels.dtype)


def mirrored(pixels: Tensor) -> Tensor:
    """Left and right exchanged."""
    return pixels.flip(-1)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {"crop": cropped, "jpeg": compressed, "flip": mirrored}


def harmless(change: str, prompt: str) -> bool:
    """Whether a change does not matter for a prompt: a mirrored image may where it speaks of left or right, or quotes
    a text that is to be read in the image."""
    return change != "flip" or _SIDES.search(prompt) is None


def changed(change: str, pixels: Tensor) -> Tensor:
    """Images [n, 3, h, w] or videos [n, frames, 3, h, w] in [0, 1], each frame changed alike."""
    flat = pixels.flatten(0, -4)
    return CHANGES[change](flat).reshape(pixels.shape)
