"""Subclasses of schedulers whose `step` renames its parameters or passes them on."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import genscale
from genscale.errors import UsageError
from genscale.pipelines.step_signature import step_signature
from tests.quick import quick
from tests.scheduler_cells import schedulers
from tests.zoo import ZOO


def renamed(cls: Any) -> Any:
    class Child(cls):  # type: ignore[misc]
        def step(self, e: Any, t: Any, x: Any, *rest: Any, **more: Any) -> Any:
            return super().step(1.1 * e, t, x, *rest, **more)

    return Child


def everything(cls: Any) -> Any:
    class Child(cls):  # type: ignore[misc]
        def step(self, *args: Any, **kwargs: Any) -> Any:
            return super().step(1.1 * args[0], *args[1:], **kwargs)

    return Child


def with_a_name_of_its_own(cls: Any) -> Any:
    class Child(cls):  # type: ignore[misc]
        def step(
            self, noise: Any, when: Any, latents: Any, generator: Any = None, return_dict: bool = True
        ) -> Any:
            more = {"generator": generator, "return_dict": return_dict}
            return super().step(model_output=1.1 * noise, timestep=when, sample=latents, **more)

    return Child


def passes_on(cls: Any) -> Any:
    class Child(cls):  # type: ignore[misc]
        def step(self, model_output: Any, timestep: Any, sample: Any, *rest: Any, **more: Any) -> Any:
            return super().step(1.1 * model_output, timestep, sample, *rest, **more)

    return Child


def decorated(cls: Any) -> Any:
    class Child(cls):  # type: ignore[misc]
        @functools.wraps(cls.step)
        def step(self, *args: Any, **kwargs: Any) -> Any:
            return super().step(1.1 * args[0], *args[1:], **kwargs)

    return Child


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FORMS = {f.__name__: f for f in (renamed, passes_on, everything, with_a_name_of_its_own, decorated)}
CLASSES = ("DDIMScheduler", "EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler", "LCMScheduler")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(p.mean()) for p in media.pixels.double()]


def call() -> dict[str, Any]:
    torch.manual_seed(1)
    given = ZOO["stable_diffusion"].arguments(1) | {"num_inference_steps": 4, "output_type": "np"}
    return given | {"generator": seeded()}


def with_class(change: Callable[[Any], Any], name: str) -> Any:
    pipe = ZOO["stable_diffusion"].build()
    pipe.scheduler = change(schedulers()[name]).from_config(pipe.scheduler.config)
    return pipe


@pytest.mark.parametrize("name", quick(CLASSES, CLASSES[:2]))
@pytest.mark.parametrize("form", FORMS)
def test_one_candidate_is_the_pipeline_itself(form: str, name: str) -> None:
    if form == "with_a_name_of_its_own" and name == "UniPCMultistepScheduler":
        pytest.skip("its step takes no generator")
    pipe = with_class(FORMS[form], name)
    alone = pipe(**call()).images
    assert np.array_equal(alone, genscale.scale(pipe, candidates=1)(**call()).images)
    plain = with_class(lambda cls: cls, name)
    assert not np.array_equal(alone, plain(**call()).images)  # else the step of the parent would do
    found = []
    for batch_size in (1, 3):
        search = genscale.scale(pipe, "smc", brightness, particles=3, batch_size=batch_size)(**call()).search
        found.append([e.total for e in search.searches[0].finals])
    assert np.allclose(*found, atol=1e-5)


def test_a_history_that_a_copy_shares_is_still_refused() -> None:
    def remembers(cls: Any) -> Any:
        class Child(cls):  # type: ignore[misc]
            def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
                super().set_timesteps(*args, **kwargs)
                self.past = deque(maxlen=3)

            def step(self, e: Any, *args: Any, **kwargs: Any) -> Any:
                self.past.append(e)
                return super().step(sum(self.past) / len(self.past), *args, **kwargs)

        return Child

    pipe = with_class(remembers, "DDIMScheduler")
    with pytest.raises(UsageError, match="keeps its history where genscale cannot see it"):
        genscale.scale(pipe, candidates=1)(**call())


def test_a_step_of_other_parameters_is_refused_in_a_sentence() -> None:
    class Alone:
        def step(self, noise: Any, when: Any, latents: Any) -> Any:
            return latents

    with pytest.raises(
        UsageError, match="the step of Alone has no parameters named 'model_output' and 'sample'"
    ):
        step_signature(Alone)
    scheduler = with_class(renamed, "DDIMScheduler").scheduler
    signature = step_signature(type(scheduler))
    with pytest.raises(TypeError):
        signature.by_name(scheduler, (1, 2, 3), {"no_such": 4})
    given = {"e": 1, "t": 2, "x": 3, "generator": 4}
    assert signature.by_name(scheduler, (), given) == signature.by_name(
        scheduler, (1, 2, 3), {"generator": 4}
    )
