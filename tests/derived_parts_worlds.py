"""Recipes for further families of video transformers: Cosmos, Kandinsky 5, EasyAnimate, Motif, Sana, LTX-2."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from tests import zoo_configs
from tests.derived_parts_texts import qwen_vision, qwen_vision_processor
from tests.derived_recipe import LEFT_OUT, Recipe, recipes, siglip_processor
from tests.zoo_configs import FOUR, HEADS
from tests.zoo_parts import (
    clip,
    clip_tokenizer,
    flow,
    language_parts,
    make,
    qwen_tokenizer,
    scheduler,
    shifted_vae,
    text_parts,
    vae,
)
from tests.zoo_transformers import sana
from tests.zoo_videos import hunyuan_video, wan

TEXT_VIDEO = {"attention_head_dim": 12, "num_attention_heads": 2}


def _allegro() -> dict[str, Any]:
    net = make(
        "AllegroTransformer3DModel",
        **TEXT_VIDEO,
        num_layers=1,
        cross_attention_dim=24,
        sample_height=8,
        sample_width=8,
        sample_frames=3,
        caption_channels=16,
    )
    autoencoder = make(
        "AutoencoderKLAllegro",
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=32,
    )
    autoencoder.enable_tiling()  # it decodes no other way
    return {
        "transformer": net,
        "vae": autoencoder,
        "scheduler": scheduler("EulerAncestralDiscreteScheduler"),
        **text_parts("t5"),
    }


def _latte() -> dict[str, Any]:
    net = make(
        "LatteTransformer3DModel",
        **HEADS,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=16,
        video_length=3,
    )
    return {"transformer": net, "vae": vae(), "scheduler": scheduler("DDIMScheduler"), **text_parts("t5")}


def _safe() -> Any:
    """Stands for the weights of a safety checker: it lets everything pass."""

    class Passes(torch.nn.Module):
        device, dtype = torch.device("cpu"), torch.float32

        def check_text_safety(self, prompt: str) -> bool:
            return True

        def check_video_safety(self, video: Any) -> Any:
            return video

    return Passes()


COSMOS = {
    **FOUR,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "mlp_ratio": 1.0,
    "text_embed_dim": 16,
    "adaln_lora_dim": 4,
    "max_size": (4, 16, 16),
}


def _cosmos(channels: int = 4, **config: Any) -> dict[str, Any]:
    autoencoder = make(
        "AutoencoderKLCosmos",
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        patch_size=4,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    return {
        "transformer": make("CosmosTransformer3DModel", **COSMOS | {"in_channels": channels} | config),
        "vae": autoencoder,
        "scheduler": scheduler(
            "EDMEulerScheduler", sigma_min=0.002, sigma_max=80, final_sigmas_type="sigma_min"
        ),
        "safety_checker": _safe(),
        **text_parts("t5"),
    }


def _cosmos2(channels: int = 4, **config: Any) -> dict[str, Any]:
    own = {"extra_pos_embed_type": None, "concat_padding_mask": True, "rope_scale": (1.0, 4.0, 4.0)}
    return _cosmos(channels, **own | config) | {"vae": wan().vae, "scheduler": flow(use_karras_sigmas=True)}


def cosmos25(channels: int = 5, **config: Any) -> dict[str, Any]:
    parts = _cosmos2(channels, text_embed_dim=32, **config)
    flowing = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    return parts | {
        "scheduler": scheduler("UniPCMultistepScheduler", **flowing),
        "text_encoder": qwen_vision(),
        "tokenizer": qwen_tokenizer(),
    }


def _kandinsky5(image: bool = False, cond: bool = False) -> dict[str, Any]:
    net = make(
        "Kandinsky5Transformer3DModel",
        in_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=8,
        time_dim=8,
        out_visual_dim=4,
        model_dim=16,
        ff_dim=16,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(2, 2, 4),
        visual_cond=cond,
    )
    return {
        "transformer": net,
        "vae": shifted_vae(levels=4) if image else hunyuan_video().vae,
        "text_encoder": qwen_vision(),
        "tokenizer": qwen_vision_processor(),
        "text_encoder_2": clip(),
        "tokenizer_2": clip_tokenizer(),
        "scheduler": flow(),
    }


def _easy(channels: int = 4) -> dict[str, Any]:
    net = make(
        "EasyAnimateTransformer3DModel",
        **FOUR | {"in_channels": channels},
        num_attention_heads=2,
        attention_head_dim=16,
        patch_size=2,
        sample_width=8,
        sample_height=8,
        mmdit_layers=1,
        time_embed_dim=8,
        text_embed_dim=16,
        time_position_encoding_type="3d_rope",
        resize_inpaint_mask_directly=False,
    )
    autoencoder = make(
        "AutoencoderKLMagvit",
        latent_channels=4,
        block_out_channels=[8, 8, 8, 8],
        layers_per_block=1,
        norm_num_groups=2,
    )
    return {
        "transformer": net,
        "vae": autoencoder,
        "text_encoder": qwen_vision("Qwen2VLForConditionalGeneration"),
        "tokenizer": qwen_vision_processor().tokenizer,
        "scheduler": flow(),
    }


def _motif() -> dict[str, Any]:
    from diffusers.guiders import ClassifierFreeGuidance

    net = make(
        "MotifVideoTransformer3DModel",
        in_channels=9,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        text_embed_dim=16,
        rope_axes_dim=(2, 2, 4),
        **HEADS,
    )
    return {
        "transformer": net,
        "vae": wan().vae,
        **language_parts("Gemma2Model"),
        "scheduler": flow(),
        "guider": ClassifierFreeGuidance(guidance_scale=3.0),
        "feature_extractor": siglip_processor(),
    }


def _sana_video() -> dict[str, Any]:
    net = make("SanaVideoTransformer3DModel", **zoo_configs.sana(head=12), rope_max_seq_len=32)
    return {"transformer": net, "vae": wan().vae, "scheduler": sana().scheduler}


def _sana_images() -> dict[str, Any]:
    return _sana_video() | {"scheduler": flow()}


INSTRUCTED = {"complex_human_instruction": None, "frames": 5, "use_resolution_binning": False}
FILM = {
    "video": torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)),
    "mask_video": torch.ones(1, 1, 5, 32, 32),
}
WORLDS: dict[str, Recipe] = (
    recipes("Allegro", "", _allegro, height=32, width=32, num_frames=8, clean_caption=False)
    | recipes("Latte", "", _latte, video_length=3, clean_caption=False)
    | recipes("CosmosTextToWorld", "", _cosmos, height=32, width=32)
    | recipes("CosmosVideoToWorld", "", partial(_cosmos, 5), height=32, width=32, video=LEFT_OUT)
    | recipes("Cosmos2TextToImage", "", _cosmos2)
    | recipes("Cosmos2VideoToWorld", "", partial(_cosmos2, 5), video=LEFT_OUT)
    | recipes("Cosmos2_5_PredictBase", "", partial(cosmos25, 5), video=LEFT_OUT)
    | recipes("Kandinsky5T2V", "", _kandinsky5, height=32, width=32)
    | recipes("Kandinsky5T2I", "", partial(_kandinsky5, image=True), height=32, width=32)
    | recipes(
        "Kandinsky5I2I",
        "",
        partial(_kandinsky5, image=True, cond=True),
        {"resolutions": [(32, 32)]},
        max_sequence_length=LEFT_OUT,
        height=32,
        width=32,
    )
    | recipes("EasyAnimate", "", _easy, height=32, width=32)
    | recipes("EasyAnimateInpaint", "", partial(_easy, 12), **FILM, height=32, width=32)
    | recipes("MotifVideo", "", _motif)
    | recipes("SanaVideo", "sana", _sana_video, **INSTRUCTED, height=32, width=32)
    | recipes("SanaImageToVideo", "sana", _sana_images, **INSTRUCTED, height=32, width=32)
)
