"""CLIP checkpoints of open_clip and transformers: which library reads a name, and loading once."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from genscale.errors import UsageError, did_you_mean
from genscale.quiet_libraries import quietly
from genscale.safe_json import read_json
from genscale.verifiers.checkpoints import refusing, whole
from genscale.verifiers.clip_image import from_open_clip, from_transformers
from genscale.verifiers.clip_towers import Towers

BACKENDS = ("open_clip", "transformers")

_loaded: WeakValueDictionary[tuple[Any, ...], Towers] = WeakValueDictionary()


def towers(
    model: str,
    pretrained: str | None,
    backend: str | None,
    device: torch.device,
    dtype: torch.dtype,
    processor: str | None = None,
) -> Towers:
    """The checkpoint's towers; the same object for the same settings, while it is in use."""
    backend = backend or choose(model)
    source = pretrained if backend == "open_clip" else processor
    key = (model, source, backend, device, dtype)
    found = _loaded.get(key)
    if found is None:
        load = _open_clip if backend == "open_clip" else _transformers
        quiet = quietly("transformers") if Path(model).expanduser().is_dir() else nullcontext()
        with quiet, torch.inference_mode(False):  # inference tensors would have no gradient later
            found = _loaded[key] = load(model, source).to(device, dtype)
    return found


def choose(model: str) -> str:
    """The library that loads a model's name or folder."""
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json", f"the configuration of CLIP '{model}'")
        kind = config.get("model_type") if isinstance(config, dict) else None
        if kind == "clip":
            return "transformers"
        if not (folder / "open_clip_config.json").is_file():
            raise UsageError(f"folder '{model}' holds a model of type '{kind}': give one of type 'clip'.")
    if (folder / "open_clip_config.json").is_file() or model.startswith(("hf-hub:", "local-dir:")):
        return "open_clip"
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise UsageError(f"'{model}' is not a folder with a CLIP's config.json: give one, or a model's name.")
    return "transformers" if "/" in model and not model.startswith("ViT-") else "open_clip"


def _transformers(model: str, processor: str | None) -> Towers:
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    where, words = (
        str(Path(it).expanduser()) if Path(it).expanduser().is_dir() else it
        for it in (model, processor or model)
    )
    advice = (
        "fetch it where there is a network, or give a CLIPModel's folder, or hf-hub:NAME if it is open_clip's"
    )
    with refusing(f"CLIP '{model}'", advice):
        module = whole(CLIPModel, where, model, "CLIP", advice)
        tokenizer = AutoTokenizer.from_pretrained(words)
        prepare = from_transformers(CLIPImageProcessor.from_pretrained(words))

    def pooled(out: Any) -> Tensor:  # transformers 4 gives the embedding itself
        embedding: Tensor = getattr(out, "pooler_output", out)
        return embedding

    def tokenize(texts: list[str], length: int) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids: Tensor = tokenizer(texts, max_length=length, **options).input_ids
        return ids

    return Towers(
        name=model,
        module=module,
        prepare=prepare,
        encode_images=lambda x: pooled(module.get_image_features(pixel_values=x)),
        encode_tokens=lambda ids: pooled(module.get_text_features(input_ids=ids)),
        tokenize=tokenize,
        length=module.config.text_config.max_position_embeddings,
    )


def _open_clip(model: str, pretrained: str | None) -> Towers:
    import open_clip

    if (Path(model).expanduser() / "open_clip_config.json").is_file():
        model = f"local-dir:{Path(model).expanduser()}"
    schema = model.startswith(("hf-hub:", "local-dir:"))
    model = model if schema else model.replace("/", "-")  # open_clip itself does so in some functions only
    source = None if schema else _weights(model, pretrained)
    tag = open_clip.get_pretrained_cfg(model, source) if source else {}
    advice = "fetch it where there is a network, or give a folder, or a file of weights as pretrained"
    with refusing(f"CLIP '{model}'" if schema else f"CLIP '{model}:{source}'", advice):
        module = open_clip.create_model(
            model,
            pretrained=source,
            force_quick_gelu=bool(tag.get("quick_gelu")),  # open_clip 3 only warns, and scores wrongly
            require_pretrained=True,
        )
        tokenizer = open_clip.get_tokenizer(model)
    return Towers(
        name=model,
        module=module,
        prepare=from_open_clip(module.visual.preprocess_cfg),
        encode_images=module.encode_image,
        encode_tokens=module.encode_text,
        tokenize=lambda texts, length: tokenizer(texts, context_length=length),
        length=tokenizer.context_length,
    )


def _weights(model: str, pretrained: str | None) -> str:
    """A tag or file of weights that open_clip knows for the model."""
    import open_clip

    names = open_clip.list_models()
    if model not in names:
        near = did_you_mean(model, names)
        raise UsageError(f"open_clip has no model '{model}'{near}: choose one of open_clip.list_models().")
    if not pretrained:
        raise UsageError(f"CLIP '{model}' needs weights: give a tag of open_clip's or a file as pretrained.")
    if Path(pretrained).expanduser().is_file():
        return str(Path(pretrained).expanduser())
    if not open_clip.get_pretrained_cfg(model, pretrained):
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise UsageError(
            f"CLIP '{model}' has no weights '{pretrained}'{did_you_mean(pretrained, tags)}: "
            f"it is not a file, and the tags are {', '.join(tags) or 'none'}."
        )
    return pretrained
