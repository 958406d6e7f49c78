"""Recipes for pipelines around a UNet: control, adapters, editing, cascades, pixels. See `derived`."""

from __future__ import annotations

from typing import Any

from tests.derived_recipe import (
    Recipe,
    picture,
    recipes,
)
from tests.zoo_configs import CROSS_FIRST_2D, RESAMPLING
from tests.zoo_parts import make, scheduler, t5, t5_tokenizer
from tests.zoo_unets import SMALL, XL, unet

HINT = {"conditioning_embedding_out_channels": (8, 16)}


def controlnet(config: dict[str, Any] = SMALL) -> dict[str, Any]:
    return {"controlnet": make("ControlNetModel", **HINT, **config)}


def _union() -> dict[str, Any]:
    union = {
        "num_control_type": 6,
        "num_trans_channel": 8,
        "num_proj_channel": 8,
        "num_trans_head": 2,
        "num_trans_layer": 1,
    }
    return {"controlnet": make("ControlNetUnionModel", **HINT, **XL, **union)}


def _xs(config: dict[str, Any]) -> dict[str, Any]:
    from diffusers import ControlNetXSAdapter

    from tests.zoo_parts import enliven

    net = unet(**config | {"layers_per_block": 2})
    made = ControlNetXSAdapter.from_unet(net, size_ratio=1.0, **HINT)
    return {"unet": net, "controlnet": enliven(made).eval()}


def _adapter(config: dict[str, Any]) -> dict[str, Any]:
    made = make("T2IAdapter", channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    return {"unet": unet(**config | CROSS_FIRST_2D), "adapter": made}


def _sparse() -> dict[str, Any]:
    blocks = {
        "down_block_types": ("DownBlockMotion", "CrossAttnDownBlockMotion"),
        "motion_num_attention_heads": 2,
    }
    return {"controlnet": make("SparseControlNetModel", conditioning_channels=4, **SMALL | blocks)}


def _xl_motion() -> dict[str, Any]:
    from tests.zoo import ZOO

    return {"motion_adapter": ZOO["animatediff"].build().motion_adapter}


def _pixel_unet(channels: int = 3, **more: Any) -> Any:
    return unet(
        in_channels=channels, out_channels=6, **RESAMPLING, encoder_hid_dim=16, sample_size=16, **more
    )


def _floyd() -> dict[str, Any]:
    learned = {"variance_type": "learned_range", "beta_schedule": "squaredcos_cap_v2"}
    return {
        "tokenizer": t5_tokenizer(),
        "text_encoder": t5(),
        "unet": _pixel_unet(),
        "scheduler": scheduler("DDPMScheduler", **learned),
        "image_noising_scheduler": scheduler("DDPMScheduler", **learned),
        "watermarker": None,
    }


def _floyd_upscale() -> dict[str, Any]:
    return _floyd() | {"unet": _pixel_unet(6, class_embed_type="timestep")}


FLOYD = {"clean_caption": False, "prompt": "a red cube"}
UNETS: dict[str, Recipe] = (
    recipes(
        "StableDiffusionControlNet StableDiffusionControlNetImg2Img StableDiffusionControlNetInpaint"
        " StableDiffusionControlNetPAG StableDiffusionControlNetPAGInpaint",
        "stable_diffusion",
        controlnet,
    )
    | recipes("AnimateDiffControlNet AnimateDiffVideoToVideoControlNet", "animatediff", controlnet)
    | recipes("AnimateDiffSparseControlNet", "animatediff", _sparse, conditioning_frames=[picture(16)])
    | recipes("AnimateDiffSDXL", "sdxl", _xl_motion, num_frames=3)
    | recipes(
        "StableDiffusionXLControlNetUnion StableDiffusionXLControlNetUnionImg2Img"
        " StableDiffusionXLControlNetUnionInpaint",
        "sdxl",
        _union,
        control_image=[picture(16)],
        control_mode=[0],
    )
    | recipes("StableDiffusionControlNetXS", "stable_diffusion", lambda: _xs({}))
    | recipes("StableDiffusionXLControlNetXS", "sdxl", lambda: _xs(XL))
    | recipes("StableDiffusionAdapter", "stable_diffusion", lambda: _adapter({}))
    | recipes("StableDiffusionXLAdapter", "sdxl", lambda: _adapter(XL))
    | recipes("IF", "", _floyd, **FLOYD)
    | recipes("IFImg2Img IFInpainting", "", _floyd, **FLOYD)
    | recipes(
        "IFSuperResolution",
        "",
        _floyd_upscale,
        **FLOYD,
        image=picture(8),
    )
    | recipes(
        "IFImg2ImgSuperResolution IFInpaintingSuperResolution",
        "",
        _floyd_upscale,
        **FLOYD,
        original_image=picture(8),
    )
)
