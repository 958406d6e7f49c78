"""A pipeline's output object as media: its kind, found from names and shapes, and its tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genscale.engine.finite_numbers import finite_rows
from genscale.errors import UsageError
from genscale.media import Media
from genscale.media_items import AUDIO, DEPTH, EMBEDDING, LATENT, MESH, NORMALS, TEXT, Mesh
from genscale.pipelines.modular_outputs import StateOutput
from genscale.pipelines.output_kinds import kinds_of_field, main_field, required_rate, sampling_rate_of

UNIT_ERROR = 0.05  # of the length of a normal, in half precision


class NotPixels(ValueError):
    """A pipeline's output is not made of pixels in [0, 1]: some give raw values for one output type."""


def as_media(output: Any, pipe: Any) -> Media:
    """What a pipeline's output holds (the main field of it), as media.

    The kind follows from the field's name, and where that leaves a choice from the values. Pixels are taken from
    tensors [n, c, h, w] or [n, frames, c, h, w], arrays with channels last, PIL images, and lists of these; waveforms
    [n, samples] or [n, channels, samples] are at the sampling rate that the components of `pipe` say. Numbers that are
    NaN or infinite stay: the search drops these items.

    NotPixels: images or videos are not given as pixels in [0, 1]. UsageError: the sampling rate is not known, or the
    sounds are of different lengths.
    """
    name, value = main_field(output)
    kinds = kinds_of_field(name)
    if kinds == {AUDIO} or (not kinds and _is_waveform(value) and sampling_rate_of(pipe) is not None):
        return Media(_waveforms(value), AUDIO, required_rate(pipe))
    if kinds in ({EMBEDDING}, {LATENT}):
        return Media(_plain_tensor(value), next(iter(kinds)))
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        return Media(list(value), TEXT)
    if isinstance(value, list | tuple) and value and all(_is_mesh(item) for item in value):
        return Media([_mesh(item) for item in value], MESH)
    if isinstance(value, list | tuple):
        value = torch.stack([_tensor(item) for item in value])
    pixels = _tensor(value)
    if DEPTH in kinds and pixels.shape[-3] == 1:
        return Media(pixels, DEPTH)
    if NORMALS in kinds and _of_unit_length(pixels):
        return Media(pixels, NORMALS)
    if not pixels.is_floating_point():
        return Media(_three_channels(pixels))
    outside, *finite = torch.cat([_outside(pixels)[None], finite_rows(pixels)]).tolist()  # read together
    if outside:
        raise NotPixels("a pipeline returned pixels outside [0, 1]")
    media = Media(_three_channels(pixels))
    media.finite = finite
    return media


def items_of(output: Any, pipe: Any) -> Sequence[Any]:
    """The items of a pipeline's output, as in Media: images and videos that it gives as PIL images stay as they are."""
    _, value = main_field(output)
    first = value[0] if isinstance(value, list | tuple) and value else None
    first = first[0] if isinstance(first, list | tuple) and first else first
    return value if isinstance(first, Image.Image) else list(as_media(output, pipe))


def _outside(pixels: Tensor) -> Tensor:
    """bool []: whether any finite pixel is outside [0, 1]."""
    return (((pixels < -0.01) | (pixels > 1.01)) & pixels.isfinite()).any()


def join_outputs(outputs: list[Any]) -> Any:
    """Several outputs of one pipeline as one output with all their rows, of the same class."""
    first = outputs[0]
    if isinstance(first, StateOutput):
        return StateOutput.joined(outputs)
    kind: Any = type(first)
    if dataclasses.is_dataclass(first):  # a dictionary, too, but of the fields that are not None
        names = [field.name for field in dataclasses.fields(first)]
        joined = {name: _joined([getattr(output, name) for output in outputs]) for name in names}
        return kind(**joined)
    if isinstance(first, dict):
        joined = {name: _joined([output[name] for output in outputs]) for name in first}
        return type(first)(**joined)
    return type(first)(_joined([output[i] for output in outputs]) for i in range(len(first)))


def picked(output: Any, rows: list[int]) -> Any:
    """An output of the same class with only these of its rows, in this order."""
    count = length(output)
    if rows == list(range(count)):
        return output
    kind: Any = type(output)
    if dataclasses.is_dataclass(output):  # a dictionary, too, but of the fields that are not None
        names = [field.name for field in dataclasses.fields(output)]
        return kind(**{name: _picked(getattr(output, name), rows, count) for name in names})
    if isinstance(output, dict):
        some = {name: _picked(value, rows, count) for name, value in output.items()}
        return StateOutput(some) if isinstance(output, StateOutput) else kind(**some)
    return kind(_picked(value, rows, count) for value in output)


def _picked(value: Any, rows: list[int], count: int) -> Any:
    if isinstance(value, Tensor | np.ndarray) and value.ndim and len(value) == count:
        return value[rows]
    if isinstance(value, list | tuple) and len(value) == count:
        return type(value)(value[i] for i in rows)
    return value


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    if isinstance(values[0], list | tuple):
        return type(values[0])(item for value in values for item in value)
    return values[0]  # None, or a value that is not one a row


def length(output: Any) -> int:
    """How many items a pipeline's output holds."""
    return len(main_field(output)[1])


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value).movedim(-1, -3)
    if isinstance(value, list | tuple):  # the frames of a video
        return torch.stack([_tensor(item) for item in value])
    if isinstance(value, Image.Image):
        return torch.from_numpy(np.array(value.convert("RGB"))).movedim(-1, -3).float() / 255
    raise NotPixels(f"a pipeline returned {type(value).__name__} instead of pixels")


def _three_channels(pixels: Tensor) -> Tensor:
    return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:]) if pixels.shape[-3] == 1 else pixels


def _plain_tensor(value: Any) -> Tensor:
    """A tensor, an array, or a list of them with one entry an item, whose axes stay as they are."""
    if isinstance(value, list | tuple):
        return torch.stack([_plain_tensor(item) for item in value])
    return value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))


def _is_waveform(value: Any) -> bool:
    """Whether a value has the shape of waveforms: no pixels have fewer than two axes beside channels and items."""
    return isinstance(value, Tensor | np.ndarray) and value.ndim in (2, 3)


def _waveforms(value: Any) -> Tensor:
    """[n, channels, samples]."""
    if isinstance(value, list | tuple):
        lengths = sorted({int(item.shape[-1]) for item in value})
        if len(lengths) > 1:
            raise UsageError(
                f"the pipeline made sounds of {lengths[0]} to {lengths[-1]} samples: ask for one length for all."
            )
    sound = _plain_tensor(value)
    return sound if sound.ndim == 3 else sound[:, None]


def _of_unit_length(pixels: Tensor) -> bool:
    """Whether the three channels of all finite pixels are unit vectors, as normals are and colours are not."""
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        return False
    lengths = pixels.detach().float().norm(dim=1)
    lengths = lengths[lengths.isfinite()]
    return lengths.numel() > 0 and bool((lengths - 1).abs().max() < UNIT_ERROR)


def _is_mesh(value: Any) -> bool:
    return any(hasattr(value, name) for name in ("verts", "vertices")) and hasattr(value, "faces")


def _mesh(value: Any) -> Mesh:
    """A mesh with `verts` (or `vertices`), `faces`, and colours in `vertex_channels`, as a decoder of diffusers has."""
    vertices = value.verts if hasattr(value, "verts") else value.vertices
    channels = getattr(value, "vertex_channels", None) or {}
    colours = (
        np.stack([_array(channels[c]) for c in "RGB"], axis=-1).clip(0, 1)
        if set("RGB") <= set(channels)
        else None
    )
    return Mesh(
        _array(vertices).astype(np.float32),
        _array(value.faces).astype(np.int64),
        None if colours is None else colours.astype(np.float32),
    )


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().float().cpu().numpy() if isinstance(value, Tensor) else value)
