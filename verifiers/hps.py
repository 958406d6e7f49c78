"""HPSv2.1: which image of a prompt people prefer, by open_clip's ViT-H/14 tuned on their rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from genscale.verifiers.checkpoints import weights_file
from genscale.verifiers.clip import Clip
from genscale.verifiers.clip_backbone import VIT_H
from genscale.verifiers.clip_image import Preparation
from genscale.verifiers.differentiable import Differentiable, ModelSettings

REPOSITORY, FILE = "xswu/HPSv2", "HPS_v2.1_compressed.pt"


@dataclass(frozen=True)
class Hps(ModelSettings, Differentiable):
    """Cosine of image and prompt in HPSv2.1; for videos the mean over frames.

    Wu et al. 2023, "Human Preference Score v2" (arXiv 2306.09341). The authors' benchmark prints 100 times
    this; models lie between 0.14 and 0.32 on average. Unlike a CLIP's, its images are not cut: the long side
    is resized, and the rest padded with black. Only images of one prompt compare.

    Blind spots: those of `clip`, since it is a tuned ViT-H/14; reads 77 tokens; prefers saturated, polished
    images, and is easily over-optimised.

    checkpoint: file of the weights (.pt, .safetensors), or folder or Hugging Face id that has HPS_v2.1_compressed.pt.
    model: open_clip's name of the architecture.
    device, dtype, batch_size: as for `Clip`.
    """

    checkpoint: str = REPOSITORY
    model: str = "ViT-H-14"

    name: ClassVar[str] = "hps"
    reads_prompts: ClassVar[bool] = True

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        box = self._clip.box(pixels.device)
        letterbox = Preparation(size=box, box=box, mean=(0.0,) * 3, std=(1.0,) * 3, fit="longest")
        square = letterbox(pixels.flatten(0, -4))  # of the model's size: its own preparation only normalises
        return self._clip.score_tensor(square.reshape(*pixels.shape[:-3], *square.shape[1:]), prompts)

    @property
    def backbone(self) -> str:
        """Of the published checkpoint the CLIP that it was tuned from; of another one the checkpoint."""
        return (
            VIT_H if (self.checkpoint, self.model) == (REPOSITORY, "ViT-H-14") else f"CLIP {self.checkpoint}"
        )

    def load(self, device: str | torch.device = "cpu") -> None:
        """Fetch and load the checkpoint now, for images on `device`: what is missing is refused here."""
        self._clip.load(device)

    @cached_property
    def _clip(self) -> Clip:
        file = str(weights_file("hps", self.checkpoint, (FILE,), REPOSITORY))
        return Clip(self.model, file, "open_clip", **self.model_settings)
