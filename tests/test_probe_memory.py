"""What a scaled pipeline remembers of its probe between calls: the same results, without another walk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import genscale
from genscale.pipelines import probe_memory
from genscale.pipelines.known_loop import FirstStep
from genscale.pipelines.probe_memory import ProbeMemory
from genscale.pipelines.scheduler_walk import SchedulerWalk
from tests.zoo import ZOO, with_scheduler

FAMILY = "stable_diffusion"


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each step of a scheduler that a probe walked through."""
    steps: list[int] = []
    step = SchedulerWalk.step

    def counted(self: SchedulerWalk, call: dict[str, Any]) -> None:
        steps.append(len(self.draws))
        step(self, call)

    monkeypatch.setattr(SchedulerWalk, "step", counted)
    return steps


def scaled_up(pipe: Any) -> Any:
    return genscale.scale(pipe, "best_of_n", brightness, candidates=2)


def brightness(media: Any, prompts: Any) -> Any:
    return media.pixels.float().flatten(1).mean(1)


def arguments(**changes: Any) -> dict[str, Any]:
    given = ZOO[FAMILY].arguments(1) | {"num_inference_steps": 4, "output_type": "pt"}
    given.pop("generator", None)
    return given | changes


def pixels(scaled: Any, given: dict[str, Any], seed: int = 0) -> torch.Tensor:
    images: torch.Tensor = scaled(**given, generator=torch.Generator().manual_seed(seed)).images
    return images


def built() -> Any:
    pipe = ZOO[FAMILY].build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    "changes",
    [{}, {"prompt": ["quite another text, with more words"]}],
    ids=["the same call", "another prompt"],
)
def test_a_call_of_the_same_kind_is_not_walked_again(walked: list[int], changes: dict[str, Any]) -> None:
    pipe = built()
    scaled = scaled_up(pipe)
    pixels(scaled, arguments())
    assert len(walked) == 4
    again = pixels(scaled, arguments(**changes), seed=1)
    assert len(walked) == 4
    assert torch.equal(again, pixels(scaled_up(pipe), arguments(**changes), seed=1))
    assert len(walked) == 8


def other_scheduler(pipe: Any) -> None:
    with_scheduler(pipe, "DPMSolverMultistepScheduler")


def other_configuration(pipe: Any) -> None:
    pipe.scheduler.register_to_config(timestep_spacing="trailing")


def other_levels(pipe: Any) -> None:
    pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod**1.1


def other_module(pipe: Any) -> None:
    pipe.vae = ZOO[FAMILY].build().vae


def other_attribute(pipe: Any) -> None:
    pipe.vae_scale_factor = pipe.vae_scale_factor * 1
    pipe.something = 1


CHANGED: dict[str, tuple[Callable[[Any], None], dict[str, Any]]] = {
    "steps": (lambda pipe: None, {"num_inference_steps": 3}),
    "no guidance": (lambda pipe: None, {"guidance_scale": 1.0}),
    "shape": (lambda pipe: None, {"height": 32, "width": 16}),
    "two prompts": (lambda pipe: None, {"prompt": ["one", "two"]}),
    "scheduler": (other_scheduler, {}),
    "configuration of the scheduler": (other_configuration, {}),
    "noise levels": (other_levels, {}),
    "module": (other_module, {}),
    "attribute": (other_attribute, {}),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_changed_pipeline_or_call_is_walked_again(walked: list[int], what: str) -> None:
    pipe = built()
    scaled = scaled_up(pipe)
    pixels(scaled, arguments())
    change, changes = CHANGED[what]
    change(pipe)
    before = len(walked)
    found = pixels(scaled, arguments(**changes))
    assert len(walked) > before
    assert torch.equal(found, pixels(scaled_up(pipe), arguments(**changes)))


def test_a_memory_that_does_not_compare_is_found_out(
    walked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin of the test above."""
    monkeypatch.setattr(FirstStep, "equals", lambda self, other: True)
    monkeypatch.setattr(ProbeMemory, "find", lambda self, *_: self._known[0][2] if self._known else None)
    pipe = built()
    scaled = scaled_up(pipe)
    cost = scaled.plan(**arguments()).nfe_per_candidate
    assert scaled.plan(**arguments(num_inference_steps=3)).nfe_per_candidate == cost


def test_weights_may_change_between_calls(walked: list[int]) -> None:
    """As with a LoRA: nothing that a model made is remembered."""
    pipe = built()
    scaled = scaled_up(pipe)
    first = pixels(scaled, arguments())
    with torch.no_grad():
        for model in (pipe.text_encoder, pipe.unet, pipe.vae):
            for parameter in model.parameters():
                parameter.mul_(1.1)
    found = pixels(scaled, arguments())
    assert len(walked) == 4
    assert torch.equal(found, pixels(scaled_up(pipe), arguments()))
    assert not torch.equal(found, first)


def test_steps_that_draw_noise_are_walked_every_time(walked: list[int]) -> None:
    pipe = built()
    with_scheduler(pipe, "EulerAncestralDiscreteScheduler")
    scaled = scaled_up(pipe)
    one, two = (pixels(scaled, arguments(), seed) for seed in (0, 0))
    assert len(walked) == 8
    assert torch.equal(one, two)


def test_the_latest_kinds_of_calls_are_kept(walked: list[int]) -> None:
    scaled = scaled_up(built())
    for steps in (2, 3, 2, 3):
        scaled.plan(**arguments(num_inference_steps=steps))
    assert len(walked) == 5
    for steps in range(4, 4 + probe_memory.MOST):
        scaled.plan(**arguments(num_inference_steps=steps))
    before = len(walked)
    scaled.plan(**arguments(num_inference_steps=2))
    assert len(walked) == before + 2


def test_a_copy_remembers_nothing(walked: list[int]) -> None:
    import copy

    scaled = scaled_up(built())
    scaled.plan(**arguments())
    copy.copy(scaled).plan(**arguments())
    assert len(walked) == 8
