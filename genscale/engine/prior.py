"""Initial latents of a pipeline, as a function of noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prior:
    """Initial latents as an affine function of standard normal noise: x = offset + scale * noise.

    Text-to-image pipelines have offset 0 and a constant scale; image-to-image ones add the encoded image, and
    image-to-video ones hold some frames fixed (scale 0 there).
    own: the pipeline's own latents. refusal: why no other initial latents can be made, None if they can.
    draw: which of the pipeline's draws before its loop the noise is; None where there is none.
    """

    offset: Tensor  # [*latent]
    scale: Tensor  # [*latent]
    own: Tensor  # [*latent], in the pipeline's dtype, on its device
    refusal: str | None = None
    draw: int | None = None

    def own_noise(self) -> Tensor:
        """The noise behind the own latents [*latent], float32, on the CPU; 0 where it has no influence."""
        scale, offset = self.scale.float().cpu(), self.offset.float().cpu()
        return torch.where(scale == 0, 0.0, (self.own.float().cpu() - offset) / scale)

    def latents(self, noise: Tensor) -> Tensor:
        """[n, *latent] noise on the CPU to initial latents in the pipeline's dtype, on its device."""
        x = self.offset.cpu() + self.scale.cpu() * noise.to(self.scale.dtype)
        return x.to(self.own.device, self.own.dtype)
