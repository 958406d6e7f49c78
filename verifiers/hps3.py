"""HPSv3: which image of a prompt people prefer, by a Qwen2-VL with a head that was trained on their choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.errors import UsageError
from genscale.verifiers.checkpoints import check_pairs, is_path, read_tensors, refusing, weights_file
from genscale.verifiers.differentiable import Differentiable, LoadedPerDevice, ModelSettings
from genscale.verifiers.hps3_text import MARK, PLACE, instruction
from genscale.verifiers.qwen_image import from_processor
from genscale.verifiers.qwen_vl import QwenVl

REPOSITORY, FILE = "MizzenAI/HPSv3", "HPSv3.safetensors"
BASE = "Qwen/Qwen2-VL-7B-Instruct"
PIXELS = 256 * 28 * 28  # of every image, larger or smaller: as in training
HEAD = (
    "rm_head.0",
    "rm_head.3",
    "rm_head.5",
)  # linear layers; a ReLU behind the first two, a dropout between


@dataclass(frozen=True)
class Hps3(LoadedPerDevice["_Hps3Model"], ModelSettings, Differentiable):
    """The mean preference mu of image and prompt in HPSv3, unbounded, about 0 to 13; for videos the mean over frames.

    Ma et al. 2025, "HPSv3: Towards Wide-Spectrum Human Preference Score" (arXiv 2508.03789), section 4: Qwen2-VL-7B
    reads an instruction with the image and the prompt; the state at its token <|Reward|> goes through three linear
    layers to mu and a spread, of which mu is the score. Only images of one prompt compare. Every image is resized to
    200,704 pixels.

    The instruction is its authors' text. It is read from their package hpsv3 (pip install --no-deps; no code of it is
    run) or from a file, and not part of this one.

    Blind spots: detail that is lost at that size; prefers polished images; large: its gradients need an accelerator of
    80 GB.

    checkpoint: file of the weights (.safetensors), or folder or Hugging Face id that has HPSv3.safetensors.
    base: folder or Hugging Face id of the Qwen2-VL that it was tuned from, for configuration and tokenizer.
    instruction: file of the instruction; None: that of the installed package hpsv3.
    device, dtype: as for `vqa_score`; the head is always computed in float32. batch_size: images or frames in one model
        call.
    """

    checkpoint: str = REPOSITORY
    base: str = BASE
    instruction: str | None = None
    batch_size: int = field(default=4, kw_only=True)

    name: ClassVar[str] = "hps3"
    reads_prompts: ClassVar[bool] = True

    @property
    def backbone(self) -> str:
        """The model that it was tuned from."""
        return self.base

    def prepare(self, prompts: Sequence[str], device: torch.device) -> None:
        """Load the model, and read the prompts. UsageError: one of them cannot be used."""
        model = self._model(device)
        for prompt in prompts:
            model.tokens(prompt, 1)

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        check_pairs(pixels, prompts)
        model, frames = self._model(pixels.device), pixels.shape[1] if pixels.ndim == 5 else 1
        texts, flat = [p for p in prompts for _ in range(frames)], pixels.flatten(0, -4)
        starts = range(0, len(flat), self.batch_size)
        scores = [model.mu(flat[i : i + self.batch_size], texts[i : i + self.batch_size]) for i in starts]
        return torch.cat(scores).reshape(len(pixels), -1).mean(1)

    def _load_on(self, device: torch.device) -> _Hps3Model:
        dtype = getattr(torch, self.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
        key = (self.checkpoint, self.base, self.instruction, device, dtype)
        found = _loaded.get(key)
        if found is None:
            with torch.inference_mode(False):  # inference tensors would have no gradient later
                found = _loaded[key] = _load(self.checkpoint, self.base, self.instruction, device, dtype)
        return found


@dataclass(eq=False)
class _Hps3Model:
    """head: weight and bias of its layers. template: the instruction. mark: id of the token where the score is."""

    qwen: QwenVl
    head: list[tuple[Tensor, Tensor]]
    template: str
    mark: int

    def mu(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """[n] of images [n, 3, h, w] in [0, 1]."""
        tokens = self.qwen.patches.tokens(*pixels.shape[-2:])
        x = self.qwen.states(pixels, [self.tokens(prompt, tokens) for prompt in prompts])
        for place, (weight, bias) in enumerate(self.head):
            x = F.linear(x if place == 0 else x.relu(), weight.to(x), bias.to(x))
        return x[:, 0]

    def tokens(self, prompt: str, tokens: int) -> list[int]:
        """Ids up to the mark: what follows it is not seen there, since a token sees only those before it."""
        found = self.qwen.tokens(self.template.replace(PLACE, prompt), tokens)
        if found.count(self.mark) != 1:
            raise UsageError(f"the prompt '{prompt[:60]}' contains the model's token '{MARK}': leave it out.")
        return found[: found.index(self.mark) + 1]


_loaded: WeakValueDictionary[tuple[Any, ...], _Hps3Model] = WeakValueDictionary()


def _load(
    checkpoint: str, base: str, text: str | None, device: torch.device, dtype: torch.dtype
) -> _Hps3Model:
    template = instruction(text)
    path = weights_file("hps3", checkpoint, (FILE,), REPOSITORY)
    advice = f"give {FILE} of {REPOSITORY} as checkpoint, and a folder or id of {BASE} as base"
    if is_path(base) and not Path(base).expanduser().is_dir():
        raise UsageError(f"there is no folder '{base}' for hps3: {advice}.")
    with refusing(f"HPSv3 '{checkpoint}'", advice):
        from transformers import AutoConfig, AutoProcessor

        where = str(Path(base).expanduser()) if Path(base).expanduser().is_dir() else base
        processor = AutoProcessor.from_pretrained(where, trust_remote_code=False)
        processor.tokenizer.add_special_tokens({"additional_special_tokens": [MARK]})
        patches = replace(from_processor(processor.image_processor), least=PIXELS, most=PIXELS)
        state = read_tensors(path)
        layers = [(state.pop(f"{n}.weight").float(), state.pop(f"{n}.bias").float()) for n in HEAD]
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        qwen = QwenVl(_module(config, state, checkpoint, dtype, advice), processor, patches).to(device)
    head = [(weight.to(device), bias.to(device)) for weight, bias in layers]
    return _Hps3Model(qwen, head, template, processor.tokenizer.convert_tokens_to_ids(MARK))


def _module(config: Any, state: dict[str, Tensor], name: str, dtype: torch.dtype, advice: str) -> Any:
    """The Qwen2-VL of these weights, whose names are those of transformers 4.45; later ones have another layout."""
    from transformers import Qwen2VLForConditionalGeneration

    (rows,) = {t.shape[0] for k, t in state.items() if k.endswith("embed_tokens.weight")}
    config.get_text_config().vocab_size = rows  # the authors cut the vocabulary to the tokenizer's, with MARK
    module, report = Qwen2VLForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=state, torch_dtype=dtype, output_loading_info=True
    )
    missing = [*report["missing_keys"], *report["mismatched_keys"]]
    if missing or report["unexpected_keys"]:
        raise UsageError(
            f"'{name}' is not a whole HPSv3: {len(missing)} of its weights are missing, and "
            f"{len(report['unexpected_keys'])} are of something else: {advice}."
        )
    return module
