"""How sure an image classifier is of the class that the prompt names: for class-conditional models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.checkpoints import check_pairs
from genscale.verifiers.class_labels import class_of
from genscale.verifiers.differentiable import Differentiable, LoadedPerDevice, ModelSettings
from genscale.verifiers.image_classifier import ImageClassifier, image_classifier

SCALES = ("log_probability", "log_odds", "logit", "probability")


@dataclass(frozen=True)
class Classifier(LoadedPerDevice[ImageClassifier], ModelSettings, Differentiable):
    """log P(class) of the class that the prompt names, by an image classifier; for videos the mean over frames.

    As the ImageNet experiments of Ma et al. 2025 (arXiv 2501.09732, section 4) use DINO's logits; DINOv2: Oquab et al.
    2023 (arXiv 2304.07193), a linear layer on its features, 1,000 classes of ImageNet. A prompt is a label ("golden
    retriever"), its index ("207"), or a text that has a label among its words. A class-conditional pipeline has no
    prompt, so give the labels as texts: `better(class_labels=[207], texts="golden retriever")`.

    Blind spots: everything but the class: it is easily sure of texture, and over-optimised by gradients, which make no
    better images. Diversity falls: typical examples of a class score best.

    checkpoint: Hugging Face id or folder of any image classifier of transformers (safetensors).
    scale: "log_probability", "log_odds" (log P - log(1 - P), which does not saturate), "logit" or "probability".
    device, dtype, batch_size: as for `Clip`.
    """

    checkpoint: str = "facebook/dinov2-base-imagenet1k-1-layer"
    scale: str = "log_probability"
    batch_size: int = field(default=32, kw_only=True)

    name: ClassVar[str] = "classifier"
    reads_prompts: ClassVar[bool] = True

    @property
    def answers_probability(self) -> bool:
        """Whether the score is P(class)."""
        return self.scale == "probability"

    @property
    def backbone(self) -> str:
        """What its model is built on."""
        return self.checkpoint

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in SCALES:
            raise UsageError(f"scale '{self.scale}' is unknown: choose one of {', '.join(SCALES)}.")

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load the model. UsageError: it cannot be had, or a prompt names none of its classes."""
        model = self._model(device)
        for prompt in prompts:
            class_of(prompt, model.labels)

    def __call__(self, media: Media, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n]."""
        with torch.no_grad():
            return self._scores(media.pixels, prompts)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels.

        UsageError: the checkpoint prepares images in a way that has no gradient here.
        """
        if self._model(pixels.device).preparation is None:
            raise UsageError(
                f"the classifier '{self.checkpoint}' prepares images in its own way, which gives no gradients: use it "
                "without gradients, or give one that resizes, cuts the middle and normalises, such as a DINOv2."
            )
        return self._scores(pixels, prompts)

    def _scores(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        check_pairs(pixels, prompts)
        model = self._model(pixels.device)
        frames = pixels.shape[1] if pixels.ndim == 5 else 1
        named = [class_of(prompt, model.labels) for prompt in prompts for _ in range(frames)]
        parts = torch.split(pixels.flatten(0, -4), self.batch_size)
        logits = torch.cat([model.logits(some) for some in parts])
        scores = self._of(logits, torch.tensor(named, device=logits.device)[:, None])
        return scores.reshape(len(pixels), -1).mean(1)

    def _of(self, logits: Tensor, named: Tensor) -> Tensor:
        own = logits.gather(1, named)[:, 0]
        if self.scale == "logit":
            return own
        if self.scale == "log_odds":
            return own - logits.scatter(1, named, -torch.inf).logsumexp(1)
        log_probability = own - logits.logsumexp(1)
        return log_probability.exp() if self.answers_probability else log_probability

    def _load_on(self, device: torch.device) -> ImageClassifier:
        return image_classifier(self.checkpoint, device, getattr(torch, self.dtype or "float32"))
