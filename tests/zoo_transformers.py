"""Diffusion transformers for images, for `zoo`."""

from tests import zoo_configs
from tests.zoo_configs import AXES, FLUX, FOUR, HEADS, HUNYUAN_DIT, QWEN, SD3
from tests.zoo_parts import (
    WAN_VAE,
    clip,
    clip_tokenizer,
    flow,
    language_parts,
    make,
    pipeline,
    qwen_tokenizer,
    qwen_vl,
    scheduler,
    shifted_vae,
    stable,
    t5,
    t5_tokenizer,
    text_parts,
    vae,
)


def sd3():
    return pipeline(
        "StableDiffusion3Pipeline", transformer=make("SD3Transformer2DModel", **SD3), **sd3_parts()
    )


def sd3_parts():
    """Everything of Stable Diffusion 3 but its transformer: two CLIPs and T5."""
    return {
        "scheduler": flow(shift=3.0),
        "vae": shifted_vae(),
        "text_encoder": clip(projection=True),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip(projection=True, seed=1),
        "tokenizer_2": clip_tokenizer(),
        **text_parts("t5", "_3"),
    }


def flux(name="FluxPipeline", in_channels=16, guidance_embeds=True):
    transformer = make(
        "FluxTransformer2DModel",
        **FLUX | {"in_channels": in_channels},
        out_channels=16,
        pooled_projection_dim=8,
        guidance_embeds=guidance_embeds,
    )
    return pipeline(
        name,
        **flux_parts(),
        **text_parts("clip"),
        **text_parts("t5", "_2"),
        transformer=transformer,
    )


def flux_parts():
    return {"scheduler": flow(shift=3.0, use_dynamic_shifting=True), "vae": shifted_vae()}


def chroma():
    transformer = make(
        "ChromaTransformer2DModel",
        **FLUX,
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return pipeline(
        "ChromaPipeline",
        **flux_parts(),
        **text_parts("t5"),
        transformer=transformer,
    )


def pixart_sigma():
    transformer = make(
        "PixArtTransformer2DModel",
        sample_size=8,
        num_layers=1,
        caption_channels=16,
        cross_attention_dim=16,
        use_additional_conditions=False,
        **HEADS,
    )
    return pipeline(
        "PixArtSigmaPipeline",
        **text_parts("t5"),
        vae=vae(),
        transformer=transformer,
        scheduler=stable("DPMSolverMultistepScheduler", beta_schedule="linear"),
    )


def hunyuan_dit():
    return pipeline(
        "HunyuanDiTPipeline",
        vae=vae(),
        **text_parts("bert"),
        transformer=make("HunyuanDiT2DModel", **HUNYUAN_DIT, num_layers=2),
        scheduler=scheduler("DDPMScheduler", beta_end=0.02, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **text_parts("t5", "_2"),
    )


def sana():
    autoencoder = make(
        "AutoencoderDC",
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        upsample_block_type="interpolate",
        downsample_block_type="stride_conv",
    )
    return pipeline(
        "SanaPipeline",
        **language_parts("Gemma2Model", layers=1),
        vae=autoencoder,
        transformer=make("SanaTransformer2DModel", **zoo_configs.sana()),
        scheduler=scheduler(
            "DPMSolverMultistepScheduler",
            flow_shift=3.0,
            use_flow_sigmas=True,
            prediction_type="flow_prediction",
        ),
    )


def lumina2():
    transformer = make(
        "Lumina2Transformer2DModel",
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=AXES,
        axes_lens=(300, 64, 64),
        cap_feat_dim=16,
    )
    return pipeline(
        "Lumina2Pipeline",
        transformer=transformer,
        scheduler=flow(shift=6.0),
        vae=shifted_vae(levels=4),
        **language_parts("Gemma2Model"),
    )


def auraflow():
    transformer = make(
        "AuraFlowTransformer2DModel",
        sample_size=8,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pos_embed_max_size=64,
        **HEADS,
    )
    return pipeline(
        "AuraFlowPipeline",
        tokenizer=t5_tokenizer(),
        text_encoder=t5("UMT5EncoderModel"),
        vae=vae(),
        transformer=transformer,
        scheduler=flow(shift=1.73),
    )


def qwen_image():
    pipe = pipeline(
        "QwenImagePipeline",
        scheduler=flow(use_dynamic_shifting=True),
        vae=make("AutoencoderKLQwenImage", **WAN_VAE),
        text_encoder=qwen_vl(),
        tokenizer=qwen_tokenizer(),
        transformer=make("QwenImageTransformer2DModel", **QWEN),
    )
    pipe.prompt_template_encode = "<|im_start|>{}<|im_end|>"  # its own is 200 letters long
    pipe.prompt_template_encode_start_idx = 1
    return pipe


def z_image():
    transformer = make(
        "ZImageTransformer2DModel",
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=list(AXES),
        axes_lens=[256, 32, 32],
    )
    return pipeline(
        "ZImagePipeline",
        scheduler=flow(shift=3.0),
        vae=shifted_vae(),
        **language_parts("Qwen3Model"),
        transformer=transformer,
    )


def flux2(name="Flux2Pipeline", guidance_embeds=True):
    transformer = make(
        "Flux2Transformer2DModel",
        **FLUX | {"axes_dims_rope": (2, 2, 2, 2)},
        timestep_guidance_channels=16,
        guidance_embeds=guidance_embeds,
    )
    return pipeline(
        name,
        scheduler=flow(shift=3.0, use_dynamic_shifting=True),
        vae=vae(name="AutoencoderKLFlux2"),
        **language_parts("Qwen3ForCausalLM"),
        transformer=transformer,
    )


def hidream():
    transformer = make(
        "HiDreamImageTransformer2DModel",
        **FOUR,
        patch_size=2,
        num_single_layers=1,
        caption_channels=[16, 16],
        text_emb_dim=16,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(16, 16),
        llama_layers=(0, 1),
        **HEADS,
    )
    pipe = pipeline(
        "HiDreamImagePipeline",
        **sd3_parts(),
        **language_parts("LlamaForCausalLM", "_4", attn_implementation="eager"),
        transformer=transformer,
    )
    pipe.default_sample_size = 8  # it scales every size to this area
    return pipe
