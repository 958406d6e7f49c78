"""How much of an image has a colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import ImageColor
from torch import Tensor

from genscale import Media, UsageError


@dataclass(frozen=True)
class ColourShare:
    """The share of an image that has a colour, in [0, 1]; for videos the mean over frames.

    A pixel counts exp(-d^2 / (2 width^2)), d being its distance to the colour in RGB, each channel in [0, 1]: 1 for the
    colour itself, 0.01 three widths away. So the score has a gradient everywhere, for samplers that use one.

    colour: a CSS colour name or #rrggbb. width: how far a shade may be from it; 0.2 separates the six colours of the
    bundled toy models.

    It ignores the prompt and everything but colour: a search with it alone paints the whole image in that colour.
    """

    colour: str = "red"
    width: float = 0.2

    name: ClassVar[str] = "colour_share"

    def __post_init__(self) -> None:
        try:
            ImageColor.getrgb(self.colour)
        except ValueError:
            raise UsageError(
                f"colour '{self.colour}' is unknown: give a CSS colour name or #rrggbb."
            ) from None
        if not self.width > 0:
            raise UsageError(f"width={self.width} must be above 0.")

    def __call__(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """Scores [n]."""
        return self.score_tensor(media.pixels, prompts)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        rgb = torch.tensor(ImageColor.getrgb(self.colour)[:3], dtype=pixels.dtype, device=pixels.device) / 255
        distance = (pixels - rgb[:, None, None]).square().sum(-3)
        return torch.exp(-distance / (2 * self.width**2)).flatten(1).mean(1)
