"""Videos that begin with a given picture, made by the bundled text-to-video model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import genscale
from genscale.pipelines.first_frame import with_first_frame
from genscale.toy.moving_shapes import FRAMES, SIZE, parse, render, sample_scene
from tests.quick import quick

PROMPT = "a red circle moving right"
CALL = {"num_inference_steps": 4, "guidance_scale": 2.0, "height": SIZE, "width": SIZE, "num_frames": FRAMES}


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = with_first_frame(genscale.load_pipeline("shapes-video"))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def frame() -> Image.Image:
    return Image.fromarray(render([sample_scene(parse(PROMPT), np.random.default_rng(3))])[0][0])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_the_video_begins_with_the_picture(pipe: Any, frame: Image.Image) -> None:
    """And would not without it."""
    wanted = np.asarray(frame, float) / 255
    given, free = (
        pipe(PROMPT, image=image, generator=generator(), **CALL).frames[0] for image in (frame, None)
    )
    assert np.abs(given[0] - wanted).mean() < 0.05
    assert np.abs(free[0] - wanted).mean() > np.abs(given[0] - wanted).mean() * 2
    assert np.abs(given[-1] - given[0]).mean() > 0.01  # something moves


def test_one_candidate_is_the_pipeline_itself(pipe: Any, frame: Image.Image) -> None:
    seen: list[int] = []

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return tensors

    call = {**CALL, "image": frame, "callback_on_step_end": callback}
    alone = pipe(PROMPT, generator=generator(), **call).frames
    assert seen == [0, 1, 2, 3]  # the user's own callback is called, too
    searched = genscale.scale(pipe, candidates=1)(PROMPT, generator=generator(), **call)
    assert np.array_equal(searched.frames, alone)


@pytest.mark.parametrize("sampler", quick(["best_of_n", "smc", "dts_star"], ["best_of_n"]))
def test_samplers_keep_the_picture(pipe: Any, frame: Image.Image, sampler: str) -> None:
    scaled = genscale.scale(pipe, sampler, "shapes_video_clip", candidates=4, keep=4)
    found = scaled.search(PROMPT, image=frame, generator=generator(), **CALL)
    kept = [entry for entry in found.ranking(0) if entry.x is not None]
    assert len(kept) >= 3
    first = found.media(kept).pixels[:, 0]
    wanted = torch.from_numpy(np.asarray(frame, np.float32) / 255).movedim(-1, 0)
    assert float((first - wanted).abs().mean((1, 2, 3)).max()) < 0.05
