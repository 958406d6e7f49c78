"""The image tower and the text tower of a CLIP, as unit embeddings of images and prompts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.verifiers.clip_image import Preparation

TEXTS = 64  # prompts that are encoded at once
REMEMBERED = 4096  # prompts whose embeddings are kept


@dataclass(eq=False)
class Towers:
    """Unit embeddings of images and texts. Parameters are frozen; images keep their gradients."""

    name: str
    module: torch.nn.Module
    prepare: Preparation
    encode_images: Callable[[Tensor], Tensor]
    encode_tokens: Callable[[Tensor], Tensor]
    tokenize: Callable[[list[str], int], Tensor]  # texts, length -> ids [n, length], longer texts cut
    length: int  # tokens that the text tower takes
    device: torch.device = field(init=False)
    dtype: torch.dtype = field(init=False)
    _texts: dict[str, Tensor] = field(default_factory=dict, init=False)
    _warned: bool = field(default=False, init=False)

    def to(self, device: torch.device, dtype: torch.dtype) -> Towers:
        self.module.eval().requires_grad_(False).to(device=device, dtype=dtype)
        self.device, self.dtype = device, dtype
        return self

    def images(self, pixels: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 1] to unit vectors [n, width], in float32 or better."""
        return _unit(self.encode_images(self.prepare(pixels.to(self.device)).to(self.dtype)))

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors [n, width] without gradients; a text is encoded once."""
        found = {p: self._texts[p] for p in prompts if p in self._texts}
        fresh = [p for p in dict.fromkeys(prompts) if p not in found]
        with torch.no_grad():
            for start in range(0, len(fresh), TEXTS):
                some = fresh[start : start + TEXTS]
                found |= zip(some, _unit(self.encode_tokens(self._tokens(some))), strict=True)
        self._texts |= found
        while len(self._texts) > REMEMBERED:
            del self._texts[next(iter(self._texts))]
        return torch.stack([found[p] for p in prompts])

    def _tokens(self, texts: list[str]) -> Tensor:
        ids = self.tokenize(texts, self.length)
        longer = self.tokenize(texts, self.length + 1)[:, self.length - 1]
        cut = (longer != ids[:, -1]).tolist()  # a text that fits ends in the same token in both
        if any(cut) and not self._warned:
            self._warned = True
            warnings.warn(
                f"CLIP '{self.name}' reads {self.length} tokens of a prompt: the end of "
                f"'{texts[cut.index(True)][:60]}...' is not scored (said once).",
                stacklevel=2,
            )
        return ids.to(self.device)


def _unit(embedding: Tensor) -> Tensor:
    return F.normalize(embedding.to(torch.promote_types(embedding.dtype, torch.float32)), dim=-1)
