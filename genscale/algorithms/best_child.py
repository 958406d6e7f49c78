"""A single chain that continues from the best of several children: the base class of svdd and code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genscale.algorithms.particle_filter import ParticleFilter
from genscale.diffusion.kernels import Kernel


@dataclass(frozen=True)
class BestChild(ParticleFilter):
    """particles: 1 chain. group: "parent". strength: inf, the best child. kernel, rest: DDIM with eta = 1."""

    particles: int | None = 1
    group: str = "parent"
    strength: float = float("inf")
    potential: str = "reward"
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "ddim(1)"

    size_option: ClassVar[str] = "children"
