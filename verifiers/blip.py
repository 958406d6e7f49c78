"""BLIP as ImageReward saves it, in transformers' modules: features of an image and a prompt together.

BLIP: Li et al. 2022 (arXiv 2201.12086). The original checkpoints name a timm vision transformer and a BERT with
cross-attention; transformers has other names for the same weights. All sizes are read off the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genscale.errors import UsageError
from genscale.verifiers.sharded_weights import fill

VISION, TEXT = "blip.visual_encoder.", "blip.text_encoder."  # prefixes of the two encoders
HEAD_WIDTH = 64  # of an attention head, in ViT-B, ViT-L and BERT-base; weights do not show it
# Buffers, and weights of pre-training only; ImageReward's own loader ignores these, too.
UNUSED = re.compile(
    r"blip\.(text_encoder\.embeddings\.position_ids|(vision_proj|text_proj|itm_head|text_decoder|\w+_m)\..*|temp)"
)
RENAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "blocks": "encoder.layers",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
}
_NAME = re.compile(r"\b(" + "|".join(map(re.escape, RENAMES)) + r")\b")


def renamed(key: str) -> str:
    """The name in BlipVisionModel of a weight of the original vision transformer."""
    if key.startswith("norm."):
        return key.replace("norm.", "post_layernorm.", 1)
    return _NAME.sub(lambda found: RENAMES[found[0]], key)


class Blip(nn.Module):
    """The hidden state of a prompt's first token, after cross-attention to the image."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """state: tensors by their original names (`blip.visual_encoder...`, `blip.text_encoder...`)."""
        super().__init__()
        from transformers import BlipTextModel, BlipVisionModel

        vision = {
            renamed(key[len(VISION) :]): value for key, value in state.items() if key.startswith(VISION)
        }
        text = {
            key[len(TEXT) :]: value
            for key, value in state.items()
            if key.startswith(TEXT) and not UNUSED.fullmatch(key)
        }
        with torch.device("meta"):
            self.vision = BlipVisionModel(_vision(vision))
            self.text = BlipTextModel(_text(text), add_pooling_layer=False)
        for module, tensors in ((self.vision, vision), (self.text, text)):
            _fill(module, tensors)
        self.side: int = self.vision.config.image_size

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """[n, width] of prepared images [n, 3, side, side] and tokens and their mask [n, length]."""
        image = self.vision(pixel_values=pixels).last_hidden_state
        output: Any = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=image,
            encoder_attention_mask=mask.new_ones(image.shape[:2]),
            is_decoder=False,  # bidirectional attention
        )
        first: Tensor = output.last_hidden_state[:, 0]
        return first


def _vision(state: Mapping[str, Tensor]) -> Any:
    from transformers import BlipVisionConfig

    width, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
    across = round((state["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_depth(state, "encoder.layers."),
        num_attention_heads=_heads(width),
        image_size=across * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,  # of the original; transformers' own default is 1e-5
    )


def _text(state: Mapping[str, Tensor]) -> Any:
    from transformers import BlipTextConfig

    words, width = state["embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_depth(state, "encoder.layer."),
        num_attention_heads=_heads(width),
        max_position_embeddings=state["embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=1e-12,
        is_decoder=True,  # otherwise there is no cross-attention
    )


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix))


def _heads(width: int) -> int:
    if width % HEAD_WIDTH:
        raise UsageError(
            f"a BLIP of width {width} has no heads of {HEAD_WIDTH}: give weights of ViT-B or ViT-L."
        )
    return width // HEAD_WIDTH


def _fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Replace the module's meta tensors by those of `state`, which must have exactly the same names."""
    for name, buffer in list(module.named_buffers()):  # position_ids, which newer versions do not save
        owner, _, attribute = name.rpartition(".")
        module.get_submodule(owner)._buffers[attribute] = torch.arange(buffer.shape[-1]).expand(buffer.shape)
    saved = {name: buffer for name, buffer in module.named_buffers() if name in module.state_dict()}
    fill(module, {**saved, **state}, "an ImageReward", "give the original file")
