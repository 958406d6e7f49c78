"""Unit embeddings of images by a transformers image model, such as DINO or DINOv2, loaded once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from genscale.errors import UsageError
from genscale.quiet_libraries import quietly
from genscale.verifiers.checkpoints import refusing, whole
from genscale.verifiers.clip_image import Preparation, from_transformers

_loaded: WeakValueDictionary[tuple[Any, ...], ImageTower] = WeakValueDictionary()


@dataclass(eq=False)
class ImageTower:
    """A frozen image model; images keep their gradients."""

    module: torch.nn.Module
    prepare: Preparation
    device: torch.device
    dtype: torch.dtype

    def embed(self, pixels: Tensor, batch_size: int) -> Tensor:
        """Unit vectors [n, (frames,) width], in float32 or better, of [n, (frames,) 3, h, w] in [0, 1]."""
        flat = torch.split(pixels.flatten(0, -4), batch_size)
        embeddings = torch.cat([self._one_batch(some) for some in flat])
        return embeddings.reshape(*pixels.shape[:-3], -1)

    def _one_batch(self, pixels: Tensor) -> Tensor:
        out = self.module(pixel_values=self.prepare(pixels.to(self.device)).to(self.dtype))
        hidden: Tensor = out.last_hidden_state
        # The class token of a vision transformer; a convolutional network has none, and pools.
        embedding = hidden[:, 0] if hidden.ndim == 3 else out.pooler_output.flatten(1)
        return F.normalize(embedding.to(torch.promote_types(embedding.dtype, torch.float32)), dim=-1)


def image_tower(model: str, device: torch.device, dtype: torch.dtype) -> ImageTower:
    """The model; the same object for the same settings, while it is in use.

    model: a Hugging Face id or a folder, with its preprocessor. UsageError: it cannot be loaded.
    """
    key = (model, device, dtype)
    found = _loaded.get(key)
    if found is None:
        with quietly("transformers"), torch.inference_mode(False):  # inference tensors would have no gradient
            found = _loaded[key] = _load(model, device, dtype)
    return found


def _load(model: str, device: torch.device, dtype: torch.dtype) -> ImageTower:
    from transformers import AutoConfig, AutoImageProcessor

    folder = Path(model).expanduser()
    where = str(folder) if folder.is_dir() else model
    advice = "fetch it where there is a network, or give the folder of an image model, such as DINO"
    with refusing(f"image model '{model}'", advice):
        config = AutoConfig.from_pretrained(where)
        if getattr(config, "text_config", None) is not None:
            raise UsageError(
                f"'{model}' is a model of images and texts ({config.model_type}): give one of images alone."
            )
        kind = _class_of(config)
        # The pooling layer of ViT is not part of DINO's checkpoints, and what is embedded does not pass it.
        pools = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
        options = {"add_pooling_layer": False} if pools else {}
        module = whole(kind, where, model, "image model", advice, **options)
        prepare = from_transformers(AutoImageProcessor.from_pretrained(where))
    module.eval().requires_grad_(False).to(device=device, dtype=dtype)
    return ImageTower(module, prepare, device, dtype)


def _class_of(config: Any) -> Callable[..., Any]:
    from transformers import MODEL_MAPPING

    try:
        kind: Callable[..., Any] = MODEL_MAPPING[type(config)]
    except KeyError:
        raise UsageError(f"transformers has no model of images of type '{config.model_type}'.") from None
    return kind
