"""`genscale.token_texts`: a token model of transformers as a generator of texts for `genscale.scale`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from genscale.errors import UsageError

_OWN = ("do_sample", "num_return_sequences", "num_beams")


@dataclass(frozen=True, eq=False)
class TokenTexts:
    """A model and its tokenizer as a function `(prompt, seed) -> text`. Made by `token_texts`.

    `model.generate` draws from torch's global generators, so calls run one at a time, each after they are seeded.
    """

    model: Any
    tokenizer: Any
    chat: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    __name__: ClassVar[str] = "token_texts"
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def identity(self) -> list[Any]:
        """What decides its texts, for `out=`."""
        vocabulary = self.tokenizer.get_vocab()
        return [type(self.model), self.model, type(self.tokenizer), vocabulary, self.chat, dict(self.options)]

    def __call__(self, prompt: str, seed: int = 0, **options: Any) -> str:
        """One text: a decoder's new tokens, or all of an encoder-decoder. options: of `generate`, over those given."""
        given = self._inputs(prompt)
        devices = [self.device] if self.device.type == "cuda" else []
        with self._lock, torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(seed)
            [tokens] = self.model.generate(**given, **{**self.options, **options, "do_sample": True})
        if not getattr(self.model.config, "is_encoder_decoder", False):
            tokens = tokens[given["input_ids"].shape[1] :]
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def _inputs(self, prompt: str) -> dict[str, Any]:
        if self.chat:
            made = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            made = self.tokenizer(prompt, return_tensors="pt")
        names = ("input_ids", "attention_mask")
        return {name: made[name].to(self.device) for name in names if name in made}


def token_texts(model: Any, tokenizer: Any, *, chat: bool = False, **options: Any) -> TokenTexts:
    """A token model of transformers as a generator of texts: `model.generate` with sampling, one text a call.

    chat: put each prompt into the tokenizer's chat template. options: of `generate`, such as max_new_tokens=64,
    temperature=0.8, top_p=0.95. Candidate k is sampled after torch is seeded with the seed of its key, as
    `transformers.set_seed` seeds it. Verifiers get the texts by iterating over the media, or as `media.data`.

    UsageError: the model has no `generate`, or an option makes it return something else than one sample.
    """
    if not callable(getattr(model, "generate", None)) or not callable(getattr(tokenizer, "decode", None)):
        raise UsageError("token_texts needs a model with `generate` and its tokenizer, both of transformers.")
    for name in _OWN:
        if name in options:
            raise UsageError(f"{name} is not for token_texts to choose: a call is one sampled text.")
    return TokenTexts(model, tokenizer, chat, options)
