"""How little neighbouring frames of a video differ: a verifier without weights, against flicker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from genscale.verifiers.differentiable import Differentiable
from genscale.verifiers.dynamic_degree import frame_changes


@dataclass(frozen=True)
class TemporalFlickering(Differentiable):
    """1 minus the mean absolute difference of consecutive frames: 1 for a still video, 0 for black and white in turn.

    VBench's temporal flickering (Huang et al. 2023, arXiv 2311.17982), (255 - mean difference) / 255 of 8-bit frames.

    Blind spots: motion counts as flicker, so VBench measures it on prompts of still scenes only; elsewhere a still
    video wins. `warp_error` follows the motion first.
    """

    name: ClassVar[str] = "temporal_flickering"
    reads_prompts: ClassVar[bool] = False
    judges_videos: ClassVar[bool] = True

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of videos [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        return 1 - frame_changes(self.name, pixels)
