"""The sharpness of an image: the variance of its Laplacian. A verifier without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.errors import UsageError
from genscale.verifiers.differentiable import Differentiable

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV and Pillow turn RGB into grey
LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
SCALES = ("variance", "log")


@dataclass(frozen=True)
class Sharpness(Differentiable):
    """Variance of the Laplacian of the luminance, on the scale of 0 to 255; for videos the mean over frames.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study" (ICPR), section 2;
    there the mask has a factor 1/6 and the variance is of absolute values. This is the common form, OpenCV's
    `Laplacian(grey, CV_64F).var()`, of the pixels that have all four neighbours. 0 for a flat image; photographs have
    about 100 (blurred) to some thousands; noise of independent levels has 20 times its variance.

    Blind to everything but detail: noise, grain and text are the sharpest of all, and a shallow depth of field counts
    as blur. It depends on the size, so only images of one size compare. Use it with a small weight, against blur.

    scale: "variance", or "log", log(1 + variance), which grows alike at all levels and so is easier to weight.
    """

    scale: str = "variance"

    name: ClassVar[str] = "sharpness"
    reads_prompts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UsageError(f"scale '{self.scale}' is unknown: choose one of {', '.join(SCALES)}.")

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n], float32 or better, of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable.

        UsageError: a side has less than 3 pixels.
        """
        if min(pixels.shape[-2:]) < 3:
            raise UsageError(
                f"sharpness needs images of at least 3 x 3 pixels, not {pixels.shape[-2]} x {pixels.shape[-1]}."
            )
        x = 255 * pixels.to(torch.promote_types(pixels.dtype, torch.float32)).flatten(0, -4)
        grey = torch.einsum("nchw,c->nhw", x, x.new_tensor(LUMA))
        edges = F.conv2d(grey[:, None], x.new_tensor(LAPLACIAN)[None, None])
        variance = edges.flatten(1).var(1, correction=0)
        scores = variance if self.scale == "variance" else variance.log1p()
        return scores.reshape(len(pixels), -1).mean(1)
