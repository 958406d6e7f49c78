"""Recipes for HunyuanImage, and for Amused, which draws codes instead of latents."""

from __future__ import annotations

from typing import Any

from tests.derived_parts_cascades import vq
from tests.derived_parts_texts import byte_tokenizer, vision_parts
from tests.derived_recipe import Recipe, recipes
from tests.zoo_configs import HUNYUAN
from tests.zoo_parts import clip, clip_tokenizer, flow, make, scheduler, t5

GUIDED = HUNYUAN | {"rope_axes_dim": (4, 4), "guidance_embeds": True}


def _hunyuan_image() -> dict[str, Any]:
    net = make("HunyuanImageTransformer2DModel", **GUIDED, text_embed_2_dim=16)
    autoencoder = make(
        "AutoencoderKLHunyuanImage",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=16,
        scaling_factor=0.5,
    )
    return {
        "transformer": net,
        "vae": autoencoder,
        "scheduler": flow(),
        **vision_parts(),
        "text_encoder_2": t5(),
        "tokenizer_2": byte_tokenizer(),
        "guider": None,
        "ocr_guider": None,
    }


def _refiner() -> dict[str, Any]:
    net = make(
        "HunyuanImageTransformer2DModel",
        **GUIDED
        | {"in_channels": 16, "out_channels": 8, "patch_size": (1, 1, 1), "rope_axes_dim": (2, 2, 4)},
    )
    autoencoder = make(
        "AutoencoderKLHunyuanImageRefiner",
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        temporal_compression_ratio=2,
    )
    return _hunyuan_image() | {"transformer": net, "vae": autoencoder}


def _amused() -> dict[str, Any]:
    net = make(
        "UVit2DModel",
        hidden_size=8,
        cond_embed_dim=8,
        micro_cond_encode_dim=2,
        micro_cond_embed_dim=10,
        encoder_hidden_size=8,
        vocab_size=33,
        codebook_size=32,
        in_channels=8,
        block_out_channels=8,
        num_res_blocks=1,
        block_num_heads=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        sample_size=8,
    )
    return {
        **vq(8, lookup_from_codebook=True),
        "transformer": net,
        "text_encoder": clip(projection=True),
        "tokenizer": clip_tokenizer(),
        "scheduler": scheduler("AmusedScheduler", mask_token_id=32),
    }


CODES: dict[str, Recipe] = (
    recipes("HunyuanImage", "", _hunyuan_image)
    | recipes("HunyuanImageRefiner", "", _refiner)
    | recipes("Amused AmusedImg2Img AmusedInpaint", "", _amused)
)
