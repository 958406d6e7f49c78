"""Recipes for VQ-Diffusion, OmniGen and Cosmos Transfer, each alone in its family."""

from __future__ import annotations

from typing import Any

from tests.derived_parts_cascades import vq
from tests.derived_parts_worlds import cosmos25
from tests.derived_recipe import Recipe, picture, recipes
from tests.zoo_parts import clip, clip_tokenizer, flow, language_model, make, qwen_tokenizer, scheduler, vae


def _codes() -> dict[str, Any]:
    from diffusers.pipelines.deprecated.vq_diffusion import LearnedClassifierFreeSamplingEmbeddings

    net = make(
        "Transformer2DModel",
        num_attention_heads=2,
        attention_head_dim=8,
        num_vector_embeds=33,
        sample_size=8,
        cross_attention_dim=8,
        attention_bias=True,
        activation_fn="geglu-approximate",
        norm_type="ada_norm",
        num_embeds_ada_norm=100,
    )
    return {
        **vq(4, vq_embed_dim=4),
        "transformer": net,
        "text_encoder": clip(),
        "tokenizer": clip_tokenizer(),
        "scheduler": scheduler("VQDiffusionScheduler", num_vec_classes=33),
        "learned_classifier_free_sampling_embeddings": LearnedClassifierFreeSamplingEmbeddings(
            learnable=False
        ),
    }


def _omnigen() -> dict[str, Any]:
    net = make(
        "OmniGenTransformer2DModel",
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        num_layers=1,
        pad_token_id=0,
        vocab_size=320,
        max_position_embeddings=1024,
        original_max_position_embeddings=512,
        rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4},
        pos_embed_max_size=32,
        time_step_dim=8,
    )
    return {
        "transformer": net,
        "vae": vae(levels=4),  # the pipeline counts on eighths
        "scheduler": flow(invert_sigmas=True, num_train_timesteps=1),
        "tokenizer": qwen_tokenizer(),
    }


def _transfer() -> dict[str, Any]:
    inside = {"text_embed_dim": 32, "adaln_lora_dim": 4, "max_size": (4, 16, 16), "mlp_ratio": 1.0}
    control = make(
        "CosmosControlNetModel",
        n_controlnet_blocks=1,
        in_channels=10,
        latent_channels=6,
        model_channels=32,
        num_attention_heads=2,
        attention_head_dim=16,
        rope_scale=(1.0, 4.0, 4.0),
        **inside,
    )
    return cosmos25(controlnet_block_every_n=1) | {"controlnet": control}


def _llada() -> dict[str, Any]:
    """A language model whose tokens are unmasked a block at a time."""
    return {
        "model": language_model("Qwen3ForCausalLM"),
        "scheduler": scheduler("BlockRefinementScheduler", block_length=8),
        "tokenizer": qwen_tokenizer(),
    }


SINGLES: dict[str, Recipe] = (
    recipes("VQDiffusion", "", _codes)
    | recipes("OmniGen", "", _omnigen, height=32, width=32)
    | recipes(
        "LLaDA2",
        "",
        _llada,
        gen_length=16,
        num_inference_steps=4,
        temperature=1.0,
        mask_token_id=319,
        editing_threshold=None,
        use_chat_template=False,
    )
    | recipes(
        "Cosmos2_5_Transfer", "", _transfer, controls=[picture(16)] * 5, num_frames=5, num_frames_per_chunk=5
    )
)
