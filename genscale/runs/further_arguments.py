"""Arguments of the pipeline's call that a request may not name in `pipeline_args`, since something else sets them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from genscale.errors import UsageError

_OPTIONS = {
    "prompt": "the prompt",
    "num_inference_steps": "--steps",
    "width": "--size",
    "height": "--size",
    "num_frames": "--frames",
    "num_images_per_prompt": "--images",
    "num_videos_per_prompt": "--images",
    "generator": "--seed",
    "image": "--image",
    "mask_image": "--mask-image",
    "control_image": "--control-image",
}
"""Arguments that have an option of their own."""

_OURS = (
    *("latents", "return_dict", "output_type"),
    *("callback", "callback_steps", "callback_on_step_end", "callback_on_step_end_tensor_inputs"),
)
"""Arguments that the search itself needs, or that no text can give."""


def check_further_arguments(given: Mapping[str, Any]) -> None:
    """UsageError for an argument that a request sets otherwise, and for numbers that are not finite."""
    for name, value in given.items():
        if name in _OPTIONS:
            raise UsageError(f"--pipeline-args: '{name}' is set by {_OPTIONS[name]}: give it there.")
        if name in _OURS:
            raise UsageError(f"--pipeline-args: '{name}' is set by the search itself: leave it out.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--pipeline-args: '{name}' is {value}: give a finite number.")
