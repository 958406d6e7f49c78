"""PickScore: which image of a prompt people would pick, by a CLIP tuned on their choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.verifiers.clip import Clip
from genscale.verifiers.clip_backbone import VIT_H
from genscale.verifiers.differentiable import Differentiable, ModelSettings

CHECKPOINT = "yuvalkirstain/PickScore_v1"
PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


@dataclass(frozen=True)
class PickScore(ModelSettings, Differentiable):
    """exp(logit_scale) times the cosine of image and prompt in PickScore_v1; for videos the mean over frames.

    Kirstain et al. 2023, "Pick-a-Pic" (arXiv 2305.01569). This is the raw score of the paper, about 18 to 24,
    not the cosine and not divided by 26 as some trainers do: between two images of one prompt, the sigmoid
    of the difference is the chance that people pick the first (1 point: 73 %). Only images of one prompt
    compare.

    Blind spots: those of `clip`, since it is a tuned ViT-H/14; reads 77 tokens; has the preferences of the users of
    one web site in 2023.

    checkpoint: Hugging Face id or folder of a transformers CLIPModel.
    processor: Hugging Face id or folder of its preprocessor and tokenizer; None: those in the folder `checkpoint`, or
        for a Hugging Face id those of the CLIP it was tuned from, as its authors use it.
    device, dtype, batch_size: as for `Clip`.
    """

    checkpoint: str = CHECKPOINT
    processor: str | None = None

    name: ClassVar[str] = "pickscore"
    reads_prompts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._clip  # noqa: B018  refuses its settings now

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        self.load(pixels.device)
        cosines = self._clip.score_tensor(pixels, prompts)
        return cosines * self._clip.scale(pixels.device).to(cosines.device)

    @property
    def backbone(self) -> str:
        """Of the published checkpoint the CLIP that it was tuned from (CLIP-H, Kirstain et al. 2023)."""
        return VIT_H if self.checkpoint == CHECKPOINT else self._clip.backbone

    def load(self, device: str | torch.device = "cpu") -> None:
        """Fetch and load the checkpoint now, for images on `device`: what is missing is refused here."""
        folder = Path(self.checkpoint).expanduser()
        if (folder.is_absolute() or self.checkpoint.startswith((".", "~"))) and not folder.is_dir():
            raise UsageError(
                f"there is no folder '{self.checkpoint}' for pickscore: give a folder or a Hugging Face id."
            )
        self._clip.load(device)

    @cached_property
    def _clip(self) -> Clip:
        local = Path(self.checkpoint).expanduser().is_dir()
        words = self.processor or (None if local else PROCESSOR)
        return Clip(self.checkpoint, None, "transformers", processor=words, **self.model_settings)
