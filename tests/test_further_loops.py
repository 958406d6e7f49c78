"""Pipelines that loop over the timesteps again: found before anything is spent, and called as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import genscale
from genscale.pipelines.further_loops import steps_in_several_loops
from tests.derived import arguments, derived
from tests.sweep_run import brightness


class Twice:
    def __call__(self, scheduler: Any, x: Any) -> Any:
        for t in scheduler.timesteps:
            x = scheduler.step(x, t, x)
        for t in scheduler.timesteps:
            x = scheduler.step(x, t, x)
        return x


class Branches:
    """One loop, whose step is written twice."""

    def __call__(self, scheduler: Any, x: Any) -> Any:
        for t in scheduler.timesteps:
            x = scheduler.step(x, t) if t > 1 else scheduler.step(x, t, x)
        return x


def test_loops_are_counted_and_not_steps() -> None:
    assert steps_in_several_loops(Twice)
    assert not steps_in_several_loops(Branches)
    assert steps_in_several_loops(diffusers.StableDiffusionPix2PixZeroPipeline)
    for name in ("StableDiffusionPipeline", "CogVideoXPipeline", "FluxPipeline", "WanPipeline"):
        assert not steps_in_several_loops(getattr(diffusers, name))


@pytest.mark.slow
def test_a_second_loop_is_found_before_anything_is_written(tmp_path: Path) -> None:
    found = derived()["StableDiffusionPix2PixZeroPipeline"]
    pipe, given, scores = found.build(), arguments(found), []
    for _ in range(2):
        scaled = genscale.scale(pipe, verifier=brightness, candidates=2, out=tmp_path / "run")
        with pytest.warns(UserWarning, match="runs more than one loop"):
            made = scaled(**given, generator=torch.Generator().manual_seed(1)).search
        scores.append(([entry.total for entry in made.entries], made.ledger.evaluations))
    assert scores[0][0] == scores[1][0]
    assert [evaluations for _, evaluations in scores] == [2, 0]
