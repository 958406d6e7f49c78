"""Recipes for pipelines whose text encoder sees pictures, too: editing with Qwen, LongCat and their kin."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.derived_parts_texts import qwen_vision, qwen_vision_processor, vision_parts, vision_tokenizer
from tests.derived_recipe import LEFT_OUT, Recipe, recipes
from tests.zoo_configs import AXES, FLUX, QWEN
from tests.zoo_parts import WAN_VAE, flow, make, shifted_vae, vae

AREA = 32 * 32  # of a picture that is edited, where the pipelines have 1024 x 1024


def _small_areas(module: str) -> None:
    """Let the pipelines of this module of diffusers edit small pictures: they have no argument for it."""
    import importlib

    found = importlib.import_module(f"diffusers.pipelines.{module}")
    original = found.calculate_dimensions
    if not hasattr(original, "small"):

        def small(target_area: int, ratio: float) -> Any:
            return original(AREA, ratio)

        small.small = True  # type: ignore[attr-defined]
        found.calculate_dimensions = small


def _edit(file: str, **config: Any) -> dict[str, Any]:
    _small_areas(f"qwenimage.pipeline_qwenimage_{file}")
    return {
        "transformer": make("QwenImageTransformer2DModel", **QWEN | config),
        **vision_parts(),
        "processor": qwen_vision_processor(),
    }


def _longcat(file: str = "") -> dict[str, Any]:
    if file:
        _small_areas(f"longcat_image.{file}")
    net = make("LongCatImageTransformer2DModel", **FLUX | {"in_channels": 64}, pooled_projection_dim=16)
    return {
        "transformer": net,
        "vae": shifted_vae(latent=16),
        "scheduler": flow(use_dynamic_shifting=True),
        **vision_parts(),
        "text_processor": qwen_vision_processor(),
    }


def _seeing3(layers: int = 2) -> dict[str, Any]:
    return {
        "text_encoder": qwen_vision("Qwen3VLForConditionalGeneration", layers),
        "processor": qwen_vision_processor("Qwen3VLProcessor", 16),
    }


def _dreamlite() -> dict[str, Any]:
    net = make(
        "DreamLiteUNetModel",
        sample_size=8,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        encoder_hid_dim=16,
        encoder_hid_dim_type="text_proj",
        use_linear_projection=True,
    )
    tiny = make(
        "AutoencoderTiny",
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    return {
        "unet": net,
        "vae": tiny,
        "scheduler": flow(use_dynamic_shifting=True),
        **_seeing3(),
        "tokenizer": vision_tokenizer(),
    }


def _nucleus() -> dict[str, Any]:
    net = make(
        "NucleusMoEImageTransformer2DModel",
        **QWEN,
        mlp_ratio=1.0,
        num_experts=2,
        moe_intermediate_dim=16,
        capacity_factors=[2.0],
    )
    return {
        "transformer": net,
        "vae": make("AutoencoderKLQwenImage", **WAN_VAE),
        "scheduler": flow(use_dynamic_shifting=True),
        **_seeing3(),
    }


def _fibo2() -> dict[str, Any]:
    net = make(
        "BriaFibo2Transformer2DModel",
        in_channels=4,
        patch_size=2,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=48,
        injection_layer_ids=(1,),
        perceiver_num_layers=1,
        min_num_gist_tokens=4,
        max_num_gist_tokens=8,
        gist_step=4,
        gist_min_text_len=4,
        gist_max_text_len=64,
        axes_dims=AXES,
        axes_lens=(2048, 64, 64),
    )
    return {
        "transformer": net,
        "vae": vae(name="AutoencoderKLFlux2"),
        "scheduler": flow(use_dynamic_shifting=True),
        **_seeing3(layers=36),
    }


LONG = {"max_sequence_length": 512}
SIGHT: dict[str, Recipe] = (
    recipes("QwenImageEdit", "qwen_image", partial(_edit, "edit"), **LONG)
    | recipes("QwenImageEditInpaint", "qwen_image", partial(_edit, "edit_inpaint"), **LONG)
    | recipes("QwenImageEditPlus", "qwen_image", partial(_edit, "edit_plus"), **LONG)
    | recipes("LongCatImage", "", _longcat, enable_prompt_rewrite=False)
    | recipes("LongCatImageEdit", "", partial(_longcat, "pipeline_longcat_image_edit"))
    | recipes("DreamLite DreamLiteMobile", "", _dreamlite, max_sequence_length=LEFT_OUT)
    | recipes("NucleusMoEImage", "", _nucleus, **LONG, return_index=-1)
    | recipes("BriaFibo2", "", _fibo2, image=LEFT_OUT)
)
