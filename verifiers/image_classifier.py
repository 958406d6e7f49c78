"""Any image classifier of transformers: the logits of its classes, differentiable where its preprocessing can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.verifiers.checkpoints import is_path, refusing, whole
from genscale.verifiers.clip_image import Preparation, from_transformers

SAME = 0.02  # in normalised levels: a preparation is the processor's where they agree so far
CPU = torch.device("cpu")

_loaded: WeakValueDictionary[tuple[Any, ...], ImageClassifier] = WeakValueDictionary()


def image_classifier(checkpoint: str, device: torch.device, dtype: torch.dtype) -> ImageClassifier:
    """The model; the same object for the same settings, while it is in use."""
    key = (checkpoint, device, dtype)
    found = _loaded.get(key)
    if found is None:
        with torch.inference_mode(False):  # inference tensors would have no gradient later
            found = _loaded[key] = _load(checkpoint).to(device, dtype)
    return found


@dataclass(eq=False)
class ImageClassifier:
    """The loaded model. Parameters are frozen; images keep their gradients where there is a `preparation`."""

    module: Any
    processor: Any
    preparation: Preparation | None  # None: only the processor itself knows how images are prepared
    labels: dict[int, str]
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32

    def to(self, device: torch.device, dtype: torch.dtype) -> ImageClassifier:
        self.module.eval().requires_grad_(False).to(device=device, dtype=dtype)
        self.device, self.dtype = device, dtype
        return self

    def logits(self, pixels: Tensor) -> Tensor:
        """[n, classes], float32 or better, of images [n, 3, h, w] in [0, 1]."""
        prepare: Callable[[Tensor], Tensor] = self.preparation or self._as_pictures
        found: Tensor = self.module(pixel_values=prepare(pixels.to(self.device)).to(self.dtype)).logits
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _as_pictures(self, pixels: Tensor) -> Tensor:
        prepared: Tensor = self.processor(list(Media(pixels.detach())), return_tensors="pt").pixel_values
        return prepared.to(self.device)


def _load(checkpoint: str) -> ImageClassifier:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = Path(checkpoint).expanduser()
    if is_path(checkpoint) and not folder.is_dir():
        raise UsageError(
            f"there is no folder '{checkpoint}': give one with an image classifier, or a Hugging Face id."
        )
    where = str(folder) if folder.is_dir() else checkpoint
    advice = "fetch it where there is a network, or give a folder with an image classifier in safetensors"
    with refusing(f"the image classifier '{checkpoint}'", advice):
        processor = AutoImageProcessor.from_pretrained(where, trust_remote_code=False)
        safe = {"trust_remote_code": False, "use_safetensors": True}
        module = whole(AutoModelForImageClassification, where, checkpoint, "image classifier", advice, **safe)
        labels = {int(index): str(label) for index, label in module.config.id2label.items()}
        return ImageClassifier(module, processor, preparation_of(processor), labels)


def preparation_of(processor: Any) -> Preparation | None:
    """The processor's arithmetic on float tensors; None where it does something else than is known here."""
    try:
        preparation = from_transformers(processor)
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(1, 3, 5, 7, generator=generator)
        pixels = torch.nn.functional.interpolate(coarse, size=(90, 130), mode="bilinear")
        pixels = (pixels * 255).round() / 255
        theirs = processor(list(Media(pixels)), return_tensors="pt").pixel_values
        ours = preparation(pixels)
    except (UsageError, TypeError, KeyError, AttributeError, ValueError):
        return None
    same = ours.shape == theirs.shape and float((ours - theirs).abs().max()) <= SAME
    return preparation if same else None
