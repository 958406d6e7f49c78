"""How a pipeline makes its initial latents of noise, found by two short calls.

Initial latents are an affine function of one standard normal draw: a multiple of it for text-to-image, plus an encoded
image for image-to-image, with fixed parts for image-to-video. Two calls that stop before the first step, with that
draw replaced by zeros and by ones, give the function's offset and scale, whatever the pipeline.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genscale.engine.prior import Prior

Begin = Callable[[list[Tensor]], Tensor]
"""Initial latents [R, *latent] that the pipeline makes when its draws are replaced by these."""

FIXED = (
    "the initial latents of this call do not depend on noise, so there is only one candidate: "
    "use candidates=1, or leave out what fixes them."
)


def find_prior(latents: Tensor, draws: list[Tensor], begin: Begin) -> list[Prior]:
    """The prior of each row. latents: the pipeline's own [R, *latent], made of `draws`."""
    scale = _plain_scale(latents, draws)
    if scale is not None:
        full = torch.full_like(latents, scale)
        return [Prior(torch.zeros_like(x), s, x, draw=0) for x, s in zip(latents, full, strict=True)]
    best: tuple[float, int, Tensor, Tensor] | None = None
    for j in range(len(draws)):
        zeros = begin([*draws[:j], torch.zeros_like(draws[j]), *draws[j + 1 :]])
        ones = begin([*draws[:j], torch.ones_like(draws[j]), *draws[j + 1 :]])
        influence = float((ones - zeros).float().abs().mean())
        if influence > 0 and (best is None or influence > best[0]):
            best = (influence, j, zeros, ones - zeros)
    if best is None:
        zero = torch.zeros_like(latents)
        return [Prior(z, z, x, FIXED) for z, x in zip(zero, latents, strict=True)]
    _, draw, zeros, scales = best
    return [Prior(a, b, x, draw=draw) for a, b, x in zip(zeros, scales, latents, strict=True)]


def _plain_scale(latents: Tensor, draws: list[Tensor]) -> float | None:
    """The constant c if the latents are c times the only draw, possibly in another order (packed)."""
    if len(draws) != 1 or draws[0].numel() != latents.numel():
        return None
    x, noise = latents.float().flatten(), draws[0].to(latents.device).float().flatten()
    scale = float(x.norm() / noise.norm())
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-5}.get(latents.dtype, 2e-2) * scale
    if latents.shape == draws[0].shape:
        same = torch.allclose(x, scale * noise, rtol=1e-2, atol=tolerance)
    else:
        same = torch.allclose(x.sort().values, scale * noise.sort().values, rtol=1e-2, atol=tolerance)
    return _exact(scale) if same else None


def _exact(scale: float) -> float:
    """Undo the rounding of the norms: most pipelines scale by exactly 1."""
    return 1.0 if abs(scale - 1) < 1e-4 else scale
