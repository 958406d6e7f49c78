"""A Qwen-VL with one question about one image: the logits of its answer's first token."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.errors import UsageError
from genscale.verifiers.checkpoints import is_path, refusing, whole
from genscale.verifiers.qwen_image import Patches, from_processor

REMEMBERED = 4096  # questions whose tokens are kept
CPU = torch.device("cpu")
ROWS = 16384  # rows of the vocabulary that are converted to float32 at once

_loaded: WeakValueDictionary[tuple[Any, ...], QwenVl] = WeakValueDictionary()


def qwen_vl(checkpoint: str, max_pixels: int | None, device: torch.device, dtype: torch.dtype) -> QwenVl:
    """The model; the same object for the same settings, while it is in use."""
    key = (checkpoint, max_pixels, device, dtype)
    found = _loaded.get(key)
    if found is None:
        with torch.inference_mode(False):  # inference tensors would have no gradient later
            found = _loaded[key] = _load(checkpoint, max_pixels, dtype).to(device)
    return found


@dataclass(eq=False)
class QwenVl:
    """The loaded model. Parameters are frozen; images keep their gradients."""

    module: Any
    processor: Any
    patches: Patches
    device: torch.device = CPU
    _ids: dict[tuple[str, int], list[int]] = field(default_factory=dict)

    def to(self, device: torch.device) -> QwenVl:
        self.module.eval().requires_grad_(False).to(device)
        self.device = device
        return self

    def token(self, answer: str) -> int:
        """The first token of an answer."""
        ids = self.processor.tokenizer(answer, add_special_tokens=False).input_ids
        if not ids:
            raise UsageError("an empty answer has no probability: give a word, as Yes.")
        return int(ids[0])

    def logits(self, pixels: Tensor, questions: Sequence[str]) -> Tensor:
        """[n, vocabulary], float32 or better, of images [n, 3, h, w] in [0, 1] with a question each.

        The output layer is applied in float32: in bfloat16 logits are rounded so coarsely that images would tie.
        """
        rows = [self.tokens(question, self.patches.tokens(*pixels.shape[-2:])) for question in questions]
        state, head = self.states(pixels, rows), self.module.get_output_embeddings()
        return torch.cat([F.linear(state, some.to(state)) for some in torch.split(head.weight, ROWS)], dim=1)

    def states(self, pixels: Tensor, rows: Sequence[list[int]]) -> Tensor:
        """What the output layer gets at the last token [n, width], float32 or better, of images [n, 3, h, w] in [0, 1].

        rows: ids of a text about each image, with its image tokens.
        """
        seen = self.patches(pixels.to(self.device)).to(self.module.dtype)
        down, across = self.patches.grid(*pixels.shape[-2:])
        ids, mask = self._padded(rows)
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "pixel_values": seen,
            "image_grid_thw": ids.new_tensor([[1, down, across]]).repeat(len(rows), 1),
        }
        if "mm_token_type_ids" in inspect.signature(self.module.forward).parameters:
            inputs["mm_token_type_ids"] = (ids == self.module.config.image_token_id).int()
        caught: list[Tensor] = []
        head = self.module.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, args: caught.append(args[0][:, -1]))
        try:
            self.module(**inputs, use_cache=False, logits_to_keep=1)
        finally:
            hook.remove()
        return caught[0].to(torch.promote_types(caught[0].dtype, torch.float32))

    def _padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask [n, length]; padded on the left, so that every text ends at the last place."""
        length, pad = max(map(len, rows)), self.processor.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        return ids.to(self.device), mask.to(self.device)

    def tokens(self, question: str, tokens: int) -> list[int]:
        """Ids of a question about an image of so many tokens. UsageError: it contains the mark of an image."""
        found = self._ids.get((question, tokens))
        if found is None:
            found = self._ids[question, tokens] = self._tokenised(question, tokens)
            while len(self._ids) > REMEMBERED:
                del self._ids[next(iter(self._ids))]
        return found

    def _tokenised(self, question: str, tokens: int) -> list[int]:
        words = {"type": "text", "text": question}
        chat = [{"role": "user", "content": [{"type": "image"}, words]}]
        options = {"enable_thinking": False} if "enable_thinking" in str(self.processor.chat_template) else {}
        text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **options)
        mark = self.processor.image_token
        if text.count(mark) != 1:
            raise UsageError(
                f"the question '{question[:60]}' contains the model's image token '{mark}': leave it out."
            )
        ids = self.processor.tokenizer(text.replace(mark, mark * tokens), add_special_tokens=False).input_ids
        return list(ids)


def _load(checkpoint: str, max_pixels: int | None, dtype: torch.dtype) -> QwenVl:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = Path(checkpoint).expanduser()
    if is_path(checkpoint) and not folder.is_dir():
        raise UsageError(f"there is no folder '{checkpoint}': give one with a Qwen-VL, or a Hugging Face id.")
    where = str(folder) if folder.is_dir() else checkpoint
    advice = "fetch it where there is a network, or give a folder with a Qwen-VL in safetensors"
    with refusing(f"the vision-language model '{checkpoint}'", advice):
        processor = AutoProcessor.from_pretrained(where, trust_remote_code=False)
        images = getattr(processor, "image_processor", None)
        if not all(hasattr(images, part) for part in ("patch_size", "merge_size", "temporal_patch_size")):
            raise UsageError(f"'{checkpoint}' does not prepare images as a Qwen-VL does: give a Qwen-VL.")
        patches = from_processor(images, max_pixels)
        safe = {"trust_remote_code": False, "use_safetensors": True, "torch_dtype": dtype}
        module = whole(AutoModelForImageTextToText, where, checkpoint, "Qwen-VL", advice, **safe)
    return QwenVl(module, processor, patches)
