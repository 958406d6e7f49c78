"""Base classes of learned verifiers: scores without a graph, settings of a model, loading it once a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.checkpoints import check_settings, runs_on

Model = TypeVar("Model")


class Differentiable:
    """A verifier that is defined by `score_tensor`, which is differentiable in the pixels."""

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load its model, if it has one, before anything is spent. UsageError: it is missing."""
        load = getattr(self, "load", None)
        if load is not None:
            load(device)

    def __call__(self, media: Media, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n]."""
        with torch.no_grad():
            return self.score_tensor(media.pixels, prompts)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        raise NotImplementedError


class LoadedPerDevice(Generic[Model]):
    """A verifier whose model is loaded at its first use on each device.

    A copy of it, also one for another process, has the settings and not the weights.
    """

    device: str | None

    def load(self, device: str | torch.device = "cpu") -> None:
        """Fetch and load the model now, for images on `device`: what is missing is refused here."""
        self._model(torch.device(device))

    def _model(self, pixels: torch.device) -> Model:
        device = runs_on(self.device, pixels)
        if device not in self._models:
            self._models[device] = self._load_on(device)
        return self._models[device]

    def _load_on(self, device: torch.device) -> Model:
        raise NotImplementedError

    @cached_property
    def _models(self) -> dict[torch.device, Model]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Where and how a verifier's model runs; the verifiers explain the fields."""

    device: str | None = None
    dtype: str | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_settings(self.dtype, self.batch_size)

    @property
    def model_settings(self) -> dict[str, Any]:
        """These settings, as arguments of `Clip`."""
        return {"device": self.device, "dtype": self.dtype, "batch_size": self.batch_size}


def check_frames(verifier: str, pixels: Tensor) -> None:
    """UsageError unless pixels are videos [n, frames, 3, h, w] of at least 2 frames."""
    if pixels.ndim != 5 or pixels.shape[1] < 2:
        raise UsageError(f"{verifier} compares frames: give videos of at least 2.")
