"""Recipes for diffusion transformers that make images from the zoo's families: control, filling, editing."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.derived_recipe import LEFT_OUT, Recipe, picture, recipes, siglip_processor, siglip_vision
from tests.zoo_configs import FLUX, HUNYUAN_DIT, QWEN, SD3, sana
from tests.zoo_parts import make, scheduler, shifted_vae

GUIDED = FLUX | {"pooled_projection_dim": 8, "guidance_embeds": True}


def flux(channels: int) -> dict[str, Any]:
    return {
        "transformer": make(
            "FluxTransformer2DModel", **GUIDED | {"in_channels": channels, "out_channels": 16}
        )
    }


def _flux_control(**more: Any) -> dict[str, Any]:
    return {"controlnet": make("FluxControlNetModel", **GUIDED | more)}


def _redux() -> dict[str, Any]:
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    return {
        "image_encoder": siglip_vision(),
        "feature_extractor": siglip_processor(),
        "image_embedder": ReduxImageEncoder(redux_dim=16, txt_in_features=16).eval(),
    }


def _sd3_control(**more: Any) -> dict[str, Any]:
    return {"controlnet": make("SD3ControlNetModel", **SD3 | {"num_layers": 1} | more)}


def _sd3_inpaint() -> dict[str, Any]:
    transformer = make("SD3Transformer2DModel", **SD3 | {"in_channels": 16, "out_channels": 16})
    return {"transformer": transformer, "vae": shifted_vae(latent=16)}


def _hunyuan_control() -> dict[str, Any]:
    made = make("HunyuanDiT2DControlNetModel", **HUNYUAN_DIT, transformer_num_layers=2)
    return {"controlnet": made}


def _qwen_control(**more: Any) -> dict[str, Any]:
    return {"controlnet": make("QwenImageControlNetModel", **QWEN | more)}


def _sana_control() -> dict[str, Any]:
    transformer = make("SanaTransformer2DModel", **sana() | {"num_layers": 2})
    return {"controlnet": make("SanaControlNetModel", **sana()), "transformer": transformer}


def _sprint() -> dict[str, Any]:
    transformer = make(
        "SanaTransformer2DModel", **sana(), guidance_embeds=True, qk_norm="rms_norm_across_heads"
    )
    return {"transformer": transformer, "scheduler": scheduler("SCMScheduler")}


def _z_control(channels: int) -> dict[str, Any]:
    made = make(
        "ZImageControlNetModel",
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=channels,
        add_control_noise_refiner="control_noise_refiner",
        dim=16,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    return {"controlnet": made}


def _first_block() -> dict[str, Any]:
    return {"pag_applied_layers": "blocks.0"}


SHORT = {"max_sequence_length": 32}
TASK = {"task_prompt": "turn red", "content_prompt": "a red cube"}
TEXT_INSTEAD = {"prompt": LEFT_OUT, "height": LEFT_OUT, "width": LEFT_OUT, "negative_prompt": LEFT_OUT}
IMAGES: dict[str, Recipe] = (
    recipes("FluxControl FluxControlImg2Img FluxControlInpaint", "flux", partial(flux, 32))
    | recipes("FluxControlNet FluxControlNetImg2Img FluxControlNetInpaint", "flux", _flux_control)
    | recipes("FluxPriorRedux", "flux", _redux)
    | recipes(
        "VisualClozeGeneration VisualCloze",
        "flux",
        lambda: flux(48) | {"resolution": 16},
        **TASK,
        image=[[picture(16), picture(16)], [picture(16), None]],
    )
    | recipes("Flux2KleinKV", "flux2_klein", image=picture(64), height=64, width=64)
    | recipes("StableDiffusion3ControlNet", "sd3", _sd3_control)
    | recipes(
        "StableDiffusion3ControlNetInpainting", "sd3", partial(_sd3_control, extra_conditioning_channels=1)
    )
    | recipes("StableDiffusion3Inpaint", "sd3", _sd3_inpaint)
    | recipes("HunyuanDiTControlNet", "hunyuan_dit", _hunyuan_control)
    | recipes("QwenImageControlNet", "qwen_image", _qwen_control)
    | recipes("QwenImageControlNetInpaint", "qwen_image", partial(_qwen_control, extra_condition_channels=4))
    | recipes("SanaControlNet", "sana", _sana_control)
    | recipes("SanaSprint", "sana", _sprint, num_inference_steps=2)
    | recipes("SanaSprintImg2Img", "sana", _sprint, num_inference_steps=2, strength=1.0)
    | recipes("ZImageControlNet", "z_image", partial(_z_control, 4))
    | recipes("ZImageControlNetInpaint", "z_image", partial(_z_control, 9))
    | recipes("PixArtSigmaPAG", "pixart_sigma", _first_block)
)
