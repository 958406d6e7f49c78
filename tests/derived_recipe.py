"""What a derived pipeline needs beside the components of a family of the zoo, and small parts that many share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from tests.zoo import images, masks
from tests.zoo_configs import vision
from tests.zoo_parts import make

Parts = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """How to build and call a pipeline class.

    family: the zoo's family whose components and call arguments it starts from; "" for none.
    parts: components instead of the family's, or beside them; made anew for every pipeline.
    arguments: of the call, over those found by name; `LEFT_OUT` takes one away.
    settings: attributes of the built pipeline, such as sizes that it has no argument for.
    """

    family: str = ""
    parts: Parts = dict
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


LEFT_OUT = object()


def recipes(
    names: str,
    family: str = "",
    parts: Parts = dict,
    settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> dict[str, Recipe]:
    """The same recipe for each of the pipeline classes; `names` are without the word Pipeline."""
    return {f"{name}Pipeline": Recipe(family, parts, arguments, settings or {}) for name in names.split()}


def picture(size: int) -> Image.Image:
    return Image.fromarray((images(1, size)[0].movedim(0, -1).numpy() * 255).astype(np.uint8))


def mask(size: int) -> Image.Image:
    return Image.fromarray((masks(1, size)[0, 0].numpy() * 255).astype(np.uint8))


def clip_processor(image: int = 16) -> Any:
    """For `clip_vision`."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": image}, crop_size={"height": image, "width": image})


def siglip_vision(size: int = 16, image: int = 16) -> Any:
    """A SigLIP image encoder of 8 x 8 patches, for `siglip_processor`."""
    return make("SiglipVisionModel", **vision(size, image, layers=1))


def siglip_processor(image: int = 16) -> Any:
    from transformers import SiglipImageProcessor

    return SiglipImageProcessor(size={"height": image, "width": image})
