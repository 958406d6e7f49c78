"""Pipelines of diffusers that are built from the components of the zoo, without a line for each.

Most families have further pipelines with the same components: image to image, inpainting, editing, control,
perturbed-attention guidance. `derived()` finds them by what their constructors ask for, and `arguments` gives a call
what its signature asks for. Classes that need other parts have a recipe in `tests/derived_parts_*.py`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from tests.derived_parts_cascades import CASCADES
from tests.derived_parts_editing import EDITING
from tests.derived_parts_images import IMAGES
from tests.derived_parts_newer import NEWER
from tests.derived_parts_old_videos import OLD_VIDEOS
from tests.derived_parts_sight import SIGHT
from tests.derived_parts_sound import SOUND
from tests.derived_parts_unets import UNETS
from tests.derived_parts_videos import VIDEOS
from tests.derived_parts_worlds import WORLDS
from tests.derived_recipe import LEFT_OUT, Recipe, mask, picture
from tests.zoo import ZOO, image_arguments

RECIPES: dict[str, Recipe] = {**UNETS, **EDITING, **CASCADES, **OLD_VIDEOS, **IMAGES, **NEWER, **VIDEOS, **WORLDS, **SIGHT, **SOUND}
SKIPPED: dict[str, str] = {}
LOOSE = ("scheduler", "tokenizer", "processor")  # components whose class may be another than the annotated one
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


@cache
def parts(family: str) -> dict[str, Any]:
    """The components of a family of the zoo, to look at."""
    return dict(ZOO[family].build().components)


def required(cls: Any) -> list[str]:
    """The components that a pipeline cannot be without."""
    optional = getattr(cls, "_optional_components", [])
    return [
        name
        for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]
        if parameter.default is inspect.Parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in optional
    ]


def fits(cls: Any, have: dict[str, Any]) -> bool:
    """Whether these components are of the classes that the constructor asks for."""
    for name in required(cls):
        if have.get(name) is None:
            return False
        annotation = inspect.signature(cls.__init__).parameters[name].annotation
        asked = tuple(t for t in typing.get_args(annotation) or (annotation,) if inspect.isclass(t))
        if asked and not any(word in name for word in LOOSE) and not isinstance(have[name], asked):
            return False
    return True


def derived() -> Iterator[Derived]:
    """Pipelines that the zoo does not have itself and that fit one of its families, each once."""
    own = {type(ZOO[family].build()) for family in ZOO}
    for name, cls in pipeline_classes().items():
        if cls in own or name in SKIPPED:
            continue
        if name in RECIPES:
            yield Derived(cls, RECIPES[name])
        elif family := next((f for f in _likely(name) if fits(cls, parts(f))), ""):
            yield Derived(cls, Recipe(family))


def _likely(name: str) -> list[str]:
    """The families, those first whose pipeline's name shares most with this one."""
    return sorted(ZOO, key=lambda family: -_shared_start(name, family))


@cache
def _name_of(family: str) -> str:
    return type(ZOO[family].build()).__name__


def _shared_start(name: str, family: str) -> int:
    other = _name_of(family)
    return next((i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), len(other))


def _taken(cls: Any, have: dict[str, Any]) -> dict[str, Any]:
    names = list(inspect.signature(cls.__init__).parameters)[1:]
    optional = getattr(cls, "_optional_components", [])
    return {name: have.get(name) for name in names if name in have or name in optional}


def _switches(cls: Any) -> dict[str, Any]:
    taken = inspect.signature(cls.__init__).parameters
    return {k: v for k, v in {"requires_safety_checker": False, "add_watermarker": False}.items() if k in taken}


# ---------------------------------------------------------------- what a call is given


def arguments(found: Derived, steps: int = 3) -> dict[str, Any]:
    """A call for one prompt: the family's own arguments as far as they are taken, and what else is asked for."""
    taken = inspect.signature(found.cls.__call__).parameters
    own = ZOO[found.family].arguments(1) if found.family else image_arguments(1, num_frames=5)
    given = {k: v for k, v in own.items() if k in taken}
    if isinstance(given.get("prompt"), list):
        given["prompt"] = given["prompt"][0]
    size = int(given.get("height", 16))
    given |= {k: v for k, v in _asked_for(size, int(given.get("num_frames", 5))).items() if k in taken and k not in given}
    if "strength" in taken:
        given |= {"num_inference_steps": steps + 1, "strength": 0.75}
    given |= found.recipe.arguments
    return {k: v for k, v in given.items() if v is not LEFT_OUT}


def _asked_for(size: int, length: int) -> dict[str, Any]:
    """Values for arguments that a pipeline may ask for, by name."""
    frames = [picture(size)] * length
    control = torch.sin(torch.arange(3 * size * size, dtype=torch.float32)).reshape(1, 3, size, size) / 2 + 0.5
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
