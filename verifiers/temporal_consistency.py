"""How similar consecutive frames of a video are, by their CLIP embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from genscale.verifiers.clip import Clip
from genscale.verifiers.differentiable import Differentiable, ModelSettings, check_frames


@dataclass(frozen=True)
class TemporalConsistency(ModelSettings, Differentiable):
    """Mean cosine of the CLIP embeddings of consecutive frames, -1 to 1; the prompt is not read.

    The frame consistency of Esser et al. 2023 (arXiv 2302.03011); VBench (Huang et al. 2023, arXiv 2311.17982) calls
    a similar score background consistency; it also compares each frame with the first and drops cosines below 0.
    These are kept here: dropping them makes ties and stops gradients.

    Blind spots: a still video has the largest score, 1: never search by it alone, but with
    `dynamic_degree` and a verifier of the prompt.

    model, pretrained, backend, device, dtype, batch_size: as for `Clip`; weights are shared with it.
    """

    model: str = "ViT-B-32"
    pretrained: str | None = "openai"
    backend: str | None = None

    name: ClassVar[str] = "temporal_consistency"
    reads_prompts: ClassVar[bool] = False
    judges_videos: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._clip  # noqa: B018  refuses its settings now

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of videos [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        check_frames(self.name, pixels)
        seen = self._clip.embed(pixels)
        return (seen[:, 1:] * seen[:, :-1]).sum(-1).mean(1)

    @property
    def backbone(self) -> str:
        """That of its CLIP."""
        return self._clip.backbone

    def load(self, device: str | torch.device = "cpu") -> None:
        """Fetch and load the checkpoint now, for videos on `device`: what is missing is refused here."""
        self._clip.load(device)

    @cached_property
    def _clip(self) -> Clip:
        return Clip(self.model, self.pretrained, self.backend, **self.model_settings)
