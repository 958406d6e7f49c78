"""What a pipeline made, as verifiers get it: images, videos, sound, and what else pipelines make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from genscale.media_items import (
    AUDIO,
    DEPTH,
    EMBEDDING,
    IMAGE,
    KINDS,
    LATENT,
    MESH,
    NORMALS,
    PIXELS,
    TEXT,
    VIDEO,
    Audio,
    Map,
    Mesh,
    Vector,
    plural,
)

if TYPE_CHECKING:
    from PIL import Image

    Item = Image.Image | list[Image.Image] | Audio | Map | Vector | Mesh | str

Data = Tensor | list[str] | list[Mesh]

_SHAPES = {IMAGE: "[n, 3, h, w]", VIDEO: "[n, frames, 3, h, w]", AUDIO: "[n, channels, samples]"} | {
    DEPTH: "[n, 1, h, w]",
    NORMALS: "[n, 3, h, w]",
}
_CHANNELS = {DEPTH: 1, NORMALS: 3}


class Media(Sequence["Item"]):
    """A batch of what a pipeline made, all of one kind: a sequence of items, and their tensor.

    kind: one of `genscale.media_items.KINDS`; None tells images from videos by the shape.
    data: on the device that made it,
        image: float [n, 3, h, w] in [0, 1]; items are 8-bit PIL images, rounded as in diffusers.
        video: float [n, frames, 3, h, w] in [0, 1]; items are lists of PIL images.
        audio: float [n, channels, samples], full scale is [-1, 1]; items are `Audio`.
        depth: float [n, 1, h, w], larger is farther; items are `Map`.
        normals: float [n, 3, h, w], unit vectors; items are `Map`.
        embedding, latent: float [n, ...]; items are `Vector`.
        text: a list of n texts, which are the items. mesh: a list of n `Mesh`.
    sampling_rate: samples a second, of audio.

    `numpy.asarray(media)` gives uint8 [n, (frames,) h, w, 3] of images and videos, float32 of other tensors, and an
    array of texts. ValueError: the data does not fit the kind.
    """

    def __init__(self, data: Data, kind: str | None = None, sampling_rate: int | None = None) -> None:
        if kind is None:
            kind = VIDEO if isinstance(data, Tensor) and data.ndim == 5 else IMAGE
        self._data, self.kind, self.sampling_rate = data, kind, sampling_rate
        self.finite: list[bool] | None = None  # by item, where whoever made them knows it
        _check(data, kind, sampling_rate)

    @property
    def data(self) -> Data:
        """As described for the class."""
        return self._data

    @data.setter
    def data(self, value: Data) -> None:
        self._data, self.finite = value, None
        if self.kind in (IMAGE, VIDEO):
            self.kind = VIDEO if isinstance(value, Tensor) and value.ndim == 5 else IMAGE

    @property
    def tensor(self) -> Tensor:
        """The data of a kind that is a tensor. AttributeError: it is text or meshes."""
        data = self.data
        if not isinstance(data, Tensor):
            raise AttributeError(f"{plural(self.kind)} have no tensor: use .data")
        return data

    @property
    def pixels(self) -> Tensor:
        """The tensor of images, videos, depth maps and normals. AttributeError: it is of another kind."""
        if self.kind not in PIXELS:
            raise AttributeError(f"{plural(self.kind)} have no pixels: use .data")
        return self.tensor

    @pixels.setter
    def pixels(self, value: Tensor) -> None:
        self.data = value

    @property
    def waveforms(self) -> Tensor:
        """The tensor of audio, [n, channels, samples]. AttributeError: it is of another kind."""
        if self.kind != AUDIO:
            raise AttributeError(f"{plural(self.kind)} have no waveforms: use .data")
        return self.tensor

    @property
    def is_video(self) -> bool:
        return self.kind == VIDEO

    @property
    def device(self) -> torch.device:
        """Where the tensor is; the CPU for text and meshes."""
        return self._data.device if isinstance(self._data, Tensor) else torch.device("cpu")

    def with_data(self, data: Data) -> Media:
        """Other data of the same kind and sampling rate."""
        return Media(data, self.kind, self.sampling_rate)

    def rows(self, places: Sequence[int]) -> Media:
        """The items at these places, in this order."""
        data = self._data
        if isinstance(data, Tensor):  # no index: the host would wait for its copy to the device
            return self.with_data(torch.stack([data[i] for i in places]) if places else data[:0])
        return self.with_data(_some(data, places))

    def copied(self) -> Media:
        """The same without a graph, in memory of its own."""
        data = self._data
        return self.with_data(data.detach().clone() if isinstance(data, Tensor) else data[:])

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Media: ...
    def __getitem__(self, index: int | slice) -> Item | Media:
        if isinstance(index, slice):
            return self.with_data(self.data[index])
        found = self._data[index]  # an IndexError here ends iteration, as for any sequence
        if not isinstance(found, Tensor):
            return found
        if self.kind in (IMAGE, VIDEO):
            return _pictures(found)
        values = np.array(found.detach().float().cpu().numpy())
        if self.kind == AUDIO:
            assert self.sampling_rate is not None
            return Audio(values, self.sampling_rate)
        if self.kind in PIXELS:
            return Map(values[0] if self.kind == DEPTH else np.moveaxis(values, 0, -1), self.kind)
        return Vector(values, self.kind)

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if isinstance(self._data, Tensor):
            images = self.kind in (IMAGE, VIDEO)
            array = _bytes(self._data) if images else np.array(self._data.detach().float().cpu().numpy())
        elif self.kind == TEXT:
            array = np.array(self._data)
        else:
            raise TypeError("meshes are no array: use .data")
        return array if dtype is None else array.astype(dtype)


def cat_media(parts: Sequence[Media]) -> Media:
    """All items in one batch. The parts are of one kind, and at least one."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0].data, Tensor):
        return parts[0].with_data(torch.cat([p.tensor for p in parts]))
    joined: list[Any] = [item for p in parts for item in p.data]
    return parts[0].with_data(joined)


def _check(data: Any, kind: str, sampling_rate: int | None) -> None:
    """ValueError: the data does not fit the kind."""
    if kind not in KINDS:
        raise ValueError(f"kind '{kind}' is unknown: give one of {', '.join(KINDS)}")
    if kind in (TEXT, MESH):
        wanted = str if kind == TEXT else Mesh
        if not isinstance(data, list) or not all(isinstance(item, wanted) for item in data):
            raise ValueError(f"{plural(kind)} must be a list of {wanted.__name__}, not {type(data).__name__}")
        return
    if not isinstance(data, Tensor):
        raise ValueError(f"{plural(kind)} must be a tensor, not {type(data).__name__}")
    if kind == IMAGE and data.ndim != 4:
        raise ValueError(f"pixels must be {_SHAPES[IMAGE]} or {_SHAPES[VIDEO]}, not {list(data.shape)}")
    fits = data.ndim >= 2 if kind in (EMBEDDING, LATENT) else data.ndim == _SHAPES[kind].count(",") + 1
    if not fits or (kind in _CHANNELS and data.shape[1] != _CHANNELS[kind]):
        raise ValueError(f"{plural(kind)} must be {_SHAPES.get(kind, '[n, ...]')}, not {list(data.shape)}")
    if (kind == AUDIO) != (sampling_rate is not None) or (sampling_rate is not None and sampling_rate < 1):
        raise ValueError(f"a sampling rate of {sampling_rate} does not go with {plural(kind)}")


def _some(data: list[Any], places: Sequence[int]) -> list[Any]:
    return [data[i] for i in places]


def _pictures(pixels: Tensor) -> Image.Image | list[Image.Image]:
    """The PIL image of [3, h, w], or those of [frames, 3, h, w]."""
    from PIL import Image

    if pixels.ndim == 4:
        return [Image.fromarray(frame) for frame in _bytes(pixels)]
    return Image.fromarray(_bytes(pixels))


def _bytes(pixels: Tensor) -> np.ndarray:
    channels_last = pixels.detach().float().clamp(0, 1).movedim(-3, -1).cpu().numpy()
    return np.asarray((channels_last * 255).round().astype("uint8"))
