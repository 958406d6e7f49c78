"""How much changes in a video: a verifier without weights, against still videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from genscale.verifiers.differentiable import Differentiable, check_frames


@dataclass(frozen=True)
class DynamicDegree(Differentiable):
    """Mean absolute difference of consecutive frames, 0 (still) to 1 (black and white in turn).

    A cheap replacement for the dynamic degree of VBench (Huang et al. 2023, arXiv 2311.17982), where an optical flow
    network (RAFT) decides whether the fastest 5 % of pixels move far enough. Here there is no flow, so numbers do not
    compare with VBench's; it is 1 minus `temporal_flickering`.

    Blind spots: flicker, noise and cuts count as motion, and a moving flat area does not. So use it with a small weight
    against still videos, beside `temporal_consistency`, never alone. Grows with motion in pixels a frame, so only
    videos of one frame rate and prompt compare. A video that is wholly still has gradient 0.
    """

    name: ClassVar[str] = "dynamic_degree"
    reads_prompts: ClassVar[bool] = False
    judges_videos: ClassVar[bool] = True

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of videos [n, frames, 3, h, w] in [0, 1], float32 or better; differentiable in the pixels."""
        return frame_changes(self.name, pixels)


def frame_changes(verifier: str, pixels: Tensor) -> Tensor:
    """Mean absolute difference of consecutive frames [n] of videos [n, frames, 3, h, w]. verifier: in an error."""
    check_frames(verifier, pixels)
    x = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    return (x[:, 1:] - x[:, :-1]).abs().flatten(1).mean(1)
