"""CLIPScore: how well an image fits its prompt, as the cosine of two embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

import genscale
from genscale.errors import UsageError
from genscale.media import Media
from genscale.toy.shapes import GROUND
from genscale.verifiers.checkpoints import check_pairs, check_settings
from genscale.verifiers.clip_backbone import clip_backbone
from genscale.verifiers.clip_checkpoints import BACKENDS, towers
from genscale.verifiers.clip_towers import Towers
from genscale.verifiers.differentiable import Differentiable, LoadedPerDevice, ModelSettings

BUNDLED = "shapes-clip"
SHAPES_CLIP = Path(genscale.__file__).parent / "models" / "shapes-clip"


@dataclass(frozen=True)
class Clip(LoadedPerDevice[Towers], Differentiable):
    """Cosine of the CLIP embeddings of image and prompt; for videos the mean over frames.

    Hessel et al. 2021, "CLIPScore" (arXiv 2104.08718); CLIP: Radford et al. 2021 (arXiv 2103.00020). The
    paper prints 2.5 max(cos, 0), and others 100 cos. These only change the scale, as a weight
    does, and max(., 0) makes ties and stops gradients; so this is the cosine itself. Typical: 0.15 to 0.35
    for ViT-L/14, 0.2 to 0.45 for ViT-H/14. Only images of one prompt, by one checkpoint, compare.

    Blind spots: counts, left and right, which adjective goes with which noun; nearly blind to anatomy and to
    image quality; prefers rendered text; reads 77 tokens of the prompt (longer ones warn, once).

    model, pretrained: an open_clip name with a tag or with a file (.pt, .safetensors). Or, where `pretrained`
        does not count: a transformers Hugging Face id (owner/name), hf-hub:NAME for open_clip, or a folder of either.
        A file of OpenAI's weights needs a name that ends in -quickgelu; the tag `openai` does not.
    backend: "open_clip" or "transformers"; None chooses by `model`.
    device: where it runs; None: where the images are. dtype: "float32" where None.
    batch_size: images or frames that are embedded at once.
    processor: for transformers: Hugging Face id or folder of the preprocessor and tokenizer; None: those of `model`.
    """

    model: str = "ViT-L-14"
    pretrained: str | None = "openai"
    backend: str | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int = 32
    processor: str | None = None

    name: ClassVar[str] = "clip"
    reads_prompts: ClassVar[bool] = True

    @property
    def backbone(self) -> str:
        """The checkpoint, under one name for open_clip and transformers where both have it."""
        return BUNDLED if self.model == str(SHAPES_CLIP) else clip_backbone(self.model, self.pretrained)

    def __post_init__(self) -> None:
        if self.backend not in (None, *BACKENDS):
            raise UsageError(f"backend '{self.backend}' is unknown: choose one of {', '.join(BACKENDS)}.")
        check_settings(self.dtype, self.batch_size)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        check_pairs(pixels, prompts)
        seen, named = self.embed(pixels), self._model(pixels.device).texts(prompts)
        cosines = torch.einsum("n...d,nd->n...", seen, named)
        return cosines.flatten(1).mean(1) if cosines.ndim > 1 else cosines

    def embed(self, pixels: Tensor) -> Tensor:
        """Unit image embeddings [n, (frames,) width]; differentiable in the pixels."""
        flat = pixels.flatten(0, -4)
        tower = self._model(pixels.device)
        embeddings = torch.cat([tower.images(some) for some in torch.split(flat, self.batch_size)])
        return embeddings.reshape(*pixels.shape[:-3], -1)

    def embed_texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Unit text embeddings [n, width] on `device`, without gradients."""
        return self._model(device).texts(texts).to(device)

    def preview_features(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """What a learned preview reads [n, 1 + 3 width]: the cosine, both embeddings, and their product."""
        with torch.no_grad():
            seen = self.embed(media.pixels)
            seen = seen.mean(1) if seen.ndim > 2 else seen
            named = self._model(media.pixels.device).texts(prompts).to(seen.device)
            product = seen * named
            return torch.cat([product.sum(1, keepdim=True), seen, named, product], dim=1)

    def scale(self, device: torch.device) -> Tensor:
        """The factor, exp(logit_scale), by which the checkpoint multiplies its cosines."""
        scale: Tensor = self._model(device).module.get_parameter("logit_scale").float().exp()
        return scale.to(device)

    def box(self, device: torch.device) -> tuple[int, int]:
        """Height and width of the images that the checkpoint takes."""
        return self._model(device).prepare.size

    def _load_on(self, device: torch.device) -> Towers:
        dtype = getattr(torch, self.dtype or "float32")
        return towers(self.model, self.pretrained, self.backend, device, dtype, self.processor)


@dataclass(frozen=True)
class ShapesClip(ModelSettings, Differentiable):
    """CLIPScore of the small CLIP that comes with genscale, trained on images of the shapes world.

    Cosine of image and caption (Hessel et al. 2021, arXiv 2104.08718): near 0.9 where they fit, down to
    -0.7 where not. It knows the words of `genscale.toy.shapes` only, reads 10 tokens, and like any learned judge
    errs: hold `shapes`, the exact one, against it.

    device, dtype, batch_size: as for `Clip`.
    """

    name: ClassVar[str] = "shapes_clip"
    backbone: ClassVar[str] = BUNDLED
    reads_prompts: ClassVar[bool] = True
    regions: ClassVar[dict[str, Any]] = {
        "view": "mask",
        "fill": GROUND[0] / 255,
    }  # it was not trained on close-ups

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        return self._clip.score_tensor(pixels, prompts)

    def embed(self, pixels: Tensor) -> Tensor:
        """As that of `Clip`."""
        return self._clip.embed(pixels)

    def preview_features(self, media: Media, prompts: Sequence[str]) -> Tensor:
        """As those of `Clip`."""
        return self._clip.preview_features(media, prompts)

    def load(self, device: str | torch.device = "cpu") -> None:
        """Load the model now, for images on `device`."""
        self._clip.load(device)

    @cached_property
    def _clip(self) -> Clip:
        if not SHAPES_CLIP.is_dir():
            raise UsageError(f"shapes_clip needs '{SHAPES_CLIP}', which is missing: install genscale again.")
        return Clip(str(SHAPES_CLIP), None, "transformers", **self.model_settings)
