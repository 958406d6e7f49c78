"""Presets of blocks (`diffusers.ModularPipelineBlocks`), which have no components, as pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from genscale.errors import UsageError
from genscale.pipelines.modular_inputs import blocks_of
from genscale.plugins.limits import shown


def is_preset(given: Any) -> bool:
    """Whether it is blocks, or a class of blocks."""
    return all(hasattr(given, name) for name in ("init_pipeline", "expected_components", "sub_blocks")) or (
        inspect.isclass(given) and hasattr(given, "init_pipeline")
    )


def with_components(given: Any, components: Any) -> Any:
    """The pipeline of a preset with these components; any other pipeline as it is.

    components: a mapping from names to components, or a pipeline that lends its own and its settings. What the preset
    does not take is left out. UsageError: a preset without components, components beside a pipeline.
    """
    if not is_preset(given):
        if components is not None:
            raise UsageError(
                f"components= goes with blocks that have none, and {type(given).__name__} is a pipeline: set its "
                "components on it (update_components)."
            )
        return given
    blocks: Any = given() if inspect.isclass(given) else given
    name = type(blocks).__name__
    if components is None:
        raise UsageError(
            f"{name} is a preset of blocks, without models: give components= (a mapping, or a pipeline that has them), "
            "or make a pipeline of it (init_pipeline, then load_components or update_components)."
        )
    found = components if isinstance(components, Mapping) else getattr(components, "components", None)
    if not isinstance(found, Mapping):
        raise UsageError(
            f"components={shown(components)} must be a mapping from names to components, or a pipeline."
        )
    pipe = blocks.init_pipeline()
    taken = {k: part for k, part in found.items() if k in pipe.components and part is not None}
    if found and not taken:
        raise UsageError(
            f"{name} takes none of the components {', '.join(map(str, found))}: it has {', '.join(pipe.components)}."
        )
    config = getattr(components, "config", {}) if blocks_of(components) is None else {}
    settings = {
        k: config[k] for k in pipe.config if k in config and k not in pipe.components and k[:1] != "_"
    }
    pipe.update_components(**taken, **settings)
    return pipe
