"""Image-to-video: independent candidates, particles and a tree on every class of the zoo and of the derived ones."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import genscale
from genscale.errors import UsageError
from tests.derived import arguments, derived
from tests.quick import quick
from tests.sweep_run import brightness, call, one_candidate, pixels
from tests.zoo import ZOO

LENGTHS = {"num_frames", "video_length", "num_videos_per_prompt"}  # a call that takes one makes a video
SAMPLERS: dict[str, dict[str, Any]] = {
    "best_of_n": {"candidates": 2},
    "smc": {"particles": 2},
    "dts_star": {"budget": "2images"},
}
COPY, LEVELS, STEPS = "with a copy of its", "noise levels are finite", "more than once for a timestep"
# What smc and dts_star say, which need the pipeline's own loop and noise levels; best_of_n runs.
REFUSED = {
    "Cosmos2VideoToWorldPipeline": LEVELS,  # the levels of EDM in a scheduler of flows
    "CosmosVideoToWorldPipeline": STEPS,
    "LTX2ImageToVideoPipeline": COPY,  # its sound has a scheduler of its own
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": COPY,
}


def of_zoo(name: str) -> tuple[Any, dict[str, Any]]:
    return ZOO[name].build(), ZOO[name].arguments(1)


def of_derived(name: str) -> tuple[Any, dict[str, Any]]:
    found = derived()[name]
    return found.build(), arguments(found)


def found() -> dict[str, Callable[[str], tuple[Any, dict[str, Any]]]]:
    """How to build each pipeline that makes a video of a picture, by its call: it takes `image`, and a length."""
    made = {name: of_zoo for name, e in ZOO.items() if e.video and "image" in e.arguments(1)}
    for name, pipeline in derived().items():
        takes = set(inspect.signature(pipeline.cls.__call__).parameters)
        if LENGTHS & takes and arguments(pipeline).get("image") is not None:
            made[name] = of_derived
    return made


FOUND = found()


def search(pipe: Any, given: dict[str, Any], sampler: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of whole calls, and of samplers that have few particles
        scaled = genscale.scale(pipe, sampler, brightness, **SAMPLERS[sampler])
        return call(scaled, given, seeded=True).search


@pytest.mark.parametrize("name", quick(FOUND, ["wan_i2v"]))
def test_three_samplers_on_an_image_to_video_pipeline(name: str) -> None:
    pipe, given = FOUND[name](name)
    alone = pixels(call(pipe, given, seeded=True))
    assert one_candidate(pipe, given, True, alone) == ""
    for sampler in SAMPLERS:
        if sampler != "best_of_n" and name in REFUSED:
            with pytest.raises(UsageError, match=REFUSED[name]):
                search(pipe, given, sampler)
            continue
        entries = search(pipe, given, sampler).entries
        assert len(entries) >= 2
        assert len({entry.total for entry in entries}) >= 2  # they are different videos


def test_the_families_are_found() -> None:
    assert {"wan_i2v", "ltx_i2v", "CogVideoXImageToVideoPipeline", "StableVideoDiffusionPipeline"} <= set(
        FOUND
    )
    assert len(FOUND) >= 20
    assert set(REFUSED) <= set(FOUND)
