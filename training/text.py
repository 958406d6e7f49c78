"""The words of the shapes world as an ordinary CLIP tokenizer, and the text encoders that read them."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from transformers import CLIPTextConfig, CLIPTokenizer

from genscale.toy.shapes import COLOURS, KINDS, NUMBERS, RELATIONS

LENGTH = 10  # tokens of the longest caption: eight words, a beginning and an end
WIDTH = 128


def words() -> list[str]:
    relations = dict.fromkeys(word for relation in RELATIONS for word in relation.split())
    return ["a", "and", *NUMBERS, *COLOURS, *KINDS, *(f"{kind}s" for kind in KINDS), *relations]


def merges(known: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, the commonest pair first, after which every word of `known` is one token."""
    spelled = {word: [*word[:-1], f"{word[-1]}</w>"] for word in known}
    found: list[tuple[str, str]] = []
    while pairs := Counter(pair for parts in spelled.values() for pair in itertools.pairwise(parts)):
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        found.append(best)
        for parts in spelled.values():
            for i in range(len(parts) - 1, 0, -1):
                if tuple(parts[i - 1 : i + 1]) == best:
                    parts[i - 1 : i + 1] = ["".join(best)]
    return found


def tokenizer(folder: Path, known: Sequence[str] | None = None, length: int = LENGTH) -> CLIPTokenizer:
    """The tokenizer of `known` words (None: of the images' world), by way of its two files in `folder`.

    Other words fall into letters. length: tokens that fit.
    """
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    pairs = merges(words() if known is None else known)
    tokens += list(dict.fromkeys("".join(pair) for pair in pairs))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *(" ".join(pair) for pair in pairs)]) + "\n"
    )
    return CLIPTokenizer.from_pretrained(
        folder, model_max_length=length, unk_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def text_config(tokenizer: CLIPTokenizer, layers: int = 3, width: int = WIDTH) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
