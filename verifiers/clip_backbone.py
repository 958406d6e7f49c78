"""One name for a CLIP checkpoint, whichever library loads it."""

from __future__ import annotations

_SAME = {
    "openai/clip-vit-base-patch32": ("ViT-B-32", "openai"),
    "openai/clip-vit-base-patch16": ("ViT-B-16", "openai"),
    "openai/clip-vit-large-patch14": ("ViT-L-14", "openai"),
    "openai/clip-vit-large-patch14-336": ("ViT-L-14-336", "openai"),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": ("ViT-B-32", "laion2b_s34b_b79k"),
    "laion/CLIP-ViT-L-14-laion2B-s32B-b82K": ("ViT-L-14", "laion2b_s32b_b82k"),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": ("ViT-H-14", "laion2b_s32b_b79k"),
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": ("ViT-bigG-14", "laion2b_s39b_b160k"),
}
"""Hugging Face ids of checkpoints that open_clip has by a tag (its table of pretrained models)."""

VIT_H = "CLIP ViT-H-14 laion2b_s32b_b79k"


def clip_backbone(model: str, pretrained: str | None) -> str:
    """ "CLIP ViT-L-14 openai", of a model and a tag as open_clip names them or of a Hugging Face id; of another id or a
    folder the id or folder itself."""
    known = _SAME.get(model.removeprefix("hf-hub:"))
    if known is None and ("/" in model or model.startswith(("hf-hub:", ".", "~"))):
        return f"CLIP {model.removeprefix('hf-hub:')}"
    name, tag = known or (model.removesuffix("-quickgelu"), pretrained or "untrained")
    return f"CLIP {name} {tag}"
