"""Sizes of tiny networks that several pipelines of `zoo` and of `derived` share."""

from typing import Any

HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8}
AXES = (2, 2, 4)  # of rotary embeddings: how the 8 entries of a head are shared out
FOUR: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "num_layers": 1}  # of latents with 4 channels
FLUX: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "joint_attention_dim": 16,
    "axes_dims_rope": AXES,
    **HEADS,
}
QWEN: dict[str, Any] = {
    **FOUR,
    "in_channels": 16,
    "joint_attention_dim": 16,
    "axes_dims_rope": AXES,
    **HEADS,
}
SD3: dict[str, Any] = {
    **FOUR,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 1,
    "joint_attention_dim": 16,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 16,
    **HEADS,
}
HUNYUAN_DIT: dict[str, Any] = {
    "in_channels": 4,
    "patch_size": 2,
    "sample_size": 8,
    "hidden_size": 16,
    "mlp_ratio": 1.0,
    "cross_attention_dim": 16,
    "cross_attention_dim_t5": 16,
    "pooled_projection_dim": 16,
    **HEADS,
}
WAN: dict[str, Any] = {
    **FOUR,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 16,
}
COGVIDEOX: dict[str, Any] = {
    **FOUR,
    "time_embed_dim": 8,
    "text_embed_dim": 16,
    "sample_width": 8,
    "sample_height": 8,
    "sample_frames": 9,
    "max_text_seq_length": 32,
    **HEADS,
}
HUNYUAN: dict[str, Any] = {  # of images; of videos with other axes, and with an embedding of the whole text
    **FOUR,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "text_embed_dim": 16,
    **HEADS,
}
HUNYUAN_VIDEO: dict[str, Any] = {**HUNYUAN, "pooled_projection_dim": 8, "rope_axes_dim": AXES}
TWO_LEVELS: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
CROSS_2D: dict[str, Any] = {  # attention to the prompt at the lower level of two
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
CROSS_FIRST_2D: dict[str, Any] = {  # at the upper level
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
RESAMPLING: dict[str, Any] = {  # residual blocks that resample: Kandinsky, unCLIP, DeepFloyd IF
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 4,
}
UNET_OF_SOUNDS: dict[str, Any] = {
    **TWO_LEVELS,
    **CROSS_2D,
    "norm_num_groups": 8,
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
}


def sana(head: int = 8) -> dict[str, Any]:
    """Of the transformers of Sana, with two heads of this size for each kind of attention."""
    return {
        **FOUR,
        "num_attention_heads": 2,
        "attention_head_dim": head,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": head,
        "cross_attention_dim": 2 * head,
        "caption_channels": 16,
        "sample_size": 8,
    }


def vision(size: int = 16, image: int = 16, layers: int = 2) -> dict[str, Any]:
    """Of an encoder of images in 8 x 8 patches; `size` is its width."""
    return {
        "hidden_size": size,
        "intermediate_size": 2 * size,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": image,
        "patch_size": 8,
    }
