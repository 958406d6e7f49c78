"""Parts for `zoo`: tiny models with seeded random weights, and tokenizers that spell.

The tokenizers know letters and not words, so any two prompts differ. The classes come from
diffusers and transformers by name, so importing this module costs nothing.
"""

import string

import torch

from tests.zoo_configs import vision
from tests.zoo_tokenizers import old_transformers, spelling

ALPHABET = string.ascii_lowercase + string.ascii_uppercase + string.digits + string.punctuation
WAN_VAE = {  # sizes of the autoencoders of Wan and Qwen-Image
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [True],
    "latents_mean": [0.1, -0.1, 0.2, 0.0],
    "latents_std": [1.5, 1.2, 0.9, 1.1],
}
VOCABULARY = 320  # rows in the embedding of a language model: every tokenizer below needs fewer
LANGUAGE = {  # sizes of a decoder-only language model
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}  # of a Qwen that sees
QWEN_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}


def make(name, seed=0, **config):
    """A model by class name in eval mode, the same float32 weights every time."""
    import diffusers
    import transformers

    torch.manual_seed(seed)
    if hasattr(diffusers, name):
        model = getattr(diffusers, name)(**config)
    else:
        cls = getattr(transformers, name)
        model = cls(cls.config_class(**config))
    return enliven(model, seed).eval()


def enliven(model, seed=0):
    """Redraw the matrices that keep their inputs down: closed gates would hide noise and prompt."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.numel() > 1:
                natural = parameter[0].numel() ** -0.5
                if parameter.std() < 0.9 * natural:
                    parameter.normal_(0, natural, generator=draw)
    return model


def dim(layer, factor=0.3):
    """Shrink the last layer of a decoder whose images would be mostly black and white."""
    layer.weight.data *= factor


def pipeline(name, **components):
    """A pipeline by class name, with its progress bar switched off."""
    import diffusers

    pipe = getattr(diffusers, name)(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def scheduler(name, **config):
    import diffusers

    return getattr(diffusers, name)(**config)


def flow(**config):
    """The flow-matching Euler scheduler."""
    return scheduler("FlowMatchEulerDiscreteScheduler", **config)


def stable(name="DDIMScheduler", **config):
    """A scheduler with the noise schedule of Stable Diffusion."""
    noise = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return scheduler(name, **noise | {"steps_offset": 1} | config)


# Tokenizers


def clip_tokenizer():
    from transformers import CLIPTokenizer

    pieces = ["<|startoftext|>", "<|endoftext|>", *ALPHABET, *(f"{c}</w>" for c in ALPHABET)]
    if old_transformers():
        return spelling(pieces, pieces[1], pieces[1], end=pieces[1], start=pieces[0])
    return CLIPTokenizer(vocab=_numbered(pieces), merges=[], model_max_length=77)


def t5_tokenizer():
    from transformers import T5Tokenizer

    pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    pieces += [(piece, -1.0) for piece in "▁" + ALPHABET]
    if old_transformers():
        return spelling([piece for piece, _ in pieces], "<unk>", "<pad>", end="</s>")
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=77)


def bert_tokenizer():
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *ALPHABET, *(f"##{c}" for c in ALPHABET)]
    if old_transformers():
        return spelling(pieces, "[UNK]", "[PAD]", end="[SEP]", start="[CLS]")
    return BertTokenizer(vocab=_numbered(pieces), model_max_length=77)


def gemma_tokenizer():
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *ALPHABET]
    if old_transformers():
        return spelling(pieces, "<unk>", "<pad>", end="<eos>", start="<bos>")
    return GemmaTokenizer(vocab=_numbered(pieces), merges=[], model_max_length=77)


def qwen_tokenizer():
    """Bytes, the marks of a chat, and a short chat template; it serves the Llama encoders too."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    pieces = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]
    if old_transformers():
        tokenizer = spelling(pieces, pieces[0], pieces[0], end=pieces[0], length=512)
    else:
        tokenizer = Qwen2Tokenizer(vocab=_numbered(pieces), merges=[], model_max_length=512)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]},
    )
    tokenizer.chat_template = (
        "{% for message in messages if message.role == 'user' %}<|im_start|>"
        "{{ message.content if message.content is string else message.content[0].text }}"
        "<|im_end|>{% endfor %}"
    )
    return tokenizer


def _numbered(pieces):
    return {piece: number for number, piece in enumerate(pieces)}


# Text encoders


def clip(size=8, projection=False, seed=0):
    """A CLIP text encoder, for `clip_tokenizer`."""
    return make(
        "CLIPTextModelWithProjection" if projection else "CLIPTextModel",
        seed=seed,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        hidden_size=size,
        projection_dim=size,
        intermediate_size=2 * size,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=2 + 2 * len(ALPHABET),
    )


def t5(name="T5EncoderModel", size=16):
    """A T5 encoder, for `t5_tokenizer`."""
    return make(
        name,
        vocab_size=128,
        d_model=size,
        d_kv=size // 2,
        d_ff=2 * size,
        num_layers=1,
        num_heads=2,
    )


def bert(size=16):
    """A BERT encoder, for `bert_tokenizer`."""
    return make(
        "BertModel",
        vocab_size=5 + 2 * len(ALPHABET),
        hidden_size=size,
        intermediate_size=size,
        num_attention_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=77,
    )


def language_model(name, layers=2, **more):
    """A decoder-only language model of the Llama kind with a hidden size of 16."""
    return make(name, **LANGUAGE | {"num_hidden_layers": layers} | more)


def qwen_vl():
    """Qwen2.5-VL, of which the pipelines use the text part."""
    return make(
        "Qwen2_5_VLForConditionalGeneration",
        text_config=LANGUAGE | {"rope_scaling" if old_transformers() else "rope_parameters": dict(ROPE)},
        vision_config=QWEN_VISION,
        **{f"{kind}_token_id": VOCABULARY - 1 for kind in ("image", "video")},
        **{f"vision_{end}_token_id": VOCABULARY - 1 for end in ("start", "end")},
    )


# Image encoder


def clip_vision(name="CLIPVisionModelWithProjection", size=16, image=16, layers=2):
    """A CLIP image encoder of 8 x 8 patches."""
    return make(name, **vision(size, image, layers), projection_dim=size)


# Image autoencoder


def vae(levels=2, latent=4, name="AutoencoderKL", **config):
    """An image autoencoder that halves the sides `levels - 1` times."""
    return make(
        name,
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=latent,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
        **config,
    )


def shifted_vae(**config):
    """The image autoencoder of the flow models: a shift, and no convolutions around the latent."""
    return vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False, **config)


def text_parts(kind, suffix=""):
    """A small text encoder ("clip", "t5" or "bert") and its tokenizer, under the names of a pipeline's components."""
    encoder = {"clip": clip, "t5": t5, "bert": bert}[kind]
    tokenizer = {"clip": clip_tokenizer, "t5": t5_tokenizer, "bert": bert_tokenizer}[kind]
    return {f"text_encoder{suffix}": encoder(), f"tokenizer{suffix}": tokenizer()}


def language_parts(name, suffix="", **config):
    """A language model and its tokenizer (Gemma's or Qwen's), under the names of a pipeline's components."""
    tokenizer = gemma_tokenizer if name.startswith("Gemma") else qwen_tokenizer
    return {f"text_encoder{suffix}": language_model(name, **config), f"tokenizer{suffix}": tokenizer()}
