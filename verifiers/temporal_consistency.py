"""How much a video stays itself from frame to frame, in CLIP's eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.clip import Clip


@dataclass(frozen=True)
class TemporalConsistency:
    """Mean cosine of the CLIP embeddings of consecutive frames, -1 to 1; the prompt is not read.

    The frame consistency of Esser et al. 2023 (arXiv 2302.03011); VBench (Huang et al. 2023, arXiv 2311.17982) has
    the like as background consistency, which also compares each frame with the first and drops cosines
    below 0. Those are kept here: dropping them makes ties and stops gradients.

    Blind spots: a still video has 1, the most there is: never search by it alone, but with
    `dynamic_degree` and a verifier of the prompt.

    model, pretrained, backend, device, dtype, batch_size: as for `Clip`; weights are shared with it.
    """

    model: str = "ViT-B-32"
    pretrained: str | None = "openai"
    backend: str | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int = 32

    name: ClassVar[str] = "temporal_consistency"
    judges_clips: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._clip  # noqa: B018  refuses its settings now

    def __call__(self, media: Media, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n]."""
        with torch.no_grad():
            return self.score_tensor(media.pixels, prompts)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of videos [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        if pixels.ndim != 5 or pixels.shape[1] < 2:
            raise UsageError("temporal_consistency compares frames: give videos of at least 2.")
        seen = self._clip.embed(pixels)
        return (seen[:, 1:] * seen[:, :-1]).sum(-1).mean(1)

    def load(self, device: str | torch.device = "cpu") -> None:
        """Fetch and load the checkpoint now, for videos on `device`: what is missing is refused here."""
        self._clip.load(device)

    @cached_property
    def _clip(self) -> Clip:
        return Clip(self.model, self.pretrained, self.backend, self.device, self.dtype, self.batch_size)
