"""Decoded images and videos, as verifiers get them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

    Item = Image.Image | list[Image.Image]


class Media(Sequence["Item"]):
    """A batch of images or videos: a sequence of PIL images (of videos: lists of frames), and a tensor.

    pixels: float tensor in [0, 1], [n, 3, h, w] for images or [n, frames, 3, h, w] for videos, on the device that
        decoded it.
    Indexing and iterating give 8-bit PIL images, rounded as in diffusers. `numpy.asarray(media)` gives uint8
    [n, (frames,) h, w, 3].
    """

    def __init__(self, pixels: Tensor) -> None:
        if pixels.ndim not in (4, 5):
            raise ValueError(f"pixels must be [n, 3, h, w] or [n, frames, 3, h, w], not {list(pixels.shape)}")
        self._pixels = pixels

    @property
    def pixels(self) -> Tensor:
        return self._pixels

    @pixels.setter
    def pixels(self, value: Tensor) -> None:
        self._pixels = value

    @property
    def kind(self) -> str:
        """ "image", "video" or "text"."""
        return "video" if self.is_video else "image"

    @property
    def is_video(self) -> bool:
        return self._pixels.ndim == 5

    def rows(self, places: Sequence[int]) -> Media:
        """The items at these places, in this order."""
        return Media(self.pixels[list(places)])

    def __len__(self) -> int:
        return self._pixels.shape[0]

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Media: ...
    def __getitem__(self, index: int | slice) -> Item | Media:
        if isinstance(index, slice):
            return Media(self.pixels[index])
        from PIL import Image

        pixels = self._pixels[index]  # an IndexError here ends iteration, as for any sequence
        if self.is_video:
            return [Image.fromarray(frame) for frame in _bytes(pixels)]
        return Image.fromarray(_bytes(pixels))

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = _bytes(self._pixels)
        return array if dtype is None else array.astype(dtype)


class Texts(Media):
    """A batch of texts, which are its items; `data` has them as a list. AttributeError where pixels are asked for."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__(torch.zeros(len(texts), 0, 0, 0))
        self.data = list(texts)

    @property
    def pixels(self) -> Tensor:
        raise AttributeError("texts have no pixels: use .data, or iterate")

    @pixels.setter
    def pixels(self, value: Tensor) -> None:
        raise AttributeError("texts have no pixels")

    @property
    def kind(self) -> str:
        return "text"

    def rows(self, places: Sequence[int]) -> Texts:
        return Texts([self.data[i] for i in places])

    def __getitem__(self, index: int | slice) -> Any:
        return Texts(self.data[index]) if isinstance(index, slice) else self.data[index]


def cat_media(parts: Sequence[Media]) -> Media:
    return parts[0] if len(parts) == 1 else Media(torch.cat([p.pixels for p in parts]))


def _bytes(pixels: Tensor) -> np.ndarray:
    channels_last = pixels.detach().float().clamp(0, 1).movedim(-3, -1).cpu().numpy()
    return np.asarray((channels_last * 255).round().astype("uint8"))
