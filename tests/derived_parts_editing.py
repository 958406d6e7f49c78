"""Recipes for single pipelines of the Stable Diffusion kind: editing, depth, upscaling, pictures of pictures."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from tests.derived_recipe import Recipe, clip_processor, mask, picture, recipes
from tests.zoo_configs import vision
from tests.zoo_parts import clip, clip_tokenizer, clip_vision, make, scheduler, stable, vae
from tests.zoo_unets import XL, unet


def latents(*shape: int) -> torch.Tensor:
    """The same normal numbers every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def wide(channels: int, **more: Any) -> dict[str, Any]:
    """A UNet that takes further channels beside the latent."""
    return {"unet": unet(in_channels=channels, **more)}


def seeing(name: str = "CLIPVisionModelWithProjection", size: int = 8, image: int = 16) -> dict[str, Any]:
    return {"image_encoder": clip_vision(name, size, image), "feature_extractor": clip_processor(image)}


def _marigold(channels: int = 8, out: int = 4) -> dict[str, Any]:
    return {
        **wide(channels, out_channels=out),
        "default_denoising_steps": 3,
        "default_processing_resolution": 16,
        "scale_invariant": True,
        "shift_invariant": True,
        "use_full_z_range": True,
        "prediction_type": None,
        "target_properties": {"target_names": ["albedo", "material"], "albedo": {}, "material": {}},
    }


def _latent_upscale() -> dict[str, Any]:
    config = {"in_channels": 8, "out_channels": 5, "time_cond_proj_dim": 136}
    return {"unet": unet(**config), "scheduler": stable("EulerDiscreteScheduler")}


def _gated() -> dict[str, Any]:
    return {"unet": unet(attention_type="gated", sample_size=8)}


def _gated_images() -> dict[str, Any]:
    from diffusers.pipelines.stable_diffusion.clip_image_project_model import CLIPImageProjection
    from transformers import CLIPProcessor

    return {
        "unet": unet(attention_type="gated-text-image"),
        **seeing(),
        "image_project": CLIPImageProjection(hidden_size=8),
        "processor": CLIPProcessor(image_processor=clip_processor(), tokenizer=clip_tokenizer()),
    }


def _depth() -> dict[str, Any]:
    from transformers import DPTImageProcessor

    estimator = make(
        "DPTForDepthEstimation",
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
    )
    sizes = {"size": {"height": 16, "width": 16}}
    return {**wide(5), "depth_estimator": estimator, "feature_extractor": DPTImageProcessor(**sizes)}


def _upscale() -> dict[str, Any]:
    net = unet(in_channels=7, num_class_embeds=1000)
    return {"unet": net, "low_res_scheduler": scheduler("DDPMScheduler"), "scheduler": stable()}


def _normalizer() -> dict[str, Any]:
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    net = unet(class_embed_type="projection", projection_class_embeddings_input_dim=16)
    noising = stable("DDPMScheduler", beta_schedule="squaredcos_cap_v2")
    return {
        "unet": net,
        "image_normalizer": StableUnCLIPImageNormalizer(8),
        "image_noising_scheduler": noising,
    }


def _prior() -> dict[str, Any]:
    return {
        "prior_tokenizer": clip_tokenizer(),
        "prior_text_encoder": clip(projection=True),
        "prior": make(
            "PriorTransformer", num_attention_heads=2, attention_head_dim=8, embedding_dim=8, num_layers=1
        ),
        "prior_scheduler": scheduler(
            "UnCLIPScheduler",
            variance_type="fixed_small_log",
            prediction_type="sample",
            num_train_timesteps=1000,
        ),
    }


def _example() -> dict[str, Any]:
    from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
    from transformers import CLIPVisionConfig

    config = CLIPVisionConfig(**vision(8, layers=1), projection_dim=8)
    torch.manual_seed(0)
    encoder = PaintByExampleImageEncoder(config, proj_size=8).eval()
    return {**wide(9), "image_encoder": encoder, "feature_extractor": clip_processor()}


def _parallel() -> dict[str, Any]:
    return {"scheduler": stable("DDIMParallelScheduler", clip_sample=False)}


def _four_d() -> dict[str, Any]:
    return {"vae": vae(in_channels=6, out_channels=6)}


def _alt() -> dict[str, Any]:
    from diffusers.pipelines.deprecated.alt_diffusion import RobertaSeriesModelWithTransformation
    from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import RobertaSeriesConfig

    from tests.derived_parts_texts import roberta_config, xlm_tokenizer

    torch.manual_seed(0)
    model = RobertaSeriesModelWithTransformation(RobertaSeriesConfig(project_dim=8, **roberta_config()))
    return {"text_encoder": model.eval(), "tokenizer": xlm_tokenizer()}


def _safe() -> dict[str, Any]:
    return {"feature_extractor": clip_processor()}


BOX = {"gligen_phrases": ["a red cube"], "gligen_boxes": [[0.1, 0.1, 0.6, 0.6]]}
EMBEDDED = {"source_embeds": latents(1, 77, 8), "target_embeds": 2 * latents(1, 77, 8)}
EDITING: dict[str, Recipe] = (
    recipes("StableDiffusionInstructPix2Pix", "stable_diffusion", partial(wide, 8))
    | recipes("StableDiffusionXLInstructPix2Pix", "sdxl", partial(wide, 8, **XL))
    | recipes("MarigoldDepth MarigoldNormals", "stable_diffusion", _marigold, output_type="np")
    | recipes("MarigoldIntrinsics", "stable_diffusion", partial(_marigold, 12, 8), output_type="np")
    | recipes("StableDiffusionLatentUpscale", "stable_diffusion", _latent_upscale, image=picture(16))
    | recipes("StableDiffusionUpscale", "stable_diffusion", _upscale, image=picture(8))
    | recipes("StableDiffusionGLIGEN", "stable_diffusion", _gated, **BOX)
    | recipes(
        "StableDiffusionGLIGENTextImage",
        "stable_diffusion",
        _gated_images,
        **BOX,
        gligen_images=[picture(16)],
    )
    | recipes("StableDiffusionDepth2Img", "stable_diffusion", _depth)
    | recipes("StableDiffusionAttendAndExcite", "stable_diffusion", token_indices=[2, 4], attn_res=(4, 4))
    | recipes(
        "StableDiffusionDiffEdit",
        "stable_diffusion",
        mask_image=mask(8),
        image_latents=latents(1, 2, 4, 8, 8),
    )
    | recipes("StableDiffusionPix2PixZero", "stable_diffusion", **EMBEDDED)
    | recipes("StableDiffusionParadigms", "stable_diffusion", _parallel)
    | recipes("StableDiffusionLDM3D", "stable_diffusion", _four_d, output_type="np")
    | recipes("StableDiffusionImageVariation", "stable_diffusion", seeing)
    | recipes("PaintByExample", "stable_diffusion", _example, example_image=picture(16), image=picture(16))
    | recipes(
        "StableUnCLIP", "stable_diffusion", lambda: _normalizer() | _prior(), prior_num_inference_steps=2
    )
    | recipes("StableUnCLIPImg2Img", "stable_diffusion", lambda: _normalizer() | seeing())
    | recipes("TextToVideoZero", "stable_diffusion", _safe, video_length=2, t0=1, t1=2, num_inference_steps=4)
    | recipes("TextToVideoZeroSDXL", "sdxl", _safe, video_length=2, t0=1, t1=2, num_inference_steps=4)
    | recipes("AltDiffusion AltDiffusionImg2Img", "stable_diffusion", _alt)
)
