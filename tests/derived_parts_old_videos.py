"""Recipes for video pipelines around UNets, unCLIP, UniDiffuser and Versatile Diffusion."""

from __future__ import annotations

from typing import Any

import torch

from tests.derived_parts_cascades import BLOCKS_3D, SMALL_3D, pixels, prior, unclip
from tests.derived_parts_editing import seeing
from tests.derived_recipe import LEFT_OUT, Recipe, clip_processor, recipes
from tests.zoo_configs import CROSS_FIRST_2D, RESAMPLING
from tests.zoo_parts import clip, clip_tokenizer, clip_vision, enliven, make, stable, vae
from tests.zoo_unets import SMALL, unet


def _text_video() -> dict[str, Any]:
    return {
        "unet": make("UNet3DConditionModel", **SMALL_3D, **BLOCKS_3D),
        "scheduler": stable(clip_sample=False),
    }


def _image_video() -> dict[str, Any]:
    blocks = {k: v for k, v in BLOCKS_3D.items() if k != "attention_head_dim"}
    net = make("I2VGenXLUNet", **SMALL_3D, **blocks, attention_head_dim=8, num_attention_heads=None)
    return {"unet": net, **seeing(), "scheduler": stable(clip_sample=False)}


def _stable_video() -> dict[str, Any]:
    net = make(
        "UNetSpatioTemporalConditionModel",
        **SMALL_3D | {"block_out_channels": (32, 32)},
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_attention_heads=(2, 2),
        num_frames=3,
    )
    return {
        "vae": make(
            "AutoencoderKLTemporalDecoder",
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
        ),
        "unet": net,
        **seeing(image=224),
        "scheduler": stable("EulerDiscreteScheduler", prediction_type="v_prediction", use_karras_sigmas=True),
    }


def _motion_beside(channels: int) -> dict[str, Any]:
    return {"unet": unet(in_channels=channels)}


def _unclip_decoder() -> dict[str, Any]:
    from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel

    torch.manual_seed(0)
    size = {"clip_embeddings_dim": 16, "time_embed_dim": 32, "cross_attention_dim": 8}
    net = unet(in_channels=3, out_channels=6, **RESAMPLING, class_embed_type="identity")
    upscale = {"in_channels": 6, "out_channels": 3, "sample_size": 32}
    steps = {"variance_type": "learned_range", "prediction_type": "epsilon", "num_train_timesteps": 1000}
    return {
        "decoder": net,
        "text_proj": enliven(UnCLIPTextProjModel(clip_extra_context_tokens=4, **size)).eval(),
        "text_encoder": clip(16, projection=True),
        "tokenizer": clip_tokenizer(),
        "super_res_first": pixels("DDPMScheduler", **upscale)["unet"],
        "super_res_last": pixels("DDPMScheduler", **upscale)["unet"],
        "prior_scheduler": unclip(clip_sample_range=5.0),
        "decoder_scheduler": unclip(**steps),
        "super_res_scheduler": unclip(prediction_type="epsilon"),
        **prior("prior"),
        **seeing(size=16),
    }


def _versatile(encoder: str = "CLIPTextModelWithProjection") -> dict[str, Any]:
    from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import UNetFlatConditionModel

    torch.manual_seed(0)
    flat = SMALL | {
        "down_block_types": ("CrossAttnDownBlockFlat", "DownBlockFlat"),
        "up_block_types": ("UpBlockFlat", "CrossAttnUpBlockFlat"),
        "sample_size": 8,
    }
    return {
        "image_unet": unet(**CROSS_FIRST_2D),
        "text_unet": enliven(UNetFlatConditionModel(**flat)).eval(),
        "text_encoder": clip(projection=True),
        "tokenizer": clip_tokenizer(),
        "image_encoder": clip_vision(size=8),
        "image_feature_extractor": clip_processor(),
        "vae": vae(),
        "scheduler": stable(clip_sample=False),
    }


STAGES = {
    "prior_num_inference_steps": 2,
    "decoder_num_inference_steps": 2,
    "super_res_num_inference_steps": 2,
}
OLD_VIDEOS: dict[str, Recipe] = (
    recipes("TextToVideoSD", "stable_diffusion", _text_video, num_frames=3)
    | recipes("VideoToVideoSD", "stable_diffusion", _text_video)
    | recipes("I2VGenXL", "stable_diffusion", _image_video, num_frames=3, clip_skip=None)
    | recipes("StableVideoDiffusion", "", _stable_video, num_frames=3, decode_chunk_size=3)
    | recipes("PIA", "animatediff", lambda: _motion_beside(9))
    | recipes("UnCLIP", "", _unclip_decoder, **STAGES)
    | recipes(
        "UnCLIPImageVariation", "", _unclip_decoder, **{k: v for k, v in STAGES.items() if "prior" not in k}
    )
    | recipes("VersatileDiffusionTextToImage", "", _versatile)
    | recipes("VersatileDiffusionImageVariation", "", _versatile, negative_prompt=LEFT_OUT)
)
