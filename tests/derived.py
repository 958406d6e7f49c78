"""Pipelines of diffusers beside those of the zoo: further members of its families, and other families.

Each has a recipe: the zoo's family whose components and arguments it starts from, and other parts and arguments
(tests/derived_parts_*.py). `arguments` gives a call what its signature asks for, by name.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from tests.derived_parts_audio import SOUNDS
from tests.derived_parts_cascades import CASCADES
from tests.derived_parts_codes import CODES
from tests.derived_parts_editing import EDITING
from tests.derived_parts_images import IMAGES
from tests.derived_parts_newer import NEWER
from tests.derived_parts_old_videos import OLD_VIDEOS
from tests.derived_parts_plain import PLAIN
from tests.derived_parts_sight import SIGHT
from tests.derived_parts_singles import SINGLES
from tests.derived_parts_sound import SOUND
from tests.derived_parts_unets import UNETS
from tests.derived_parts_videos import VIDEOS
from tests.derived_parts_worlds import WORLDS
from tests.derived_recipe import LEFT_OUT, Recipe, mask, picture
from tests.zoo import ZOO, image_arguments

RECIPES: dict[str, Recipe] = {
    **PLAIN,
    **UNETS,
    **EDITING,
    **CASCADES,
    **CODES,
    **OLD_VIDEOS,
    **IMAGES,
    **NEWER,
    **VIDEOS,
    **WORLDS,
    **SIGHT,
    **SOUND,
    **SOUNDS,
    **SINGLES,
}
NOT_ONES = ("Auto", "Flax", "Onnx")


@dataclass(frozen=True)
class Derived:
    """A pipeline class, and the recipe it is built and called by."""

    cls: Any
    recipe: Recipe

    @property
    def family(self) -> str:
        return self.recipe.family

    def build(self) -> Any:
        have = dict(ZOO[self.family].build().components) if self.family else {}
        made = self.cls(**_taken(self.cls, have | self.recipe.parts()), **_switches(self.cls))
        made.set_progress_bar_config(disable=True)
        for name, value in self.recipe.settings.items():
            setattr(made, name, value)
        return made


def pipeline_classes() -> dict[str, Any]:
    """All pipeline classes of the installed diffusers that can be imported here, by name."""
    found = {}
    for name in dir(diffusers):
        if name.endswith("Pipeline") and not name.startswith(NOT_ONES):
            cls = getattr(diffusers, name)
            if isinstance(cls, type) and issubclass(cls, DiffusionPipeline) and cls is not DiffusionPipeline:
                found[name] = cls
    return found


def derived() -> dict[str, Derived]:
    """The pipelines that have a recipe, by name."""
    classes = pipeline_classes()
    return {name: Derived(classes[name], recipe) for name, recipe in sorted(RECIPES.items())}


def _taken(cls: Any, have: dict[str, Any]) -> dict[str, Any]:
    names = list(inspect.signature(cls.__init__).parameters)[1:]
    optional = getattr(cls, "_optional_components", [])
    return {name: have.get(name) for name in names if name in have or name in optional}


def _switches(cls: Any) -> dict[str, Any]:
    taken = inspect.signature(cls.__init__).parameters
    return {
        k: v for k, v in {"requires_safety_checker": False, "add_watermarker": False}.items() if k in taken
    }


# ---------------------------------------------------------------- what a call is given


def arguments(found: Derived, steps: int = 3) -> dict[str, Any]:
    """A call for one prompt: the family's own arguments as far as they are taken, and what else is asked for."""
    taken = inspect.signature(found.cls.__call__).parameters
    own = ZOO[found.family].arguments(1) if found.family else image_arguments(1, num_frames=5)
    given = {k: v for k, v in own.items() if k in taken}
    if isinstance(given.get("prompt"), list):
        given["prompt"] = given["prompt"][0]
    size = int(given.get("height", 16))
    given |= {
        k: v
        for k, v in _asked_for(size, int(given.get("num_frames", 5))).items()
        if k in taken and k not in given
    }
    if "strength" in taken:
        given |= {"num_inference_steps": steps + 1, "strength": 0.75}
    given |= found.recipe.arguments
    return {k: v for k, v in given.items() if v is not LEFT_OUT}


def _asked_for(size: int, length: int) -> dict[str, Any]:
    """Values for arguments that a pipeline may ask for, by name."""
    frames = [picture(size)] * length
    control = (
        torch.sin(torch.arange(3 * size * size, dtype=torch.float32)).reshape(1, 3, size, size) / 2 + 0.5
    )
    return {
        "image": picture(size),
        "mask_image": mask(size),
        "control_image": picture(size),
        "control_mask": mask(size),
        "conditioning_image": picture(size),
        "video": frames,
        "control_video": frames,
        "conditioning_frames": frames,
        "hint": control,
        "source_prompt": "a grey cat",
        "max_sequence_length": 32,
        "guidance_scale": 3.0,
        "negative_prompt": "grey fog",
    }
