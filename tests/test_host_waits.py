"""On an accelerator the host does not wait inside the loop: reads and blocking copies, counted on a stand-in."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import genscale
from genscale.media import Media
from genscale.numerics import transfers
from genscale.pipelines import row_gather
from genscale.pipelines.solver import SchedulerSolver
from tests.fake_device import DEVICE, Waits, fake_device
from tests.zoo import ZOO, with_scheduler

BEST = (
    "stable_diffusion best_of_n",
    "stable_diffusion best_of_n UniPCMultistepScheduler",
    "sdxl best_of_n",
    "flux best_of_n",
)
# Once a search: candidate 0 comes back in another tensor, and is compared with what it was; rows of a first batch, too.
ONCE = ("own_path.py", "row_mixing.py")
SAMPLERS = (
    "smc", "beam", "svdd", "zero_order", "evolution", "rollover", "dts_star", "fk_steering", "search_over_paths"
)  # fmt: skip


def brightness(media: Media, prompts: Any) -> Tensor:
    return media.pixels.float().flatten(1).mean(1)


def waits_of(name: str, sampler: str, scheduler: str = "", **settings: Any) -> Waits:
    """What a search of 8 candidates' cost waits for; its 4 steps are of batches of 4 rows."""
    torch.set_num_threads(1)
    pipe = ZOO[name].build()
    pipe.set_progress_bar_config(disable=True)
    if scheduler:
        with_scheduler(pipe, scheduler)
    arguments = ZOO[name].arguments(1) | {"num_inference_steps": 4, "output_type": "pt"}
    with fake_device() as device:
        pipe.to(DEVICE)
        waits = Waits(device)
        settings = {"budget": genscale.Budget(images=8), "batch_size": 4, "on_event": waits} | settings
        genscale.scale(pipe, sampler, brightness, **settings)(
            **arguments, generator=torch.Generator().manual_seed(0)
        )
    return waits


@pytest.mark.slow
@pytest.mark.parametrize("case", BEST)
def test_a_step_of_best_of_n_waits_for_nothing(case: str) -> None:
    waits = waits_of(*case.split())
    assert len(waits.steps) == 7  # eight model calls, and scores at the end
    assert not any(waits.steps), waits.steps


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_other_samplers_wait_once_a_scoring(sampler: str) -> None:
    waits = waits_of("stable_diffusion", sampler, batch_size=32)  # so that all are decoded together
    assert waits.steps or waits.scorings
    assert not any(waits.steps), waits.steps
    found = [{w: n for w, n in each.items() if not w[2].startswith(ONCE)} for each in waits.scorings]
    assert all(sum(each.values()) <= 1 for each in found), waits.scorings
    once = Counter(w[2] for each in waits.scorings for w in each.elements() if w[2].startswith(ONCE))
    assert all(n == 1 for n in once.values()), once


def _blocking(host: Tensor, device: torch.device) -> Tensor:
    return host.to(device)


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["scheduler", "noise", "conditions"])
def test_the_count_sees_what_waits(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twins: a timestep read at every step, noise that is copied and waited for, conditions gathered anew."""
    name, scheduler, settings = "stable_diffusion", "", dict[str, Any]()
    if broken == "scheduler":
        monkeypatch.setattr(SchedulerSolver, "_numbers", lambda self, step, value: value.tolist())
        scheduler = "UniPCMultistepScheduler"
    elif broken == "noise":
        monkeypatch.setattr("genscale.engine.step_noise.to_device", _blocking)
        scheduler = "EulerAncestralDiscreteScheduler"
    else:
        name = "sdxl"
        monkeypatch.setattr(
            row_gather.GatherCache, "__call__", lambda self, gather, module, name, v: gather(v, name)
        )
        monkeypatch.setattr(transfers, "to_device", _blocking)
    waits = waits_of(name, "best_of_n", scheduler, **settings)
    assert all(waits.steps), waits.steps
