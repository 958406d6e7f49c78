"""Which candidate is nearest to all others: a choice without a prompt, a reward or labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.media import Media
from genscale.safe_json import read_json
from genscale.verifiers.clip import SHAPES_CLIP, Clip
from genscale.verifiers.differentiable import LoadedPerDevice, ModelSettings
from genscale.verifiers.image_tower import ImageTower, image_tower


@dataclass(frozen=True)
class Medoid(LoadedPerDevice[ImageTower]):
    """The mean cosine similarity of a candidate's embedding to those of all other candidates, -1 to 1.

    The best is the medoid of the candidates under the distance 1 - cosine. This is self-consistency (Wang et al. 2023,
    arXiv 2203.11171) for outputs that are never equal: a vote by similarity, as minimum Bayes risk decoding chooses a
    text (Kumar and Byrne 2004, "Minimum Bayes-Risk Decoding for Statistical Machine Translation"; Eikema and Aziz 2020,
    arXiv 2005.10283, section 6). No verifier is asked, so none can be fooled; of outliers none wins.

    A score depends on the other candidates, as a rank does: stop rules and budgets that need a score of one candidate
    alone refuse it. It goes with all ensembles that take scores.

    Blind spots: a mistake that most candidates share wins. It prefers the usual to the best. The prompt is not read.

    model: None: the small CLIP that comes with genscale, for images of the shapes world. Else an open_clip name with
        `pretrained`, the folder or Hugging Face id of a CLIP with `backend`, or that of a transformers image model,
        such as facebook/dinov2-base. Of a video the mean over its frames is taken.
    pretrained, backend: as for `Clip`, for a CLIP.
    device: where it runs; None: where the images are. dtype: "float32" where None.
    batch_size: images or frames that are embedded at once.
    """

    model: str | None = None
    pretrained: str | None = "openai"
    backend: str | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int = 32

    name: ClassVar[str] = "medoid"
    reads_prompts: ClassVar[bool] = False
    judges_videos: ClassVar[bool] = True
    gives_embeddings: ClassVar[bool] = True

    def __post_init__(self) -> None:
        ModelSettings(**self._settings)  # refuses them now
        if self._is_clip:
            self._clip  # noqa: B018

    def __call__(self, media: Media, prompts: Sequence[str] = ()) -> Tensor:
        """Unit embeddings [n, width]; a search makes scores of them."""
        with torch.no_grad():
            embeddings = self.embed(media.pixels)
        return embeddings.mean(1) if embeddings.ndim > 2 else embeddings

    def embed(self, pixels: Tensor) -> Tensor:
        """Unit embeddings [n, (frames,) width] of [n, (frames,) 3, h, w] in [0, 1]."""
        if self._is_clip:
            return self._clip.embed(pixels)
        return self._model(pixels.device).embed(pixels, self.batch_size)

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load the model, before anything is spent. UsageError: it is missing."""
        self.load(device)

    @property
    def backbone(self) -> str:
        """What its embeddings are of."""
        return self._clip.backbone if self._is_clip else str(self.model)

    def load(self, device: str | torch.device = "cpu") -> None:
        """Fetch and load the model now, for images on `device`: what is missing is refused here."""
        if self._is_clip:
            self._clip.load(device)
        else:
            super().load(device)

    @cached_property
    def _is_clip(self) -> bool:
        if self.model is None or self.backend is not None:
            return True
        file = Path(self.model).expanduser() / "config.json"
        if file.is_file():
            config = read_json(file, f"the configuration of '{self.model}'")
            return isinstance(config, dict) and config.get("model_type") == "clip"
        return "/" not in self.model or self.model.startswith(("hf-hub:", "ViT-"))

    @cached_property
    def _clip(self) -> Clip:
        if self.model is None:
            return Clip(str(SHAPES_CLIP), None, self.backend or "transformers", **self._settings)
        return Clip(self.model, self.pretrained, self.backend, **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype, "batch_size": self.batch_size}

    def _load_on(self, device: torch.device) -> ImageTower:
        assert self.model is not None
        return image_tower(self.model, device, getattr(torch, self.dtype or "float32"))
