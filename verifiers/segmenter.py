"""SAM: cuts the object in a box out of an image.

Kirillov et al. 2023, "Segment Anything" (arXiv 2304.02643), as transformers has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.media import Media
from genscale.quiet_libraries import quietly
from genscale.verifiers.checkpoints import is_path, refusing, whole
from genscale.verifiers.detections import Box

_loaded: WeakValueDictionary[tuple[Any, ...], Segmenter] = WeakValueDictionary()


def segmenter(checkpoint: str, device: torch.device) -> Segmenter:
    """The model in float32; the same object while it is in use. UsageError: it cannot be loaded."""
    found = _loaded.get((checkpoint, device))
    if found is None:
        found = _loaded[checkpoint, device] = _load(checkpoint, device)
    return found


@dataclass(eq=False)
class Segmenter:
    """The loaded model."""

    module: Any
    processor: Any
    device: torch.device

    def __call__(self, image: Tensor, boxes: Sequence[Box]) -> list[Tensor]:
        """A mask [h, w] of 0 and 1 for each box, of an image [3, h, w] in [0, 1]; on the image's device."""
        if not boxes:
            return []
        with torch.no_grad():
            asked = [[list(map(float, box)) for box in boxes]]
            inputs = self.processor(images=Media(image[None])[0], input_boxes=asked, return_tensors="pt")
            sizes = {name: inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes")}
            given = {name: value.to(self.device, _real(value)) for name, value in inputs.items()}
            found = self.module(**given, multimask_output=False).pred_masks.cpu()
            masks = self.processor.image_processor.post_process_masks(found, **sizes)[0]
        return [mask[0].to(image) for mask in masks]


def _real(value: Tensor) -> torch.dtype:
    return torch.float32 if value.is_floating_point() else value.dtype


def _load(checkpoint: str, device: torch.device) -> Segmenter:
    from transformers import AutoConfig, AutoProcessor, SamModel

    folder = Path(checkpoint).expanduser()
    if is_path(checkpoint) and not folder.is_dir():
        raise UsageError(f"there is no folder '{checkpoint}': give one with a SAM, or a Hugging Face id.")
    where = str(folder) if folder.is_dir() else checkpoint
    advice = "fetch it where there is a network, or give a folder with a SAM in safetensors"
    quiet = quietly("transformers") if folder.is_dir() else nullcontext()
    with quiet, refusing(f"the segmenter '{checkpoint}'", advice):
        kind = AutoConfig.from_pretrained(where, trust_remote_code=False).model_type
        if kind != "sam":
            raise UsageError(
                f"'{checkpoint}' is a model of type '{kind}': give one of type 'sam', as facebook/sam-vit-base."
            )
        processor = AutoProcessor.from_pretrained(where, trust_remote_code=False)
        module = whole(SamModel, where, checkpoint, "SAM", advice, use_safetensors=True)
    return Segmenter(module.eval().requires_grad_(False).to(device), processor, device)
