"""What a loop sees of its scheduler during a search is what it would see if the scheduler had stepped itself."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import genscale
from genscale.key import Key
from genscale.pipelines import scheduler_state
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import draw
from genscale.protocol.queries import Query, Score, Solve
from tests.quick import third
from tests.scheduler_cells import schedulers
from tests.scheduler_pipelines import PlainLoopPipeline, unet2d
from tests.test_passthrough import equal, seeded
from tests.zoo_parts import stable

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

METHODS = ("index_for_timestep", "previous_timestep", "_sigma_to_t")


def digest(value: Any) -> float:
    """One number of whatever a scheduler answers."""
    if isinstance(value, Tensor):
        return float(value.double().nan_to_num().cos().mean()) if value.numel() else 0.2
    if isinstance(value, list | tuple):
        return sum((i + 1) * digest(v) for i, v in enumerate(value))
    if isinstance(value, np.ndarray):
        return digest(torch.from_numpy(value))
    return float(value) % 7 if isinstance(value, bool | int | float) else 0.1 if value is None else 0.3


def answers(scheduler: Any, t: Tensor) -> list[float]:
    """What the scheduler says about itself: every public attribute and property, and what depends on them."""
    names = sorted({k for k in vars(scheduler) if not k.startswith("_")} - {"timesteps"})
    names += [
        k for k, v in inspect.getmembers(type(scheduler)) if isinstance(v, property) and k != "timesteps"
    ]
    found = [digest(getattr(scheduler, name)) for name in names]
    for method in METHODS:
        if len(inspect.signature(getattr(scheduler, method, answers)).parameters) == 1:
            found.append(digest(getattr(scheduler, method)(t)))
    index = getattr(scheduler, "step_index", None)
    if index is not None and hasattr(scheduler, "sigmas"):
        found.append(digest(scheduler.sigmas[index]))
    return found


class AskingPipeline(PlainLoopPipeline):
    """A loop whose model output depends on all that its scheduler says, before, between and after its calls."""

    @torch.no_grad()
    def __call__(
        self, batch_size: int = 1, num_inference_steps: int = 4, generator: Any = None, output_type: str = "np",
        return_dict: bool = True,
    ) -> Any:  # fmt: skip
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps)
        latents = torch.randn((batch_size, 3, 8, 8), generator=generator)
        more = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        after: list[float] = []
        for i, t in enumerate(scheduler.timesteps):
            asked = (after if i else []) + answers(scheduler, t)
            if i and hasattr(scheduler, "add_noise"):  # as a loop that blends latents
                asked.append(digest(scheduler.add_noise(latents, torch.ones_like(latents), t[None])))
            x = scheduler.scale_model_input(latents, t)
            asked += [digest(x), *answers(scheduler, t)]
            output = self.unet(x, t).sample + 0.3 * torch.tensor(asked).cos().mean()
            latents = scheduler.step(output, t, latents, **more).prev_sample
            after = answers(scheduler, scheduler.timesteps[0])  # of the next step: this one may be any
        return self.pictures(latents, output_type, return_dict)


# Those that Stable Diffusion takes, and more that remember; Brownian trees are refused.
NAMES = [
    "CMStochasticIterativeScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
]


def asking(name: str) -> Any:
    pipe = AskingPipeline(unet2d(), stable(clip_sample=False))
    pipe.scheduler = schedulers()[name].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def asked(name: str) -> tuple[Any, Any, Any]:
    """The pipeline alone; a search of one candidate; candidate 0 of a search that goes from step to step by turns."""
    call = {"num_inference_steps": 5}
    # A pipeline for each, since schedulers keep attributes of the last call.
    alone = asking(name)(**call, generator=seeded()).images
    one = genscale.scale(asking(name), candidates=1)(**call, generator=seeded()).images
    turns = Turns(2)
    genscale.scale(asking(name), turns, equal, batch_size=1)(**call, generator=seeded())
    return torch.from_numpy(alone), torch.from_numpy(one), turns.first


@dataclass(frozen=True)
class Turns:
    """Candidates are solved by turns, one step each: before every step of candidate 0 another was at another step."""

    n: int
    found: dict[str, Tensor] = field(default_factory=dict)
    needs = frozenset({"noise"})

    @property
    def first(self) -> Tensor:
        return self.found["x"]

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        states = [process.start([draw(key, i)]) for i in range(self.n)]
        order = [0, *(1 for _ in range(2)), *(i for _ in range(process.steps) for i in (0, 1))]
        for i in order:
            if states[i].step < process.steps:
                states[i] = yield Solve(states[i], states[i].step + 1)
        self.found["x"] = states[0].x
        yield Score(states[0])

    def cost(self, process: Process) -> None:
        return None


@pytest.mark.parametrize("name", third(NAMES))
def test_a_loop_that_asks_its_scheduler_is_answered_as_alone(name: str) -> None:
    alone, one, first = asked(name)
    assert torch.equal(alone, one)
    pictures = (first / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert torch.equal(alone, pictures)


@pytest.mark.parametrize(
    "name", ["KDPM2DiscreteScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"]
)
def test_without_the_shown_state_another_picture_comes_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_state.ShownState, "show", lambda *args: None)  # the broken twin
    alone, one, _ = asked(name)
    assert not torch.equal(alone, one)
