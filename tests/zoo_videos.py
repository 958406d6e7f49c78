"""Video families for `zoo`."""

from tests.zoo_configs import COGVIDEOX, FOUR, HEADS, HUNYUAN_VIDEO, WAN
from tests.zoo_parts import (
    WAN_VAE,
    dim,
    flow,
    language_parts,
    make,
    pipeline,
    scheduler,
    t5,
    t5_tokenizer,
    text_parts,
)


def wan(name="WanPipeline", in_channels=4, **more):
    autoencoder = make(
        "AutoencoderKLWan",
        **WAN_VAE,
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    )
    parts = {
        "tokenizer": t5_tokenizer(),
        "text_encoder": t5("UMT5EncoderModel"),
        "vae": autoencoder,
        "scheduler": flow(shift=3.0),
        "transformer": wan_transformer(in_channels=in_channels),
    }
    return pipeline(name, **parts | more)


def wan_transformer(**config):
    return make("WanTransformer3DModel", **WAN | {"rope_max_seq_len": 32} | config)


def wan22():
    return wan(transformer_2=wan_transformer(seed=1), boundary_ratio=0.8)


def wan_i2v():
    return wan("WanImageToVideoPipeline", in_channels=4 + 4 + 2)


def ltx(name="LTXPipeline"):
    transformer = make(
        "LTXVideoTransformer3DModel", **FOUR, cross_attention_dim=16, caption_channels=16, **HEADS
    )
    autoencoder = make(
        "AutoencoderKLLTXVideo",
        latent_channels=4,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False, False, False),
        downsample_type=("conv", "conv"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        patch_size=4,
    )
    return pipeline(
        name,
        scheduler=flow(use_dynamic_shifting=True),
        vae=autoencoder,
        **text_parts("t5"),
        transformer=transformer,
    )


def cogvideox():
    autoencoder = make(
        "AutoencoderKLCogVideoX",
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    dim(autoencoder.decoder.conv_out.conv)
    return pipeline(
        "CogVideoXPipeline",
        **text_parts("t5"),
        vae=autoencoder,
        transformer=make("CogVideoXTransformer3DModel", **COGVIDEOX),
        scheduler=scheduler(
            "CogVideoXDDIMScheduler", prediction_type="v_prediction", rescale_betas_zero_snr=True
        ),
    )


def mochi():
    transformer = make(
        "MochiTransformer3DModel",
        in_channels=12,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=16,
        time_embed_dim=4,
        max_sequence_length=32,
        **HEADS,
    )
    autoencoder = make(
        "AutoencoderKLMochi",
        latent_channels=12,  # the pipeline counts on 12
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    dim(autoencoder.decoder.proj_out)
    return pipeline(
        "MochiPipeline",
        scheduler=flow(),
        vae=autoencoder,
        **text_parts("t5"),
        transformer=transformer,
    )


def hunyuan_video():
    autoencoder = make(
        "AutoencoderKLHunyuanVideo",
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return pipeline(
        "HunyuanVideoPipeline",
        **language_parts("LlamaModel", layers=3),
        transformer=make("HunyuanVideoTransformer3DModel", **HUNYUAN_VIDEO, patch_size=1),
        vae=autoencoder,
        scheduler=flow(shift=7.0),
        **text_parts("clip", "_2"),
    )
