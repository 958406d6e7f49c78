"""A pipeline's output object as tensors of pixels."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genscale.media import Media
from genscale.pipelines.modular_outputs import StateOutput


class NotPixels(ValueError):
    """A pipeline's output is not made of pixels in [0, 1]: some give raw values for one output type."""


def as_media(output: Any) -> Media:
    """The images or videos of a pipeline's output (its first field), as tensors in [0, 1].

    Takes tensors [n, c, h, w] or [n, frames, c, h, w], arrays with channels last, PIL images, and lists of these.
    Pixels that are NaN or infinite stay: the search drops these images. NotPixels: it has something else.
    """
    first = next(iter(output.values())) if isinstance(output, dict) else output[0]
    if isinstance(first, list | tuple):
        first = torch.stack([_tensor(item) for item in first])
    pixels = _tensor(first)
    if pixels.is_floating_point() and _outside(pixels).item():
        raise NotPixels("a pipeline returned pixels outside [0, 1]")
    return Media(_three_channels(pixels))


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


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    if isinstance(values[0], list | tuple):
        return type(values[0])(item for value in values for item in value)
    return values[0]  # None, or a value that is not one a row


def length(output: Any) -> int:
    """How many images, videos or latents a pipeline's output holds."""
    first = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return len(first)


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
