"""Detectors that find objects by their names: Grounding DINO and OWL-ViT, as transformers has them.

Grounding DINO: Liu et al. 2023, arXiv 2303.05499. OWL-ViT: Minderer et al. 2022, arXiv 2205.06230; OWLv2: Minderer et
al. 2023, arXiv 2306.09683. Every box of a model gets the name that scores best there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.quiet_libraries import quietly
from genscale.verifiers.checkpoints import is_path, refusing, whole
from genscale.verifiers.detections import Detection

if TYPE_CHECKING:
    from PIL import Image

GROUNDING, OWL = ("grounding-dino", "mm-grounding-dino"), ("owlv2", "owlvit")
CPU = torch.device("cpu")
ABOVE = 1e-4  # boxes with a lower score are left out; hundreds of each image say nothing

_loaded: WeakValueDictionary[tuple[Any, ...], ZeroShotDetector] = WeakValueDictionary()


def zero_shot_detector(checkpoint: str, device: torch.device, dtype: torch.dtype) -> ZeroShotDetector:
    """The model; the same object for the same settings, while it is in use. UsageError: it cannot be loaded."""
    key = (checkpoint, device, dtype)
    found = _loaded.get(key)
    if found is None:
        found = _loaded[key] = _load(checkpoint, dtype).to(device)
    return found


@dataclass(eq=False)
class ZeroShotDetector:
    """The loaded model. kind: its `model_type`."""

    module: Any
    processor: Any
    kind: str
    device: torch.device = CPU

    def to(self, device: torch.device) -> ZeroShotDetector:
        self.module.eval().requires_grad_(False).to(device)
        self.device = device
        return self

    def __call__(self, images: Sequence[Image.Image], nouns: Sequence[str]) -> list[list[Detection]]:
        """The objects of each image, of all scores above ABOVE. images: of one size. nouns: at least one."""
        with torch.no_grad():
            prepared = self.processor.image_processor(images=list(images), return_tensors="pt")
            inputs = {name: value.to(self.device) for name, value in prepared.items()}
            inputs["pixel_values"] = inputs["pixel_values"].to(self.module.dtype)
            find = self._grounded if self.kind in GROUNDING else self._owl
            scores, boxes = find(inputs, nouns)  # [n, queries, nouns], [n, queries, 4]
        best, which = scores.float().max(-1)
        width, height = images[0].size
        corners = self._corners(boxes.float(), width, height)
        return [
            [
                Detection(nouns[int(which[i, q])], float(best[i, q]), tuple(corners[i, q].tolist()))
                for q in (best[i] > ABOVE).nonzero()[:, 0].tolist()
            ]
            for i in range(len(images))
        ]

    def _corners(self, boxes: Tensor, width: int, height: int) -> Tensor:
        """Edges in pixels of boxes (centre, size) as fractions; OWLv2's refer to the image padded to a square."""
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        side = max(width, height)
        whole = (side, side) if self.kind == "owlv2" else (width, height)
        edges = torch.cat([middle - half, middle + half], dim=-1) * boxes.new_tensor([*whole, *whole])
        return torch.minimum(edges.clamp(min=0), edges.new_tensor([width, height, width, height]))

    def _owl(self, inputs: dict[str, Tensor], nouns: Sequence[str]) -> tuple[Tensor, Tensor]:
        """By the prompt "a photo of a NOUN", as the papers ask."""
        texts = [f"a photo of a {noun}" for noun in nouns]
        length = self.module.config.text_config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        words = self.processor.tokenizer(texts, **options)
        n = len(inputs["pixel_values"])
        found = self.module(
            **inputs,
            input_ids=words.input_ids.repeat(n, 1).to(self.device),
            attention_mask=words.attention_mask.repeat(n, 1).to(self.device),
        )
        return found.logits.sigmoid(), found.pred_boxes

    def _grounded(self, inputs: dict[str, Tensor], nouns: Sequence[str]) -> tuple[Tensor, Tensor]:
        """By "noun. noun."; the score of a noun is that of its best token, as in the paper."""
        ids, places = self._sentence(nouns)
        n = len(inputs["pixel_values"])
        rows = torch.tensor([ids] * n, device=self.device)
        found = self.module(**inputs, input_ids=rows, attention_mask=torch.ones_like(rows))
        scores = found.logits.sigmoid()
        return torch.stack([scores[..., a:b].amax(-1) for a, b in places], dim=-1), found.pred_boxes

    def _sentence(self, nouns: Sequence[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of all nouns, and where those of each are. UsageError: they are too many, or a noun has none."""
        words = self.processor.tokenizer
        stop = words.convert_tokens_to_ids(".")
        ids, places = [words.cls_token_id], list[tuple[int, int]]()
        for noun in nouns:
            own = words(noun.lower(), add_special_tokens=False).input_ids
            if not own:
                raise UsageError(f"'{noun}' has no token that the detector knows: name the object in words.")
            places.append((len(ids), len(ids) + len(own)))
            ids += [*own, stop]
        ids.append(words.sep_token_id)
        if len(ids) > self.module.config.max_text_len:
            raise UsageError(
                f"{len(nouns)} nouns are more than the detector reads at once: name fewer objects."
            )
        return ids, places


def _load(checkpoint: str, dtype: torch.dtype) -> ZeroShotDetector:
    from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor

    folder = Path(checkpoint).expanduser()
    if is_path(checkpoint) and not folder.is_dir():
        raise UsageError(
            f"there is no folder '{checkpoint}': give one with a detector, or a Hugging Face id."
        )
    where = str(folder) if folder.is_dir() else checkpoint
    advice = (
        "fetch it where there is a network, or give a folder with a Grounding DINO or OWLv2 in safetensors"
    )
    quiet = quietly("transformers") if folder.is_dir() else nullcontext()
    with quiet, refusing(f"the detector '{checkpoint}'", advice):
        kind = AutoConfig.from_pretrained(where, trust_remote_code=False).model_type
        if kind not in (*GROUNDING, *OWL):
            raise UsageError(
                f"'{checkpoint}' is a model of type '{kind}': give one of {', '.join((*GROUNDING, *OWL))}."
            )
        processor = AutoProcessor.from_pretrained(where, trust_remote_code=False)
        safe = {"trust_remote_code": False, "use_safetensors": True, "torch_dtype": dtype}
        module = whole(AutoModelForZeroShotObjectDetection, where, checkpoint, "detector", advice, **safe)
    return ZeroShotDetector(module, processor, kind)
