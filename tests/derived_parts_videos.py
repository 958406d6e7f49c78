"""Recipes for video transformers of the Wan, CogVideoX, HunyuanVideo and LTX kinds."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.derived_parts_texts import byte_tokenizer
from tests.derived_recipe import (
    LEFT_OUT,
    Recipe,
    clip_processor,
    mask,
    picture,
    recipes,
    siglip_processor,
    siglip_vision,
)
from tests.zoo_configs import COGVIDEOX, HEADS, HUNYUAN_VIDEO, WAN, vision
from tests.zoo_parts import (
    ROPE,
    WAN_VAE,
    clip_vision,
    flow,
    language_parts,
    make,
    qwen_tokenizer,
    scheduler,
    t5,
)
from tests.zoo_videos import wan_transformer

UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
IMAGE = 257  # the first mark after the bytes


def _seeing() -> dict[str, Any]:
    return {"image_encoder": clip_vision("CLIPVisionModel"), "image_processor": clip_processor()}


def _wan_like(
    name: str = "WanTransformer3DModel", steps: str = "UniPCMultistepScheduler", **config: Any
) -> dict[str, Any]:
    plan = UNIPC if steps == "UniPCMultistepScheduler" else {}
    return {"transformer": make(name, **WAN | config), "scheduler": scheduler(steps, **plan)}


def _sky_images() -> dict[str, Any]:
    return (
        _wan_like(
            "SkyReelsV2Transformer3DModel",
            in_channels=10,
            image_dim=16,
            added_kv_proj_dim=24,
            rope_max_seq_len=32,
        )
        | _seeing()
    )


def _sky(**more: Any) -> dict[str, Any]:
    return _wan_like("SkyReelsV2Transformer3DModel", inject_sample_info=False, rope_max_seq_len=32, **more)


def _chrono() -> dict[str, Any]:
    small = {
        "in_channels": 10,
        "image_dim": 16,
        "added_kv_proj_dim": 24,
        "rope_max_seq_len": 32,
        "rope_temporal_skip_len": 2,
    }
    return {"transformer": make("ChronoEditTransformer3DModel", **WAN | small), **_seeing()}


def _animate() -> dict[str, Any]:
    small = {
        "in_channels": 4 + 4 + 4,
        "latent_channels": 4,
        "image_dim": 16,
        "added_kv_proj_dim": 24,
        "rope_max_seq_len": 32,
        "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
        "motion_encoder_size": 16,
        "motion_style_dim": 8,
        "motion_dim": 4,
        "motion_encoder_dim": 8,
        "face_encoder_hidden_dim": 8,
        "face_encoder_num_heads": 2,
        "inject_face_latents_blocks": 1,
    }
    shrinking = {"dim_mult": [1, 1, 1], "temperal_downsample": [True, True]}
    autoencoder = make(
        "AutoencoderKLWan", **WAN_VAE | shrinking, scale_factor_temporal=4, scale_factor_spatial=4
    )
    return _wan_like("WanAnimateTransformer3DModel", **small) | _seeing() | {"vae": autoencoder}


def _helios(**plan: Any) -> dict[str, Any]:
    return {
        "transformer": make("HeliosTransformer3DModel", **WAN, rope_dim=(4, 4, 4)),
        "scheduler": scheduler("HeliosScheduler", **plan),
    }


def _cogvideox(channels: int = 8) -> dict[str, Any]:
    rotary = {"in_channels": channels, "attention_head_dim": 16, "use_rotary_positional_embeddings": True}
    return {"transformer": make("CogVideoXTransformer3DModel", **COGVIDEOX | rotary)}


def _hunyuan(**config: Any) -> dict[str, Any]:
    net = make("HunyuanVideoTransformer3DModel", **HUNYUAN_VIDEO | {"patch_size": 1} | config)
    return {"transformer": net}


def _framepack() -> dict[str, Any]:
    net = make(
        "HunyuanVideoFramepackTransformer3DModel",
        **HUNYUAN_VIDEO,
        image_condition_type="latent_concat",
        has_image_proj=True,
        image_proj_dim=16,
        has_clean_x_embedder=True,
        patch_size=2,
    )
    return {"transformer": net, "image_encoder": siglip_vision(), "feature_extractor": siglip_processor()}


def _llava() -> dict[str, Any]:
    text = {
        "model_type": "llama",
        "vocab_size": 320,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 1024,
    }
    seen = vision() | {"model_type": "clip_vision_model", "intermediate_size": 16, "projection_dim": 16}
    encoder = make(
        "LlavaForConditionalGeneration", text_config=text, vision_config=seen, image_token_id=IMAGE
    )
    tokenizer = qwen_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    encoder.config.pad_token_id = 0
    parts = _hunyuan(in_channels=9, image_condition_type="latent_concat")
    return parts | {"text_encoder": encoder, "tokenizer": tokenizer, "image_processor": clip_processor()}


def _hunyuan15(task: str) -> dict[str, Any]:
    from diffusers.guiders import ClassifierFreeGuidance

    net = make(
        "HunyuanVideo15Transformer3DModel",
        in_channels=9,
        out_channels=4,
        num_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        text_embed_2_dim=16,
        image_embed_dim=16,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type=task,
        **HEADS,
    )
    autoencoder = make(
        "AutoencoderKLHunyuanVideo15",
        latent_channels=4,
        block_out_channels=(32, 32, 32),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    return {
        "transformer": net,
        "vae": autoencoder,
        **language_parts("Qwen2_5_VLTextModel", rope_parameters=dict(ROPE)),
        "text_encoder_2": t5(),
        "tokenizer_2": byte_tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=3.0),
        "scheduler": flow(),
        "image_encoder": siglip_vision(),
        "feature_extractor": siglip_processor(),
    }


def _plain_flow() -> dict[str, Any]:
    return {"scheduler": flow()}


def _ltx_upsampler() -> dict[str, Any]:
    from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

    return {
        "latent_upsampler": LTXLatentUpsamplerModel(
            in_channels=4, mid_channels=32, num_blocks_per_stage=1
        ).eval()
    }


FACES = {"pose_video": [picture(16)] * 5, "face_video": [picture(16)] * 5}
CHUNKS = {"num_frames": 9, "num_latent_frames_per_chunk": 5}
SEEN = {
    "template": "<image>{}",
    "crop_start": 0,
    "image_emb_start": 0,
    "image_emb_end": 4,
    "image_emb_len": 4,
}
FORCED = {"base_num_frames": 5, "num_frames": 5, "height": 16, "width": 16}
VIDEOS: dict[str, Recipe] = (
    recipes(
        "WanVACE",
        "wan",
        lambda: {
            "transformer": make("WanVACETransformer3DModel", **WAN, vace_layers=[0], vace_in_channels=12)
        },
        mask=[mask(16)] * 5,
        video=[picture(16)] * 5,
    )
    | recipes("LucyEdit", "wan", lambda: {"transformer": wan_transformer(in_channels=8)})
    | recipes("SkyReelsV2", "wan", _sky)
    | recipes("SkyReelsV2ImageToVideo", "wan", _sky_images)
    | recipes("SkyReelsV2DiffusionForcing SkyReelsV2DiffusionForcingImageToVideo", "wan", _sky, **FORCED)
    | recipes(
        "SkyReelsV2DiffusionForcingVideoToVideo", "wan", _sky, **FORCED | {"num_frames": 9}, overlap_history=3
    )
    | recipes("ChronoEdit", "wan", _chrono)
    | recipes("WanAnimate", "wan", _animate, **FACES, segment_frame_length=5)
    | recipes(
        "AnyFlow",
        "wan",
        partial(_wan_like, "AnyFlowTransformer3DModel", "FlowMapEulerDiscreteScheduler", rope_max_seq_len=32),
    )
    | recipes(
        "AnyFlowFAR",
        "wan",
        partial(
            _wan_like,
            "AnyFlowFARTransformer3DModel",
            "FlowMapEulerDiscreteScheduler",
            rope_max_seq_len=32,
            full_chunk_limit=2,
            chunk_partition=(1, 2),
        ),
        chunk_partition=[1, 2],
        video=LEFT_OUT,
    )
    | recipes("Helios", "wan", partial(_helios, stages=1), video=LEFT_OUT, image=LEFT_OUT, **CHUNKS)
    | recipes("HeliosPyramid", "wan", partial(_helios, gamma=0.25), video=LEFT_OUT, image=LEFT_OUT, **CHUNKS)
    | recipes("CogVideoXImageToVideo CogVideoXFunControl", "cogvideox", _cogvideox)
    | recipes("HunyuanSkyreelsImageToVideo", "hunyuan_video", partial(_hunyuan, in_channels=8))
    | recipes("HunyuanVideoImageToVideo", "hunyuan_video", _llava, prompt_template=SEEN)
    | recipes("HunyuanVideoFramepack", "hunyuan_video", _framepack, latent_window_size=2, num_frames=5)
    | recipes("HunyuanVideo15", "", partial(_hunyuan15, "t2v"))
    | recipes("HunyuanVideo15ImageToVideo", "", partial(_hunyuan15, "i2v"))
    | recipes("LTXCondition", "ltx", _plain_flow, video=LEFT_OUT)
    | recipes("LTXI2VLongMultiPrompt", "ltx_i2v", _plain_flow, output_type="pil")
    | recipes("LTXLatentUpsample", "ltx", _ltx_upsampler)
)
