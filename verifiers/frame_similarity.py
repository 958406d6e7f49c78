"""Subject and background consistency of VBench: how near each frame is to the one before it and to the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from genscale.verifiers.clip import Clip
from genscale.verifiers.differentiable import Differentiable, LoadedPerDevice, ModelSettings, check_frames
from genscale.verifiers.image_tower import ImageTower, image_tower


def frame_similarity(embeddings: Tensor) -> Tensor:
    """Mean over the frames after the first of (cosine to the one before + cosine to the first) / 2.

    embeddings: unit vectors [n, frames, width]; gives [n] in [-1, 1]. VBench (Huang et al. 2023, arXiv 2311.17982,
    appendix) counts a cosine below 0 as 0. It is kept here, since 0 makes ties and stops gradients; between frames of
    one video the two are the same but for cuts.
    """
    later, before, first = embeddings[:, 1:], embeddings[:, :-1], embeddings[:, :1]
    return ((later * before).sum(-1) + (later * first).sum(-1)).mean(1) / 2


@dataclass(frozen=True)
class SubjectConsistency(LoadedPerDevice[ImageTower], Differentiable):
    """Whether the subject of a video stays the same: cosines of DINO embeddings of frames, -1 to 1.

    VBench's subject consistency (Huang et al. 2023, arXiv 2311.17982): each frame with the one before it and with the
    first, by the class token of DINO ViT-B/16 (Caron et al. 2021, arXiv 2104.14294). VBench resizes frames without
    antialiasing, here they are; a cosine below 0 counts as it is.

    Blind spots: a still video has the largest score, 1: never search by it alone, but with `dynamic_degree` and a
    verifier of the prompt. The prompt is not read.

    model: a Hugging Face id or folder of a transformers image model: a vision transformer, whose class token is taken,
        or a convolutional network. device: where it runs; None: where the frames are. dtype: "float32" where None.
    batch_size: frames that are embedded at once.
    """

    model: str = "facebook/dino-vitb16"
    device: str | None = None
    dtype: str | None = None
    batch_size: int = 32

    name: ClassVar[str] = "subject_consistency"
    reads_prompts: ClassVar[bool] = False
    judges_videos: ClassVar[bool] = True

    def __post_init__(self) -> None:
        ModelSettings(device=self.device, dtype=self.dtype, batch_size=self.batch_size)  # refuses them now

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of videos [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        check_frames(self.name, pixels)
        return frame_similarity(self._model(pixels.device).embed(pixels, self.batch_size))

    @property
    def backbone(self) -> str:
        """Its checkpoint."""
        return self.model

    def _load_on(self, device: torch.device) -> ImageTower:
        return image_tower(self.model, device, getattr(torch, self.dtype or "float32"))


@dataclass(frozen=True)
class BackgroundConsistency(ModelSettings, Differentiable):
    """Whether the scene of a video stays the same: cosines of CLIP embeddings of frames, -1 to 1.

    VBench's background consistency (Huang et al. 2023, arXiv 2311.17982): as `subject_consistency`, by CLIP ViT-B/32.

    Blind spots: as those of `subject_consistency`. `temporal_consistency` compares neighbours alone.

    model, pretrained, backend, device, dtype, batch_size: as for `Clip`; weights are shared with it.
    """

    model: str = "ViT-B-32"
    pretrained: str | None = "openai"
    backend: str | None = None

    name: ClassVar[str] = "background_consistency"
    reads_prompts: ClassVar[bool] = False
    judges_videos: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._clip  # noqa: B018  refuses its settings now

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of videos [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        check_frames(self.name, pixels)
        return frame_similarity(self._clip.embed(pixels))

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
