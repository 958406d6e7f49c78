"""Families for `zoo` that make neither images, videos nor sound: depth, normals, embeddings."""

from tests.zoo import images
from tests.zoo_parts import clip, clip_tokenizer, clip_vision, make, pipeline, stable, text_parts, vae
from tests.zoo_unets import unet


def marigold(name="MarigoldDepthPipeline", **more):
    """A pipeline that says of every pixel of an image how far away it is, or what direction it faces."""
    return pipeline(
        name,
        unet=unet(in_channels=8, out_channels=4),
        vae=vae(),
        scheduler=stable(clip_sample=False, set_alpha_to_one=False),
        **text_parts("clip"),
        default_denoising_steps=3,
        default_processing_resolution=16,
        **more,
    )


def depth():
    return marigold(prediction_type="depth", scale_invariant=True, shift_invariant=True)


def normals():
    return marigold("MarigoldNormalsPipeline", prediction_type="normals", use_full_z_range=True)


def intrinsics():
    network = unet(in_channels=12, out_channels=8)
    return pipeline(
        "MarigoldIntrinsicsPipeline",
        unet=network,
        vae=vae(),
        scheduler=stable(clip_sample=False, set_alpha_to_one=False),
        **text_parts("clip"),
        prediction_type="intrinsics",
        target_properties={
            "target_names": ["albedo", "shading"],
            "albedo": {"prediction_space": "srgb"},
            "shading": {"prediction_space": "srgb"},
        },
        default_denoising_steps=3,
        default_processing_resolution=16,
    )


def prior(size=8):
    """The prior of Kandinsky 2.2: from a prompt to the CLIP embedding of an image."""
    network = make(
        "PriorTransformer",
        num_attention_heads=2,
        attention_head_dim=8,
        embedding_dim=size,
        num_layers=1,
        num_embeddings=77,
    )
    from transformers import CLIPImageProcessor

    return pipeline(
        "KandinskyV22PriorPipeline",
        prior=network,
        image_encoder=clip_vision(size=size, layers=1),
        text_encoder=clip(size, projection=True),
        tokenizer=clip_tokenizer(),
        scheduler=make_unclip(),
        image_processor=CLIPImageProcessor(size=16, crop_size=16),
    )


def make_unclip():
    from diffusers import UnCLIPScheduler

    return UnCLIPScheduler(
        variance_type="fixed_small_log",
        prediction_type="sample",
        num_train_timesteps=1000,
        clip_sample_range=10.0,
    )


KINDS = {
    "depth": (depth, lambda: {"image": images(1), "num_inference_steps": 3}),
    "normals": (normals, lambda: {"image": images(1), "num_inference_steps": 3}),
    "intrinsics": (intrinsics, lambda: {"image": images(1), "num_inference_steps": 3}),
    "prior": (prior, lambda: {"prompt": "a red cube", "num_inference_steps": 4}),
}
