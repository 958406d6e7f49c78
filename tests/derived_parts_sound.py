"""Recipes for LTX-2, which makes a video and its sound together."""

from __future__ import annotations

from typing import Any

from tests.derived_recipe import Recipe, recipes
from tests.zoo_configs import FOUR, HEADS
from tests.zoo_parts import enliven, flow, language_parts, make


def _ltx2() -> dict[str, Any]:
    from diffusers.pipelines.ltx2 import LTX2TextConnectors
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    net = make(
        "LTX2VideoTransformer3DModel",
        **FOUR,
        **HEADS,
        cross_attention_dim=16,
        vae_scale_factors=(1, 4, 4),
        audio_in_channels=8,
        audio_out_channels=8,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        caption_channels=16,
        rope_double_precision=False,
    )
    video = make(
        "AutoencoderKLLTX2Video",
        latent_channels=4,
        block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",),
        decoder_block_out_channels=(8,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=4,
        spatial_compression_ratio=8,
        temporal_compression_ratio=1,
    )
    sound = make(
        "AutoencoderKLLTX2Audio",
        base_channels=8,
        ch_mult=(1, 1, 1),
        num_res_blocks=1,
        resolution=16,
        latent_channels=2,
        mel_bins=16,
    )
    sizes = {"attention_head_dim": 8, "num_attention_heads": 2, "num_layers": 1, "num_learnable_registers": 8}
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=3,
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        **{f"video_connector_{key}": value for key, value in sizes.items()},
        **{f"audio_connector_{key}": value for key, value in sizes.items()},
    )
    vocoder = LTX2Vocoder(
        in_channels=32,
        hidden_channels=8,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1]],
    )
    return {
        "transformer": net,
        "vae": video,
        "audio_vae": sound,
        **language_parts("Gemma2Model"),
        "connectors": enliven(connectors).eval(),
        "vocoder": enliven(vocoder).eval(),
        "scheduler": flow(),
    }


SMALL = {"height": 32, "width": 32, "num_frames": 3}
SOUND: dict[str, Recipe] = recipes(
    "LTX2 LTX2ImageToVideo LTX2Condition LTX2InContext LTX2HDR", "", _ltx2, **SMALL
)
