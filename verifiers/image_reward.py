"""ImageReward: how much people would rank an image of a prompt above others, by a BLIP tuned on rankings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from genscale.errors import UsageError
from genscale.verifiers.affine import folded
from genscale.verifiers.blip import UNUSED, Blip
from genscale.verifiers.checkpoints import check_pairs, read_tensors, refusing, weights_file
from genscale.verifiers.clip_image import Preparation
from genscale.verifiers.differentiable import Differentiable, LoadedPerDevice, ModelSettings

REPOSITORY, FILES = "THUDM/ImageReward", ("ImageReward.pt", "ImageReward.safetensors")
TOKENIZER = "bert-base-uncased"
ADDED = ["[DEC]", "[ENC]"]  # BLIP's two tokens beside BERT's
LENGTH = 35  # tokens that are read of a prompt, first and last mark included
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw reward, as published
PLACES = (0, 2, 4, 6, 7)  # indices of the head's linear layers; only dropout layers are between
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CACHED = 4096  # prompts whose tokens are kept
CPU = torch.device("cpu")


@dataclass(frozen=True)
class ImageReward(LoadedPerDevice["_RewardModel"], ModelSettings, Differentiable):
    """The reward of image and prompt, in standard deviations about its mean; for videos the mean over frames.

    Xu et al. 2023, "ImageReward" (arXiv 2304.05977): BLIP (ViT-L/16 at 224, BERT-base with cross-attention), the
    first token's state, five linear layers; about -2.3 to 2. Short side resized (bicubic), middle cut. Its
    data and backbone differ from those of `clip`, `hps` and `pickscore`, so it is a good one to hold out.

    Blind spots: reads 35 tokens of the prompt (longer ones warn, once), and the middle of the image; prefers
    polished images; is easily over-optimised by gradients.

    checkpoint: file of the weights (.pt, .safetensors), or folder or Hugging Face id that has ImageReward.pt.
    tokenizer: folder or Hugging Face id of BERT's tokenizer; None: that of the folder `checkpoint` if it has one, else
        bert-base-uncased.
    device, dtype, batch_size: as for `Clip`; the head is always computed in float32.
    """

    checkpoint: str = REPOSITORY
    tokenizer: str | None = None

    name: ClassVar[str] = "image_reward"
    backbone: ClassVar[str] = "BLIP ViT-L"
    reads_prompts: ClassVar[bool] = True

    def score_tensor(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """Scores [n] of [n, 3, h, w] or [n, frames, 3, h, w] in [0, 1]; differentiable in the pixels."""
        check_pairs(pixels, prompts)
        model, frames = self._model(pixels.device), pixels.shape[1] if pixels.ndim == 5 else 1
        tokens = model.tokens(prompts).repeat_interleave(frames, dim=0)
        rows = zip(
            torch.split(pixels.flatten(0, -4), self.batch_size),
            torch.split(tokens, self.batch_size),
            strict=True,
        )
        rewards = torch.cat([model.rewards(some, words) for some, words in rows])
        return rewards.reshape(len(pixels), -1).mean(1)

    def _load_on(self, device: torch.device) -> _RewardModel:
        dtype = getattr(torch, self.dtype or "float32")
        key = (self.checkpoint, self.tokenizer, device, dtype)
        found = _loaded.get(key)
        if found is None:
            with torch.inference_mode(False):  # inference tensors would have no gradient later
                found = _loaded[key] = _load(self.checkpoint, self.tokenizer).to(device, dtype)
        return found


@dataclass(eq=False)
class _RewardModel:
    """The loaded model. Parameters are frozen; images keep their gradients."""

    blip: Blip
    head: tuple[Tensor, float]  # weight [width], bias
    tokenizer: Any
    prepare: Preparation
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    _tokens: dict[str, Tensor] = field(default_factory=dict)
    _warned: bool = False

    def to(self, device: torch.device, dtype: torch.dtype) -> _RewardModel:
        self.blip.eval().requires_grad_(False).to(device=device, dtype=dtype)
        self.device, self.dtype = device, dtype
        self.head = (self.head[0].to(device), self.head[1])
        return self

    def rewards(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """[n] of images [n, 3, h, w] in [0, 1] and tokens with their mask [n, 2, 35]."""
        x = self.prepare(pixels.to(self.device)).to(self.dtype)
        features: Tensor = self.blip(x, tokens[:, 0], tokens[:, 1])
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        raw: Tensor = features @ self.head[0].to(features) + self.head[1]
        return (raw - MEAN) / STD

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Ids and mask [n, 2, 35]; a prompt is tokenised once."""
        fresh = [p for p in dict.fromkeys(prompts) if p not in self._tokens]
        if fresh:
            found = self.tokenizer(
                fresh, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
            )
            pairs = torch.stack([found.input_ids, found.attention_mask], dim=1).to(self.device)
            self._warn_of_cut(fresh)
            self._tokens |= zip(fresh, pairs, strict=True)
        rows = torch.stack([self._tokens[p] for p in prompts])
        while len(self._tokens) > CACHED:
            del self._tokens[next(iter(self._tokens))]
        return rows

    def _warn_of_cut(self, prompts: Sequence[str]) -> None:
        for prompt in prompts if not self._warned else ():
            if len(self.tokenizer(prompt, truncation=True, max_length=LENGTH + 1).input_ids) > LENGTH:
                self._warned = True
                warnings.warn(
                    f"ImageReward reads {LENGTH} tokens of a prompt: the end of '{prompt[:60]}...' is not "
                    "scored (said once).",
                    stacklevel=2,
                )
                return


_loaded: WeakValueDictionary[tuple[Any, ...], _RewardModel] = WeakValueDictionary()


def _load(checkpoint: str, words: str | None) -> _RewardModel:
    path = weights_file("image_reward", checkpoint, FILES, REPOSITORY)
    with refusing(f"ImageReward '{checkpoint}'", f"give {FILES[0]} of {REPOSITORY}"):
        state = read_tensors(path)
        layers: dict[int, dict[str, Tensor]] = {}
        for place in PLACES:
            layers[place] = {part: state.pop(f"mlp.layers.{place}.{part}") for part in ("weight", "bias")}
        _refuse_others(state)
        blip = Blip(state)
    if words is None:
        beside = path.parent
        words = (
            str(beside) if any((beside / f).is_file() for f in ("vocab.txt", "tokenizer.json")) else TOKENIZER
        )
    with refusing(
        f"the tokenizer '{words}' of ImageReward", "give a folder with BERT's vocab.txt as tokenizer"
    ):
        from transformers import BertTokenizer

        folder = Path(words).expanduser()
        tokenizer = BertTokenizer.from_pretrained(str(folder) if folder.is_dir() else words)
        tokenizer.add_tokens(ADDED, special_tokens=True)
    side = (blip.side, blip.side)
    return _RewardModel(blip, folded(layers), tokenizer, Preparation(side, side, CLIP_MEAN, CLIP_STD))


def _refuse_others(state: dict[str, Tensor]) -> None:
    prefixes = ("blip.visual_encoder.", "blip.text_encoder.")
    others = [key for key in state if not key.startswith(prefixes) and not UNUSED.fullmatch(key)]
    if others:
        raise UsageError(
            f"these weights are not an ImageReward: {len(others)} are of something else "
            f"({', '.join(others[:2])}): give {FILES[0]} of {REPOSITORY}."
        )
