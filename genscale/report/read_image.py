"""Reads image files of any mode: to 8-bit RGB as a viewer shows them, and masks to 8-bit grey."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genscale.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

WHITE, BLACK = 255, 0
ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF", "FLI")
"""Formats whose frames follow each other in time; those of other formats are pages, previews or stereo pairs."""


def read_image(path: Path | str, called: str) -> Image.Image:
    """The image in a file, of an animation its first frame, in mode RGB.

    It is turned upright as its EXIF orientation says. Transparent parts are laid over white. 16-bit and 32-bit whole
    numbers are divided down to 8 bits; floats must be in [0, 1] or [0, 255].
    called: what the file is for, at the beginning of the message, as in "--image 'cat.png'".
    UsageError: it is no image, or cannot be read.
    """
    return next(_frames(path, called, WHITE)).convert("RGB")


def read_mask(path: Path | str, called: str) -> Image.Image:
    """The same in mode L, with transparent parts laid over black: they do not belong to what the mask selects."""
    return next(_frames(path, called, BLACK)).convert("L")


def read_frames(path: Path | str, called: str) -> list[Image.Image]:
    """All frames of an animation, each as by `read_image`; of any other image one."""
    return [frame.convert("RGB") for frame in _frames(path, called, WHITE)]


def _frames(path: Path | str, called: str, ground: int) -> Iterator[Image.Image]:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1) if image.format in ANIMATIONS else 1
            for number in range(count):
                if number:
                    image.seek(number)
                yield _opaque(ImageOps.exif_transpose(image), ground)
    except UsageError as error:
        raise UsageError(f"{called} cannot be read: {error}.") from None
    except Exception as error:  # damaged files make Pillow's readers raise exceptions of any kind
        reason = getattr(error, "strerror", None) or "it is not an image, or a damaged one"
        raise UsageError(f"{called} cannot be read: {reason}.") from error


def _opaque(image: Image.Image, ground: int) -> Image.Image:
    """In mode L or RGB, with what is transparent laid over a grey of 0 to 255."""
    from PIL import Image

    alpha = None
    if image.mode.startswith(("I", "F")):
        alpha = _key_alpha(image)
        image = Image.fromarray(_eight_bits(np.asarray(image), image.mode))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode == "LAB":
        image = _lab_to_rgb(image)
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    if alpha is None:
        return image
    return Image.composite(image, Image.new(image.mode, image.size, (ground,) * len(image.getbands())), alpha)


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey of more than 8 bits, [h, w], as uint8."""
    low, high = float(values.min()), float(values.max())
    if mode == "F":
        if not (low >= 0 and high <= 255):  # written so that NaN is refused, too
            raise UsageError(
                f"its values reach from {low:g} to {high:g}, where floats must be in [0, 1] or [0, 255]"
            )
        return np.asarray((values * (255 if high <= 1 else 1)).round().astype(np.uint8))
    if low < 0:
        raise UsageError(f"its values reach from {low:g} to {high:g}, where none may be below 0")
    # Mode I holds 32 bits; in it are also 16-bit greys, by the format or the version of Pillow.
    most = 2**16 - 1 if high < 2**16 else 2**31 - 1
    return np.asarray((values.astype(np.float64) * (255 / most)).round().astype(np.uint8))


def _key_alpha(image: Image.Image) -> Image.Image | None:
    """The transparency of a 16-bit grey PNG, where one value stands for transparent; None where it has none."""
    from PIL import Image

    key = image.info.get("transparency")
    if not isinstance(key, int):
        return None
    return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    found = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert found is not None  # None only where it was asked to convert in place
    return found
