"""A small `LLaDA2Pipeline` with random weights: its model is a stand-in with the interface that the pipeline calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WORDS, MASK = 259, 259
"""Tokens of ByT5: three special ones and all bytes. The mask is one more."""
EOS = 1

CALL = {"gen_length": 8, "num_inference_steps": 4, "mask_token_id": MASK, "use_chat_template": False}
"""Arguments of every call."""


class TokenModel(nn.Module):
    """Logits from all tokens in view, those that are masked included: [n, length] -> `.logits` [n, length, WORDS].

    sharpness: a factor on the logits.
    """

    def __init__(self, sharpness: float = 1.0, size: int = 16) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS + 1, size), nn.Embedding(256, size)
        self.out, self.sharpness = nn.Linear(size, WORDS), sharpness

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def forward(self, tokens: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        seen = attention_mask[..., None].float()
        hidden = self.words(tokens) + self.places(position_ids)
        mean = (hidden * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True)
        return SimpleNamespace(logits=self.sharpness * self.out((hidden + mean).tanh()))


def text_pipeline(sharpness: float = 1.0) -> Any:
    """LLaDA2Pipeline, with block length 4 where the call gives none."""
    from diffusers import BlockRefinementScheduler, LLaDA2Pipeline
    from transformers import ByT5Tokenizer

    torch.manual_seed(0)
    model = TokenModel(sharpness).requires_grad_(False)
    pipe = LLaDA2Pipeline(
        model=model, scheduler=BlockRefinementScheduler(block_length=4), tokenizer=ByT5Tokenizer(extra_ids=0)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
