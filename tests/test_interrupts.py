"""A callback that interrupts the pipeline, and the older `callback`: as in the pipeline alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import genscale
from tests.edited_loops import FORMS, build
from tests.quick import quick
from tests.zoo import ZOO


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(p.mean()) for p in media.pixels.double()]


def stops_at(step: int, edit: float = 1.0) -> Any:
    def callback(pipe: Any, i: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = i == step
        return {"latents": tensors["latents"] * edit} if edit != 1 and i == step else {}

    return callback


NAMES = ("stable_diffusion", "sdxl", "sd3", "sd_inpaint4", "wan")
CASES = [(name, step, edit) for name in NAMES for step in (0, 1) for edit in (1.0, 0.9)]


@pytest.mark.parametrize("case", quick(CASES, [("sdxl", 0, 1.0), ("sd_inpaint4", 1, 0.9)]))
def test_an_interrupted_candidate_is_the_pipelines_own_draft(case: tuple[str, int, float]) -> None:
    name, step, edit = case
    entry = ZOO[name]
    for prompts in (1, 2):
        pipe, call = entry.build(), entry.arguments(prompts) | {"output_type": "np"}
        call["callback_on_step_end"] = stops_at(step, edit)
        alone = np.asarray(pipe(**call, generator=seeded())[0])
        output = genscale.scale(pipe, candidates=1)(**call, generator=seeded())
        assert np.array_equal(alone, np.asarray(output[0]))
        assert output.search.stopped == "interrupted"


@pytest.mark.parametrize(
    "name", quick(["BeforeSoft", "AfterSoft", "AfterMomentum", "DrawnTwice"], ["AfterSoft"])
)
def test_loops_that_edit_latents_leave_their_own_draft(name: str) -> None:
    pipe, call = build(FORMS[name]), {"prompt": "a red cube", "output_type": "np"}
    call["callback_on_step_end"] = stops_at(1)
    torch.manual_seed(1)
    alone = pipe(**call, generator=seeded()).images
    torch.manual_seed(1)
    assert np.array_equal(alone, genscale.scale(pipe, candidates=1)(**call, generator=seeded()).images)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_the_verifier_picks_the_best_draft_of_what_exists(batch_size: int) -> None:
    pipe = ZOO["stable_diffusion"].build()
    call = ZOO["stable_diffusion"].arguments(1) | {"callback_on_step_end": stops_at(1), "output_type": "np"}
    scaled = genscale.scale(pipe, verifier=brightness, candidates=4, batch_size=batch_size)
    output = scaled(**call, generator=seeded())
    finals = output.search.searches[0].finals
    assert len(finals) == min(batch_size, 4)
    assert output.search.stopped == "interrupted"
    best = max(e.total for e in finals)
    assert float(output.images.astype(np.float64).mean()) == pytest.approx(best, abs=1e-6)
    assert all(e.candidate.details["draft"] == 2 for e in finals)


def test_finished_candidates_count_as_well() -> None:
    pipe, calls = ZOO["stable_diffusion"].build(), []

    def callback(p: Any, i: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        calls.append(i)
        p._interrupt = len(calls) == 4  # in the second step of the second candidate
        return {}

    call = ZOO["stable_diffusion"].arguments(1) | {"callback_on_step_end": callback, "output_type": "np"}
    search = genscale.scale(pipe, verifier=brightness, candidates=4, batch_size=1, wave=1)(
        **call, generator=seeded()
    ).search
    drafts = ["draft" in e.candidate.details for e in search.searches[0].finals]
    assert drafts == [False, True]
    assert search.ranking()[0].total == max(e.total for e in search.entries)


def test_an_interrupted_run_is_resumed_as_if_it_had_not_been(tmp_path: Any) -> None:
    pipe = ZOO["stable_diffusion"].build()
    call = ZOO["stable_diffusion"].arguments(1)
    options = {"verifier": brightness, "candidates": 3}
    stops = stops_at(1)
    stops.identity = "changes nothing"  # of the callbacks that stop and do not stop
    goes_on = stops_at(-1)
    goes_on.identity = stops.identity
    whole = genscale.scale(pipe, **options)(**call, generator=seeded()).search
    left = genscale.scale(pipe, **options, out=tmp_path)
    assert left(**call, callback_on_step_end=stops, generator=seeded()).search.stopped == "interrupted"
    resumed = genscale.scale(pipe, **options, out=tmp_path)(
        **call, callback_on_step_end=goes_on, generator=seeded()
    ).search
    assert [e.total for e in resumed.entries] == [e.total for e in whole.entries]


def test_an_interrupt_by_the_verifier_or_without_latents_for_the_callback() -> None:
    entry = ZOO["stable_diffusion"]
    pipe, call = entry.build(), entry.arguments(1) | {"output_type": "np"}
    call["callback_on_step_end_tensor_inputs"] = ["prompt_embeds"]
    call["callback_on_step_end"] = stops_at(1)
    alone = pipe(**call, generator=seeded()).images
    assert np.array_equal(alone, genscale.scale(pipe, candidates=1)(**call, generator=seeded()).images)


# ---------------------------------------------------------------- the older callback


@pytest.mark.parametrize(
    "name", quick(["stable_diffusion", "pixart_sigma", "animatediff"], ["stable_diffusion", "pixart_sigma"])
)
@pytest.mark.parametrize("every", [1, 2])
def test_the_older_callback_sees_what_it_sees_in_the_pipeline_alone(name: str, every: int) -> None:
    entry = ZOO[name]

    def seen(scaled: bool, **options: Any) -> list[tuple[int, float, float]]:
        pipe, calls = entry.build(), []

        def callback(step: int, timestep: Any, latents: Any) -> None:
            calls.append((step, float(timestep), float(latents.double().sum())))

        target = genscale.scale(pipe, **options) if scaled else pipe
        call = entry.arguments(1) | {"output_type": "np", "callback": callback, "callback_steps": every}
        target(**call, generator=seeded())
        return calls

    alone, searched = seen(False), seen(True, candidates=1)
    assert [c[:2] for c in searched] == [c[:2] for c in alone]
    assert np.allclose([c[2] for c in searched], [c[2] for c in alone], atol=1e-5)
    several = [c[0] for c in seen(True, verifier=brightness, candidates=3, batch_size=8)]
    assert several == [c[0] for c in alone]


@pytest.mark.parametrize("name", ["AfterSoft", "AfterMomentum", "DrawnTwice"])
def test_a_callback_is_called_once_a_step_where_a_loop_is_followed(name: str) -> None:
    def seen(scaled: bool) -> list[int]:
        pipe, calls = build(FORMS[name]), []

        def callback(p: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            calls.append(step)
            return {}

        target = genscale.scale(pipe, verifier=brightness, candidates=1) if scaled else pipe
        target("a red cube", callback_on_step_end=callback, output_type="np", generator=seeded())
        return calls

    assert seen(True) == seen(False) == [0, 1, 2, 3]
