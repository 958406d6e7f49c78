"""The pipelines of the benchmarks of host time and memory: a bundled model, or a tiny one with random weights."""

from __future__ import annotations

from typing import Any

from benchmarks.common import quiet_pipeline
from tests.zoo import ZOO

PROMPT = "a red star left of a blue ring"


def pipeline(
    model: str, steps: int, guidance: float = 3.0, device: str = "cpu"
) -> tuple[Any, dict[str, Any]]:
    """A pipeline and the arguments of its call. model: one that `load_pipeline` takes, or a name of tests/zoo.py.

    guidance: of the former.
    """
    if model not in ZOO:
        call = {"prompt": PROMPT, "guidance_scale": guidance}
        return quiet_pipeline(model, device=device), call | {
            "num_inference_steps": steps,
            "output_type": "pt",
        }
    pipe = ZOO[model].build().to(device)
    pipe.set_progress_bar_config(disable=True)
    call = {k: v for k, v in ZOO[model].arguments(1).items() if k != "generator"}
    return pipe, call | {"num_inference_steps": steps, "output_type": "pt"}
