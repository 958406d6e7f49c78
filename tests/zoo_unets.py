"""UNet families for `zoo`: Stable Diffusion and its kin, Kandinsky, AnimateDiff."""

from tests.zoo_configs import CROSS_2D, RESAMPLING, TWO_LEVELS
from tests.zoo_parts import clip, clip_tokenizer, dim, make, pipeline, stable, text_parts, vae

SMALL = {
    **TWO_LEVELS,
    "down_block_types": CROSS_2D["down_block_types"],
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
}
XL = SMALL | {
    "cross_attention_dim": 16,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 56,
}


def unet(**config):
    """A UNet of two levels, of the Stable Diffusion kind unless told otherwise."""
    default = SMALL | {"sample_size": 8, **CROSS_2D}
    return make("UNet2DConditionModel", **default | config)


def stable_diffusion(name="StableDiffusionPipeline", **more):
    parts = {
        "vae": vae(),
        "text_encoder": clip(),
        "tokenizer": clip_tokenizer(),
        "unet": unet(),
        "scheduler": stable(clip_sample=False, set_alpha_to_one=False),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return pipeline(name, **parts | more)


def sdxl(name="StableDiffusionXLPipeline", **more):
    return pipeline(
        name,
        vae=vae(),
        **text_parts("clip"),
        text_encoder_2=clip(projection=True, seed=1),
        tokenizer_2=clip_tokenizer(),
        unet=unet(**XL),
        scheduler=stable("EulerDiscreteScheduler", timestep_spacing="leading"),
        add_watermarker=False,
        **more,
    )


def sdxl_controlnet():
    hint = make("ControlNetModel", conditioning_embedding_out_channels=(8, 16), **XL)
    return sdxl("StableDiffusionXLControlNetPipeline", controlnet=hint)


def lcm():
    return stable_diffusion(
        "LatentConsistencyModelPipeline",
        unet=unet(time_cond_proj_dim=8),
        scheduler=stable("LCMScheduler"),
    )


def animatediff():
    motion = make(
        "MotionAdapter",
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
        motion_max_seq_length=8,
    )
    return pipeline(
        "AnimateDiffPipeline",
        vae=vae(),
        **text_parts("clip"),
        unet=unet(),
        motion_adapter=motion,
        scheduler=stable(clip_sample=False, beta_schedule="linear"),
    )


def kandinsky():
    decoder = kandinsky_unet("image")
    schedule = stable(beta_schedule="linear", clip_sample=False, set_alpha_to_one=False)
    return pipeline("KandinskyV22Pipeline", unet=decoder, scheduler=schedule, movq=_movq())


def kandinsky_unet(told, **config):
    """A UNet of the first two Kandinskys. told: "image", or "text_image": what the embeddings come from."""
    config |= {"encoder_hid_dim": 16, "encoder_hid_dim_type": f"{told}_proj", "addition_embed_type": told}
    return unet(out_channels=8, **RESAMPLING, **config)


def kandinsky3():
    network = make(
        "Kandinsky3UNet",
        time_embedding_dim=8,
        groups=2,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(8, 8, 16, 16),
        cross_attention_dim=8,
        encoder_hid_dim=16,
    )
    return pipeline(
        "Kandinsky3Pipeline",
        **text_parts("t5"),
        unet=network,
        scheduler=stable("DDPMScheduler", beta_schedule="linear", clip_sample=False),
        movq=_movq(),
    )


def _movq():
    autoencoder = make(
        "VQModel",
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        norm_type="spatial",
        num_vq_embeddings=8,
        vq_embed_dim=4,
    )
    dim(autoencoder.decoder.conv_out, 0.03)
    return autoencoder
