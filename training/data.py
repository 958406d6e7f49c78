"""Training pairs of the shapes world: what is asked for and an image of it."""

from __future__ import annotations

import numpy as np
import torch

from genscale.toy.shapes import CATEGORIES, Requirement, held_out, render, sample_requirement, sample_scene

WEIGHTS = (0.10, 0.26, 0.16, 0.20, 0.28)  # of CATEGORIES: the hard ones more often


def draw_requirement(rng: np.random.Generator) -> Requirement:
    """A caption's requirement for training: by `WEIGHTS`, never a held-out one."""
    category = CATEGORIES[int(rng.choice(len(CATEGORIES), p=WEIGHTS))]
    while held_out(requirement := sample_requirement(rng, category)):
        pass
    return requirement


def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Requirement]]:
    """`n` images [n, 64, 64, 3], uint8, and what each shows."""
    requirements = [draw_requirement(rng) for _ in range(n)]
    return render([sample_scene(r, rng) for r in requirements]), requirements


def to_unit(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [n, 64, 64, 3] to float [n, 3, 64, 64] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)
