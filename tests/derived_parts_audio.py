"""Recipes for pipelines that make sound."""

from __future__ import annotations

from typing import Any

import torch

from tests.derived_recipe import Recipe, recipes
from tests.zoo_audio import AUDIO, RATE, oobleck
from tests.zoo_configs import UNET_OF_SOUNDS
from tests.zoo_parts import enliven, flow, gemma_tokenizer, language_model, language_parts, make, scheduler

SECONDS = 0.064


def _of(family: str) -> dict[str, Any]:
    return dict(AUDIO[family].build().components)


def _ldm() -> dict[str, Any]:
    """AudioLDM: a U-Net that is told the prompt by one embedding, beside the time."""
    from transformers import ClapTextModelWithProjection

    parts = _of("audioldm2")
    net = make(
        "UNet2DConditionModel",
        **UNET_OF_SOUNDS,
        cross_attention_dim=(8, 16),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=16,
        class_embeddings_concat=True,
    )
    torch.manual_seed(0)
    text = enliven(ClapTextModelWithProjection(parts["text_encoder"].config.text_config)).eval()
    return parts | {"unet": net, "text_encoder": text}


def _dance() -> dict[str, Any]:
    net = make(
        "UNet1DModel",
        block_out_channels=(32, 32, 64),
        extra_in_channels=64,
        sample_size=64,
        sample_rate=RATE,
        in_channels=2,
        out_channels=2,
    )
    return {"unet": net, "scheduler": scheduler("IPNDMScheduler")}


def _stable_audio_3() -> dict[str, Any]:
    from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder

    torch.manual_seed(0)
    return {
        "vae": make(
            "AutoencoderSAME",
            patch_size=4,
            encoder_channels=8,
            encoder_c_mults=(1,),
            encoder_strides=(2,),
            encoder_transformer_depths=(1,),
            latent_dim=4,
            dim_heads=8,
            sampling_rate=RATE,
        ),
        **language_parts("Gemma2Model"),
        "duration_embedder": StableAudio3DurationEmbedder(output_dim=16, fourier_dim=8).eval(),
        "transformer": make(
            "StableAudio3DiTModel",
            io_channels=4,
            embed_dim=16,
            depth=1,
            num_heads=2,
            cond_token_dim=16,
            global_cond_dim=16,
            local_add_cond_dim=5,
            timestep_features_dim=8,
            ff_mult=2.0,
            num_memory_tokens=2,
        ),
        "scheduler": flow(),
    }


def _longcat() -> dict[str, Any]:
    coder = make(
        "LongCatAudioDiTVae",
        channels=8,
        c_mults=[1, 2],
        strides=[2, 4],
        latent_dim=4,
        encoder_latent_dim=8,
        downsampling_ratio=8,
        sample_rate=RATE,
    )
    text = make(
        "UMT5EncoderModel",
        vocab_size=320,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        relative_attention_num_buckets=8,
    )
    net = make(
        "LongCatAudioDiTTransformer",
        dit_dim=16,
        dit_depth=1,
        dit_heads=2,
        dit_text_dim=16,
        latent_dim=4,
        ff_mult=2.0,
    )
    return {
        "vae": coder,
        "text_encoder": text,
        "tokenizer": gemma_tokenizer(),
        "transformer": net,
        "scheduler": flow(shift=1.0, invert_sigmas=True),
    }


def _ace() -> dict[str, Any]:
    from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder

    inside = {"hidden_size": 16, "intermediate_size": 16, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 4}
    torch.manual_seed(0)
    told = AceStepConditionEncoder(
        text_hidden_dim=16,
        timbre_hidden_dim=3,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
        **inside,
        **heads,
    )
    net = make(
        "AceStepTransformer1DModel",
        num_hidden_layers=2,
        in_channels=9,
        audio_acoustic_hidden_dim=3,
        **inside,
        **heads,
    )
    return {
        "vae": oobleck(),
        "text_encoder": language_model("Qwen3Model"),
        "tokenizer": gemma_tokenizer(),
        "transformer": net,
        "condition_encoder": enliven(told).eval(),
        "scheduler": flow(),
    }


def _sound() -> torch.Tensor:
    return torch.sin(torch.arange(1024, dtype=torch.float32)).reshape(1, 2, 512) / 2


SOUNDS: dict[str, Recipe] = (
    recipes("AudioLDM2", "", lambda: _of("audioldm2"), audio_length_in_s=SECONDS)
    | recipes("StableAudio", "", lambda: _of("stable_audio"), audio_end_in_s=SECONDS)
    | recipes("AudioLDM", "", _ldm, audio_length_in_s=SECONDS)
    | recipes("DanceDiffusion", "", _dance, audio_length_in_s=0.008)
    | recipes("StableAudio3", "", _stable_audio_3, duration=SECONDS)
    | recipes("StableAudio3AudioToAudio", "", _stable_audio_3, duration=SECONDS, audio=_sound())
    | recipes(
        "StableAudio3Inpaint",
        "",
        _stable_audio_3,
        duration=SECONDS,
        audio=_sound(),
        mask_start_seconds=0.0,
        mask_end_seconds=SECONDS / 2,
    )
    | recipes("LongCatAudioDiT", "", _longcat, audio_duration_s=SECONDS)
    | recipes("AceStep", "", _ace, audio_duration=1.0)
)
