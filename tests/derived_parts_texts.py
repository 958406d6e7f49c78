"""Tokenizers, processors and text encoders that only a recipe needs."""

from __future__ import annotations

from typing import Any

from tests.zoo_parts import ALPHABET, LANGUAGE, QWEN_VISION, ROPE, VOCABULARY, make, qwen_tokenizer

MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def xlm_tokenizer() -> Any:
    """Letters, with the special pieces of XLM-RoBERTa."""
    from transformers import XLMRobertaTokenizer

    pieces = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(piece, -1.0) for piece in "▁" + ALPHABET] + [("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=pieces, model_max_length=77)


def byte_tokenizer() -> Any:
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=0)


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


def vision_tokenizer() -> Any:
    """The bytes and marks of `qwen_tokenizer`, and those of pictures in a chat."""
    tokenizer = qwen_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *MARKS]})
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }} "
        "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
        "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
        "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    )
    return tokenizer


def _mark_ids() -> dict[str, int]:
    tokenizer = vision_tokenizer()
    start, end, image, video = (tokenizer.convert_tokens_to_ids(mark) for mark in MARKS)
    return {
        "vision_start_token_id": start,
        "vision_end_token_id": end,
        "image_token_id": image,
        "video_token_id": video,
    }


def qwen_vision_processor(name: str = "Qwen2VLProcessor", patch: int = 14) -> Any:
    """The processor of chats with pictures; a picture becomes at most four tokens."""
    import transformers

    sizes = {"patch_size": patch, "min_pixels": (2 * patch) ** 2, "max_pixels": (4 * patch) ** 2}
    tokenizer = vision_tokenizer()
    return getattr(transformers, name)(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=_video_processor(name),
        chat_template=tokenizer.chat_template,
    )


def _video_processor(name: str) -> Any:
    import transformers

    kind = "Qwen3VLVideoProcessor" if "3" in name else "Qwen2VLVideoProcessor"
    return getattr(transformers, kind)()


def qwen_vision(name: str = "Qwen2_5_VLForConditionalGeneration", layers: int = 2) -> Any:
    """A Qwen that reads text and pictures, for `qwen_vision_processor`."""
    text = LANGUAGE | {"num_hidden_layers": layers, "rope_parameters": dict(ROPE)}
    deep = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16} if "3" in name else {}
    return make(name, text_config=text, vision_config=QWEN_VISION | deep, **_mark_ids())


def vision_parts(name: str = "Qwen2_5_VLForConditionalGeneration", layers: int = 2) -> dict[str, Any]:
    """`qwen_vision` and `vision_tokenizer`, under the names of a pipeline's components."""
    return {"text_encoder": qwen_vision(name, layers), "tokenizer": vision_tokenizer()}


def gemma_encoder(name: str = "T5GemmaEncoder", size: int = 16) -> Any:
    """The encoder of T5Gemma, for `gemma_tokenizer`."""
    import torch
    import transformers
    from transformers import T5GemmaConfig, T5GemmaModuleConfig

    inner = T5GemmaModuleConfig(
        vocab_size=VOCABULARY,
        hidden_size=size,
        intermediate_size=size,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        dropout_rate=0.0,
    )
    torch.manual_seed(0)
    if name == "T5GemmaEncoder":
        from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

        return T5GemmaEncoder(inner).eval()
    return getattr(transformers, name)(
        T5GemmaConfig(encoder=inner, decoder=inner, is_encoder_decoder=False)
    ).eval()
