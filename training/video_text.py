"""The words of moving shapes as a CLIP tokenizer, and the small UMT5 encoder that reads them for WanPipeline."""

from __future__ import annotations

from pathlib import Path

from transformers import CLIPTokenizer, UMT5Config, UMT5EncoderModel

from genscale.toy.moving_shapes import DIRECTIONS, KINDS
from genscale.toy.shapes import COLOURS
from training.text import tokenizer

LENGTH = 13  # tokens of the longest caption: eleven words, a beginning and an end
WIDTH = 128
PADDED = 512  # tokens to which WanPipeline fills up a caption's embeddings with zeros unless told otherwise

WORDS = ("a", "and", "moving", *COLOURS, *KINDS, *DIRECTIONS)


def video_tokenizer(folder: Path) -> CLIPTokenizer:
    return tokenizer(folder, WORDS, PADDED)


def text_encoder(words: CLIPTokenizer) -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=len(words),
        d_model=WIDTH,
        d_kv=32,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
    )
    return UMT5EncoderModel(config)
