"""Tokenizers and text encoders that only a recipe needs."""

from __future__ import annotations

from typing import Any

from tests.zoo_parts import ALPHABET


def xlm_tokenizer() -> Any:
    """Letters, with the special pieces of XLM-RoBERTa."""
    from transformers import XLMRobertaTokenizer

    pieces = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(piece, -1.0) for piece in "▁" + ALPHABET] + [("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=pieces, model_max_length=77)


def roberta_config(size: int = 16) -> dict[str, Any]:
    return {
        "vocab_size": 128,
        "hidden_size": size,
        "intermediate_size": size,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "max_position_embeddings": 96,
        "pad_token_id": 1,
    }
