"""How much happens in a video: a verifier without weights that a still video does not win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media


@dataclass(frozen=True)
class DynamicDegree:
    """Mean absolute difference of consecutive frames, 0 (still) to 1 (black and white in turn).

    A stand-in for the dynamic degree of VBench (Huang et al. 2023, arXiv 2311.17982), which asks an optical flow
    network (RAFT) whether the fastest 5 % of pixels move far enough. No flow here: numbers do not compare with
    VBench's, and it is 1 minus VBench's temporal flickering score, on floats.

    Blind spots: flicker, noise and cuts count as motion, and a moving flat area does not. So it is a weight
    against still videos, beside `temporal_consistency`, never an aim. Grows with motion in pixels a frame, so only
    videos of one frame rate and prompt compare. A video that is wholly still has gradient 0.
    """

    name: ClassVar[str] = "dynamic_degree"
    judges_clips: ClassVar[bool] = True

    def __call__(self, media: Media, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n]."""
        with torch.no_grad():
            return self.score_tensor(media.pixels, prompts)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of videos [n, frames, 3, h, w] in [0, 1], float32 or better; differentiable in the pixels."""
        if pixels.ndim != 5 or pixels.shape[1] < 2:
            raise UsageError("dynamic_degree compares frames: give videos of at least 2.")
        x = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
        return (x[:, 1:] - x[:, :-1]).abs().flatten(1).mean(1)
