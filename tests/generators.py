"""Generators that are called as a whole, for tests: plain functions of a prompt and a generator or seed."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from genscale.media import Media


def noise(
    prompt: str, generator: torch.Generator | None = None, size: int = 8, gain: float = 1.0
) -> Image.Image:
    """An image of uniform noise; `gain` scales its brightness."""
    x = torch.rand(size, size, 3, generator=generator) * gain
    return Image.fromarray((x * 255).byte().numpy())


def seeded(prompt: str, seed: int = 5, size: int = 8) -> Image.Image:
    """The same from a seed."""
    return noise(prompt, torch.Generator().manual_seed(seed), size)


def brightness(media: Media, prompts: Any) -> Any:
    return media.pixels.double().flatten(1).mean(1)


def darkness(media: Media, prompts: Any) -> Any:
    return -brightness(media, prompts)


def fresh(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fixed(prompt: str) -> Image.Image:
    """No generator: the same image each time."""
    return noise(prompt, fresh())


NAME = "no function"
