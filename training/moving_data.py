"""Training pairs of the world of moving shapes: what is asked for and a video of it."""

from __future__ import annotations

import numpy as np
import torch

from genscale.toy.moving_shapes import CATEGORIES, Prompt, render, sample_prompt, sample_scene

WEIGHTS = (0.35, 0.65)  # of CATEGORIES: the hard one more often


def draw_prompt(rng: np.random.Generator) -> Prompt:
    """A caption for training, by `WEIGHTS`."""
    return sample_prompt(rng, CATEGORIES[int(rng.choice(len(CATEGORIES), p=WEIGHTS))])


def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Prompt]]:
    """`n` videos [n, 5, 32, 32, 3], uint8, and what each shows."""
    prompts = [draw_prompt(rng) for _ in range(n)]
    return render([sample_scene(p, rng) for p in prompts]), prompts


def to_unit(clips: np.ndarray) -> torch.Tensor:
    """uint8 [n, 5, 32, 32, 3] to float [n, 3, 5, 32, 32] in [-1, 1]."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float().div(127.5).sub(1)
