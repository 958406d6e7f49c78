"""Recipes for families of image transformers that the zoo does not have."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.derived_parts_texts import gemma_encoder, vision_parts
from tests.derived_recipe import Recipe, recipes
from tests.zoo_configs import AXES, FLUX, FOUR, HEADS
from tests.zoo_parts import (
    WAN_VAE,
    flow,
    gemma_tokenizer,
    language_parts,
    make,
    scheduler,
    shifted_vae,
    text_parts,
    vae,
)


def _dit() -> dict[str, Any]:
    transformer = make(
        "DiTTransformer2DModel", out_channels=8, num_layers=1, sample_size=8, norm_num_groups=4, **HEADS
    )
    return {"transformer": transformer, "vae": vae(), "scheduler": scheduler("DDIMScheduler")}


def _lumina() -> dict[str, Any]:
    transformer = make(
        "LuminaNextDiT2DModel",
        sample_size=8,
        hidden_size=24,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=16,
    )
    return {
        "transformer": transformer,
        "vae": vae(levels=3),
        "scheduler": flow(),
        **language_parts("Gemma2Model"),
    }


COG = {
    **FOUR,
    "text_embed_dim": 16,
    "time_embed_dim": 16,
    "condition_dim": 8,
    "pos_embed_max_size": 16,
    "sample_size": 8,
    **HEADS,
}


def _cogview3() -> dict[str, Any]:
    plan = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return {
        "transformer": make("CogView3PlusTransformer2DModel", **COG),
        "vae": vae(),
        "scheduler": scheduler("CogVideoXDDIMScheduler", **plan),
        **text_parts("t5"),
    }


def _cogview4(channels: int = 4) -> dict[str, Any]:
    transformer = make("CogView4Transformer2DModel", **COG | {"in_channels": channels}, rope_axes_dim=(4, 4))
    return {
        "transformer": transformer,
        "vae": vae(),
        "scheduler": flow(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75),
        **language_parts("GlmModel"),
    }


def _ovis() -> dict[str, Any]:
    return {
        "transformer": make("OvisImageTransformer2DModel", out_channels=16, **FLUX),
        "vae": shifted_vae(),
        "scheduler": flow(use_dynamic_shifting=True),
        **language_parts("Qwen3Model"),
    }


def _bria() -> dict[str, Any]:
    return {
        "transformer": make(
            "BriaTransformer2DModel", pooled_projection_dim=None, guidance_embeds=False, **FLUX
        ),
        "vae": vae(levels=4),
        "scheduler": flow(use_dynamic_shifting=True),
        **text_parts("t5"),
    }


def _fibo() -> dict[str, Any]:
    net = make(
        "BriaFiboTransformer2DModel",
        **FLUX | {"in_channels": 4, "joint_attention_dim": 32},
        text_encoder_dim=16,
    )
    autoencoder = make(
        "AutoencoderKLWan",
        **WAN_VAE | {"dim_mult": [1, 1, 1, 1, 1], "temperal_downsample": [False, True, True, False]},
    )
    return {
        "transformer": net,
        "vae": autoencoder,
        "scheduler": flow(use_dynamic_shifting=True),
        **language_parts("SmolLM3ForCausalLM"),
    }


PRX = {
    "context_in_dim": 16,
    "hidden_size": 16,
    "mlp_ratio": 1.0,
    "num_heads": 2,
    "depth": 1,
    "axes_dim": [4, 4],
}


def _prx(name: str = "T5GemmaEncoder") -> dict[str, Any]:
    return {
        "transformer": make("PRXTransformer2DModel", in_channels=4, **PRX),
        "vae": shifted_vae(),
        "scheduler": flow(),
        "text_encoder": gemma_encoder(name),
        "tokenizer": gemma_tokenizer(),
    }


def _prx_pixel() -> dict[str, Any]:
    return {
        "transformer": make("PRXTransformer2DModel", in_channels=3, bottleneck_size=8, **PRX),
        "scheduler": flow(),
        **language_parts("Qwen3Model"),
        "prompt_max_tokens": 32,
    }


def _krea2() -> dict[str, Any]:
    net = make(
        "Krea2Transformer2DModel",
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=AXES,
    )
    return {
        "transformer": net,
        "vae": make("AutoencoderKLQwenImage", **WAN_VAE),
        "scheduler": flow(use_dynamic_shifting=True),
        **vision_parts("Qwen3VLModel"),
        "text_encoder_select_layers": (0, 1),
    }


def _ernie() -> dict[str, Any]:
    net = make(
        "ErnieImageTransformer2DModel",
        hidden_size=16,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=16,
        in_channels=16,
        out_channels=16,
        text_in_dim=16,
        rope_axes_dim=AXES,
    )
    return {
        "transformer": net,
        "vae": vae(name="AutoencoderKLFlux2"),
        "scheduler": flow(),
        **language_parts("Qwen3Model"),
    }


def _ideogram() -> dict[str, Any]:
    config = {
        "in_channels": 16,
        "num_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "adaln_dim": 8,
        "llm_features_dim": 13 * 16,
        "mrope_section": (2, 2, 2),
    }
    return {
        "transformer": make("Ideogram4Transformer2DModel", **config),
        "unconditional_transformer": make("Ideogram4Transformer2DModel", seed=1, **config),
        "vae": vae(name="AutoencoderKLFlux2"),
        "scheduler": flow(),
        **vision_parts("Qwen3VLModel", layers=36),  # the pipeline reads 13 of 36
    }


PLAIN = {"use_resolution_binning": False}
NEWER: dict[str, Recipe] = (
    recipes("DiT", "", _dit, class_labels=[1])
    | recipes("Lumina", "", _lumina, height=64, width=64)
    | recipes("CogView3Plus", "", _cogview3)
    | recipes("CogView4", "", _cogview4)
    | recipes("CogView4Control", "", partial(_cogview4, 8))
    | recipes("OvisImage", "", _ovis)
    | recipes("Bria", "", _bria, height=64, width=64)
    | recipes("BriaFibo", "", _fibo, height=64, width=64)
    | recipes(
        "BriaFiboEdit",
        "",
        _fibo,
        height=64,
        width=64,
        prompt='{"edit_instruction": "a red cube"}',
        _auto_resize=False,
    )
    | recipes("PRX", "", _prx, **PLAIN)
    | recipes("PRXPixel", "", _prx_pixel, **PLAIN)
    | recipes("Krea2", "", _krea2)
    | recipes("ErnieImage", "", _ernie, use_pe=False)
    | recipes("Ideogram4", "", _ideogram, guidance_scale=3.0, guidance_schedule=None)
)
