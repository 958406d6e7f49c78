"""Tiny Flux and Wan pipelines with the caches of diffusers, for test_caches.py."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from tests.zoo import ZOO
from tests.zoo_configs import AXES, HEADS
from tests.zoo_parts import make
from tests.zoo_transformers import flux
from tests.zoo_videos import wan, wan_transformer

STEPS = 6


def deep_flux() -> Any:
    """Flux with four blocks: a cache skips what is between the first and the last."""
    pipe = flux()
    network = make(
        "FluxTransformer2DModel", in_channels=16, out_channels=16, num_layers=2, num_single_layers=2,
        joint_attention_dim=16, pooled_projection_dim=8, axes_dims_rope=AXES, guidance_embeds=True, **HEADS,
    )  # fmt: skip
    pipe.register_modules(transformer=network)
    return pipe


def deep_wan() -> Any:
    return wan(transformer=wan_transformer(in_channels=4, num_layers=4))


BUILD = {"flux": deep_flux, "wan": deep_wan}


def first_block(pipe: Any) -> Any:
    """At these thresholds the candidates decide differently."""
    return diffusers.FirstBlockCacheConfig(threshold=0.68 if type(pipe).__name__ == "FluxPipeline" else 0.88)


def taylor_seer(pipe: Any) -> Any:
    return diffusers.TaylorSeerCacheConfig(
        cache_interval=2, disable_cache_before_step=2, max_order=1, taylor_factors_dtype=torch.float32,
        cache_identifiers=[r"(single_)?(transformer_)?blocks\.\d+\.attn1?"],
    )  # fmt: skip


def mag(pipe: Any) -> Any:
    return diffusers.MagCacheConfig(
        threshold=0.5, max_skip_steps=2, num_inference_steps=STEPS, mag_ratios=torch.linspace(1, 0.9, STEPS)
    )


def pyramid(pipe: Any) -> Any:
    return diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(100, 950),
        current_timestep_callback=lambda: pipe.current_timestep,
    )  # fmt: skip


def faster(pipe: Any) -> Any:
    return diffusers.FasterCacheConfig(
        spatial_attention_timestep_skip_range=(-1, 950), is_guidance_distilled=True,
        attention_weight_callback=lambda _: 0.3, current_timestep_callback=lambda: pipe.current_timestep,
        spatial_attention_block_identifiers=("transformer_blocks", "blocks.*attn1"),
    )  # fmt: skip


def sea(pipe: Any) -> Any:
    return diffusers.hooks.SeaCacheConfig(threshold=1.2)


CACHES = {f.__name__: f for f in (first_block, taylor_seer, mag, pyramid, faster, sea)}


def cached(family: str, cache: str) -> Any:
    pipe = BUILD[family]()
    pipe.transformer.enable_cache(CACHES[cache](pipe))
    return pipe


def call_of(family: str, seed: int = 0, **more: Any) -> dict[str, Any]:
    given = ZOO[family].arguments(3)
    given["prompt"] = given["prompt"][0]
    given |= {"output_type": "np", "generator": torch.Generator().manual_seed(seed)}
    return given | {"num_inference_steps": STEPS} | more
