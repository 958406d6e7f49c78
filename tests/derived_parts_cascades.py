"""Recipes for pipelines of several stages and for those without a prompt: priors, cascades, pixels, old videos."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tests.derived_parts_editing import latents
from tests.derived_parts_texts import roberta_config, xlm_tokenizer
from tests.derived_recipe import Parts, Recipe, clip_processor, mask, picture, recipes
from tests.zoo_configs import TWO_LEVELS
from tests.zoo_parts import clip, clip_tokenizer, clip_vision, enliven, make, scheduler, stable, vae
from tests.zoo_unets import kandinsky_unet, unet

PIXELS = {
    **TWO_LEVELS,
    "sample_size": 16,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
}
SMALL_3D = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "cross_attention_dim": 8,
}
BLOCKS_3D = {
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}


def pixels(name: str, schedule: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    """A UNet of pixels and the scheduler of this name."""
    return {"unet": make("UNet2DModel", **PIXELS | config), "scheduler": scheduler(name, **schedule or {})}


def vq(channels: int = 4, key: str = "vqvae", levels: int = 2, **config: Any) -> dict[str, Any]:
    made = make(
        "VQModel",
        **{
            "block_out_channels": (8,) * levels,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "latent_channels": channels,
            "norm_num_groups": 4,
            "num_vq_embeddings": 32,
            **config,
        },
    )
    return {key: made}


def _latent_pixels() -> dict[str, Any]:
    return vq(3) | pixels("DDIMScheduler", sample_size=8, in_channels=3, out_channels=3)


def _latent_upscale() -> dict[str, Any]:
    return vq(3) | pixels("DDIMScheduler", in_channels=6, out_channels=3)


def _latent_text() -> dict[str, Any]:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    sizes = {
        "encoder_layers": 1,
        "encoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "head_dim": 8,
        "d_model": 8,
    }
    torch.manual_seed(0)
    encoder = LDMBertModel(LDMBertConfig(vocab_size=128, **sizes)).eval()
    from tests.zoo_parts import bert_tokenizer

    kept = {"vqvae": vae(), "bert": encoder, "tokenizer": bert_tokenizer(), "unet": unet()}
    return kept | {"scheduler": stable("DDIMScheduler", clip_sample=False)}


def prior(key: str = "prior", size: int = 16, **config: Any) -> dict[str, Any]:
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "embedding_dim": size, "num_layers": 1}
    return {key: make("PriorTransformer", **small | config)}


def unclip(**config: Any) -> Any:
    return scheduler(
        "UnCLIPScheduler", **{"variance_type": "fixed_small_log", "prediction_type": "sample"} | config
    )


def prior_parts(start: str = "") -> dict[str, Any]:
    """A prior of image embeddings and what it needs, their names after `start`."""
    made = {
        **prior("prior"),
        "image_encoder": clip_vision(size=16),
        "text_encoder": clip(16, projection=True),
        "tokenizer": clip_tokenizer(),
        "scheduler": unclip(clip_sample_range=10.0),
        "image_processor": clip_processor(),
    }
    return {f"{start}{name}": part for name, part in made.items()}


def _first_kandinsky() -> dict[str, Any]:
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    torch.manual_seed(0)
    config = MCLIPConfig(transformerDimSize=16, imageDimSize=16, **roberta_config())
    net = kandinsky_unet("text_image", cross_attention_dim=16)
    return {"text_encoder": MultilingualCLIP(config).eval(), "tokenizer": xlm_tokenizer(), "unet": net}


def _inpainting(parts: dict[str, Any]) -> dict[str, Any]:
    """The same parts, with a UNet that takes a mask and a masked latent, too."""
    config = {key: value for key, value in parts["unet"].config.items() if not key.startswith("_")}
    return parts | {"unet": make("UNet2DConditionModel", **config | {"in_channels": 9})}


def _first_inpainting() -> dict[str, Any]:
    return _inpainting(_first_kandinsky())


def _second_inpainting() -> dict[str, Any]:
    from tests.zoo import ZOO

    return _inpainting({"unet": ZOO["kandinsky"].build().unet})


def _combined(decoder: Parts = dict, prior: Callable[[str], dict[str, Any]] = prior_parts) -> dict[str, Any]:
    return decoder() | prior("prior_")


def _cascade_unet(conditioning: int = 8, **config: Any) -> Any:
    blocks = (("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2
    small = {
        "in_channels": 4,
        "out_channels": 4,
        "conditioning_dim": conditioning,
        "block_out_channels": (8, 8),
        "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
        "block_types_per_layer": blocks,
        "clip_text_pooled_in_channels": 8,
        "timestep_ratio_embedding_dim": 8,
        "dropout": (0.0, 0.0),
    }
    return make("StableCascadeUNet", **small | config)


def _paella() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    torch.manual_seed(0)
    return PaellaVQModel(bottleneck_blocks=1, embed_dim=16, num_vq_embeddings=32).eval()


def _cascade_prior(start: str = "") -> dict[str, Any]:
    net = _cascade_unet(clip_text_in_channels=8, clip_image_in_channels=8, switch_level=(False,), clip_seq=4)
    return {
        f"{start}prior": net,
        f"{start}text_encoder": clip(projection=True),
        f"{start}tokenizer": clip_tokenizer(),
        f"{start}scheduler": scheduler("DDPMWuerstchenScheduler"),
    }


def _cascade_decoder() -> dict[str, Any]:
    net = _cascade_unet(effnet_in_channels=4, pixel_mapper_in_channels=3, timestep_conditioning_type=("sca",))
    return {
        "decoder": net,
        "text_encoder": clip(projection=True),
        "tokenizer": clip_tokenizer(),
        "scheduler": scheduler("DDPMWuerstchenScheduler"),
        "vqgan": _paella(),
    }


def _wuerstchen_prior(start: str = "") -> dict[str, Any]:
    from diffusers.pipelines.deprecated.wuerstchen import WuerstchenPrior

    torch.manual_seed(0)
    net = WuerstchenPrior(c_in=4, c=8, c_cond=8, c_r=8, depth=1, nhead=2, dropout=0.0)
    return {
        f"{start}prior": enliven(net).eval(),
        f"{start}text_encoder": clip(),
        f"{start}tokenizer": clip_tokenizer(),
        f"{start}scheduler": scheduler("DDPMWuerstchenScheduler"),
    }


def _wuerstchen_decoder() -> dict[str, Any]:
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import WuerstchenDiffNeXt

    torch.manual_seed(0)
    net = WuerstchenDiffNeXt(
        c_cond=8,
        c_r=8,
        c_hidden=[8, 8],
        nhead=[-1, 2],
        blocks=[1, 1],
        level_config=["CT", "CTA"],
        inject_effnet=[False, True],
        effnet_embd=4,
        clip_embd=8,
        dropout=0.0,
    )
    return {
        "decoder": enliven(net).eval(),
        "text_encoder": clip(),
        "tokenizer": clip_tokenizer(),
        "scheduler": scheduler("DDPMWuerstchenScheduler"),
        "vqgan": _paella(),
    }


EMBEDS = {"image_embeds": latents(1, 16), "negative_image_embeds": -latents(1, 16)}
SIDES = {"height": 84, "width": 84}
FEW = {"prior_num_inference_steps": 2}
CASCADES: dict[str, Recipe] = (
    recipes("DDPM", "", partial(pixels, "DDPMScheduler"))
    | recipes("DDIM", "", partial(pixels, "DDIMScheduler"))
    | recipes("PNDM", "", partial(pixels, "PNDMScheduler"), num_inference_steps=5)
    | recipes("KarrasVe", "", partial(pixels, "KarrasVeScheduler"))
    | recipes("ScoreSdeVe", "", partial(pixels, "ScoreSdeVeScheduler"))
    | recipes("ConsistencyModel", "", partial(pixels, "CMStochasticIterativeScheduler", num_class_embeds=4))
    | recipes(
        "RePaint",
        "",
        partial(pixels, "RePaintScheduler"),
        num_inference_steps=6,
        jump_length=2,
        jump_n_sample=2,
        image=picture(32),
        mask_image=mask(32),
    )
    | recipes("LDM", "", _latent_pixels)
    | recipes("LDMSuperResolution", "", _latent_upscale, image=picture(32))
    | recipes("LDMTextToImage", "", _latent_text)
    | recipes("KandinskyV22Inpaint", "kandinsky", _second_inpainting)
    | recipes("Kandinsky KandinskyImg2Img", "kandinsky", _first_kandinsky, prompt="a red cube")
    | recipes("KandinskyInpaint", "kandinsky", _first_inpainting, prompt="a red cube")
    | recipes(
        "KandinskyCombined KandinskyImg2ImgCombined",
        "kandinsky",
        partial(_combined, _first_kandinsky),
        prompt="a red cube",
        **FEW,
    )
    | recipes(
        "KandinskyInpaintCombined",
        "kandinsky",
        partial(_combined, _first_inpainting),
        prompt="a red cube",
        **FEW,
    )
    | recipes(
        "KandinskyV22Combined KandinskyV22Img2ImgCombined", "kandinsky", _combined, prompt="a red cube", **FEW
    )
    | recipes(
        "KandinskyV22InpaintCombined",
        "kandinsky",
        partial(_combined, _second_inpainting),
        prompt="a red cube",
        **FEW,
    )
    | recipes("KandinskyPrior KandinskyV22Prior KandinskyV22PriorEmb2Emb", "", prior_parts)
    | recipes("StableCascadePrior", "", _cascade_prior, **SIDES)
    | recipes("StableCascadeDecoder", "", _cascade_decoder, image_embeddings=latents(1, 4, 2, 2))
    | recipes(
        "StableCascadeCombined", "", partial(_combined, _cascade_decoder, _cascade_prior), **SIDES, **FEW
    )
    | recipes("WuerstchenPrior", "", _wuerstchen_prior, **SIDES)
    | recipes("WuerstchenDecoder", "", _wuerstchen_decoder, image_embeddings=latents(1, 4, 3, 3))
    | recipes(
        "WuerstchenCombined",
        "",
        partial(_combined, _wuerstchen_decoder, _wuerstchen_prior),
        height=128,
        width=128,
        **FEW,
    )
)
