"""The size of an image as a JPEG: a verifier without weights, to try a search with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media

SIGNS = {"compressible": -1.0, "incompressible": 1.0}


@dataclass(frozen=True)
class Compressibility:
    """Minus the kilobytes of the image as a JPEG, or plus; for videos the mean over frames.

    Black et al. 2023, "Training Diffusion Models with Reinforcement Learning" (arXiv 2305.13301), with its
    quality 95 and 1,000 bytes to the kB. At 512 x 512 flat colour has 5 kB and noise 300.

    Blind to everything but detail: compressible leads to flat colour, incompressible to noise. It grows with the
    size, so only images of one size compare. Not differentiable.

    direction: "compressible", minus the size, or "incompressible", plus. quality: of the JPEG.
    """

    direction: str = "compressible"
    quality: int = 95

    name: ClassVar[str] = "compressibility"
    reads_prompts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.direction not in SIGNS:
            raise UsageError(f"direction '{self.direction}' is unknown: choose one of {', '.join(SIGNS)}.")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"JPEG quality {self.quality} is out of range: give 1 to 100.")

    def __call__(self, media: Media, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n], float64."""
        sizes = [
            fmean(map(self._kilobytes, item)) if isinstance(item, list) else self._kilobytes(item)
            for item in media
        ]
        return SIGNS[self.direction] * torch.tensor(sizes, dtype=torch.float64)

    def _kilobytes(self, image: Any) -> float:
        assert isinstance(image, Image.Image)
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=self.quality)
        return len(buffer.getvalue()) / 1000
