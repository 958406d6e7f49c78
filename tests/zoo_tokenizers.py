"""Tokenizers that spell, for transformers 4, whose own classes are read from files and need SentencePiece."""

from __future__ import annotations

from typing import Any


def old_transformers() -> bool:
    import transformers

    return int(transformers.__version__.split(".")[0]) < 5


def spelling(
    pieces: list[str], unknown: str, padding: str, end: str, start: str | None = None, length: int = 77
) -> Any:
    """A tokenizer with one token a character.

    pieces: all tokens. start, end: added to every text. length: the longest text, in tokens.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    inner = Tokenizer(WordLevel(vocabulary, unk_token=unknown))
    inner.pre_tokenizer = Split(Regex("."), "isolated")
    marks = [(mark, vocabulary[mark]) for mark in dict.fromkeys((start, end)) if mark is not None]
    single = " ".join([*([] if start is None else [start]), "$A", end])
    inner.post_processor = TemplateProcessing(single=single, special_tokens=marks)
    named = {"unk_token": unknown, "pad_token": padding, "eos_token": end}
    if start is not None:
        named["bos_token"] = start
    given = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=length, model_input_names=given, **named
    )
