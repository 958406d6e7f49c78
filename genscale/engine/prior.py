"""Initial latents of a pipeline, as a function of noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genscale.engine.holding import HOST, Holding
from genscale.engine.noise_ahead import NoiseAhead
from genscale.numerics.transfers import to_device
from genscale.protocol.particles import OWN, Candidate


@dataclass(frozen=True)
class Prior:
    """Initial latents as an affine function of standard normal noise: x = offset + scale * noise.

    Text-to-image pipelines have offset 0 and a constant scale; image-to-image ones add the encoded image, and
    image-to-video ones hold some frames fixed (scale 0 there).
    own: the pipeline's own latents. refusal: why no other initial latents can be made, None if they can. further: the
    pipeline's own latents of further images of the prompt, where the call has a generator or latents for each image.
    draw: which of the pipeline's draws before its loop the noise is; None where there is none.
    """

    offset: Tensor  # [*latent]
    scale: Tensor  # [*latent]
    own: Tensor  # [*latent], in the pipeline's dtype, on its device
    refusal: str | None = None
    further: tuple[Tensor, ...] = ()  # each [*latent]
    draw: int | None = None

    def given(self, candidate: Candidate) -> Tensor | None:
        """Initial latents that the pipeline's own call gives this candidate; None: they are drawn from its key."""
        if candidate.id == OWN:
            return self.own
        further = candidate.origin == "prior" and 0 < candidate.id <= len(self.further)
        return self.further[candidate.id - 1] if further else None

    def own_noise(self) -> Tensor:
        """The noise behind the own latents [*latent], float32, on the CPU; 0 where it has no influence."""
        return self.noise_behind(self.own)

    def noise_behind(self, latents: Tensor) -> Tensor:
        """The noise of which these initial latents [*latent] are made, float32, on the CPU."""
        offset, scale = (constant.float() for constant in self.on_host)
        return torch.where(scale == 0, 0.0, (latents.float().cpu() - offset) / scale)

    def latents(self, noise: Tensor, holding: Holding | None = None) -> Tensor:
        """[n, *latent] noise on the CPU to initial latents in the pipeline's dtype, where they wait; None: on its
        device."""
        offset, scale = self.on_host
        x = offset + scale * noise.to(scale.dtype)
        if holding is not None and holding.place == HOST:
            return holding.aside(x.to(self.own.dtype))
        return to_device(x.to(self.own.dtype), self.own.device)

    @cached_property
    def noise(self) -> NoiseAhead:
        """Noise in the shape of the latents."""
        return NoiseAhead(tuple(self.own.shape), self.own.device)

    @cached_property
    def on_host(self) -> tuple[Tensor, Tensor]:
        """Offset and scale, copied to the host once."""
        return self.offset.cpu(), self.scale.cpu()
