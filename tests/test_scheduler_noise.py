"""Schedulers that draw noise: candidate 0 has the pipeline's own, or they are refused before anything is spent."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

import genscale
from genscale.errors import UsageError
from genscale.pipelines.latent_layout import Layout
from genscale.pipelines.noise_interception import NormalDraw
from genscale.pipelines.pipeline_noise import PipelineNoise
from tests.scheduler_cells import schedulers
from tests.scheduler_pipelines import plain_loop
from tests.test_passthrough import pixels
from tests.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

# (pipeline, scheduler, config): Stable Diffusion hands its generator to `step`, the others do not.
NOISY = [
    ("stable_diffusion", "EulerAncestralDiscreteScheduler", {}),
    ("stable_diffusion", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("stable_diffusion", "DDPMScheduler", {}),
    ("stable_diffusion", "LCMScheduler", {}),
    ("stable_diffusion", "SASolverScheduler", {}),
    ("sd_img2img", "KDPM2AncestralDiscreteScheduler", {}),
    ("sd3", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ("sd3", "FlowMatchLCMScheduler", {}),
    ("sd3", "LTXEulerAncestralRFScheduler", {}),
    ("flux", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ("wan", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ("ltx", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
]
FLOW = [case for case in NOISY if case[0] not in ("stable_diffusion", "sd_img2img")]
QUICK = ("EulerAncestralDiscreteScheduler", "FlowMatchLCMScheduler", "KDPM2AncestralDiscreteScheduler")


def names(case: tuple[str, str, dict[str, Any]]) -> str:
    return f"{case[0]}-{case[1]}"


def noisy(case: tuple[str, str, dict[str, Any]], dtype: torch.dtype = torch.float32) -> Any:
    pipeline, scheduler, config = case
    pipe = ZOO[pipeline].build().to(dtype)
    pipe.scheduler = schedulers()[scheduler].from_config(pipe.scheduler.config, **config)
    return pipe


def called(run: Any, case: tuple[str, str, dict[str, Any]], prompts: int = 1, **generator: Any) -> Tensor:
    torch.manual_seed(7)
    return pixels(run(**ZOO[case[0]].arguments(prompts), output_type="np", **generator))


def one(seed: int = 3) -> dict[str, Any]:
    return {"generator": torch.Generator().manual_seed(seed)}


def one_each() -> dict[str, Any]:
    return {"generator": [torch.Generator().manual_seed(seed) for seed in (3, 4)]}


WAYS: dict[str, tuple[int, Callable[[], dict[str, Any]]]] = {
    "one generator": (1, one),
    "no generator": (1, dict),
    "two prompts": (2, one),
    "a generator for each of two prompts": (2, one_each),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c[1] in QUICK else pytest.mark.slow, id=names(c)) for c in NOISY]
)
def test_candidate_0_has_the_noise_of_the_pipeline_alone(
    case: tuple[str, str, dict[str, Any]], way: str
) -> None:
    prompts, generator = WAYS[way]
    pipe = noisy(case)
    alone = called(pipe, case, prompts, **generator())
    following = torch.randn(2)
    scaled = genscale.scale(pipe, candidates=1)
    assert torch.equal(alone, called(scaled, case, prompts, **generator()))
    assert torch.equal(following, torch.randn(2))  # the global generator goes on as after the pipeline


@pytest.mark.parametrize("case", [pytest.param(c, id=names(c)) for c in NOISY[:1] + FLOW[:1]])
def test_noise_is_drawn_in_the_dtype_that_the_scheduler_asks_for(
    case: tuple[str, str, dict[str, Any]],
) -> None:
    pipe = noisy(case, torch.bfloat16)  # flow schedulers draw float32 here, the others bfloat16
    alone = called(pipe, case, **one())
    assert torch.equal(alone, called(genscale.scale(pipe, candidates=1), case, **one()))


def brightness(media: Any, prompts: Any) -> Tensor:
    return media.pixels.flatten(1).mean(1)


def scores(pipe: Any, case: tuple[str, str, dict[str, Any]], seed: int, batch_size: int = 3) -> list[float]:
    torch.manual_seed(seed)
    scaled = genscale.scale(pipe, "best_of_n", brightness, candidates=3, batch_size=batch_size)
    search = scaled.search(**ZOO[case[0]].arguments(1), output_type="np", **one())
    return [e.total for e in sorted(search.entries, key=lambda e: e.candidate.id)]


def test_only_candidate_0_depends_on_the_global_generator() -> None:
    case = FLOW[0]
    pipe = noisy(case)
    first, again, other = scores(pipe, case, 1), scores(pipe, case, 1), scores(pipe, case, 2)
    assert first == again
    assert first[1:] == other[1:]
    assert first[0] != other[0]
    assert scores(pipe, case, 1, batch_size=1) == pytest.approx(first, abs=1e-5)


def test_noise_of_a_later_step_comes_after_that_of_earlier_ones() -> None:
    """As in a resumed search, whose first steps are not taken again."""

    def noise() -> PipelineNoise:
        generator = torch.Generator().manual_seed(5)
        draw = NormalDraw((2, 3), torch.float32, torch.device("cpu"), generator)
        return PipelineNoise([[draw], [], [draw, draw], [draw]], 2, Layout())

    in_order, later = noise(), noise()
    wanted = [in_order.row(row, *place) for place in ((0, 0), (2, 0), (2, 1), (3, 0)) for row in (0, 1)]
    assert torch.equal(later.row(1, 3, 0), wanted[7])
    assert torch.equal(later.row(0, 2, 1), wanted[4])
    assert len({float(x.sum()) for x in wanted}) == 8
    with pytest.raises(UsageError, match="other noise in step 1"):
        noise().row(0, 1, 0)


# ---------------------------------------------------------------- schedulers that no search can step


class Hidden:
    """History in an object that copies of a scheduler share."""

    def __init__(self) -> None:
        self.last: Any = 0.0


def with_step(name: str, change: Callable[[Any, Tensor], Tensor], **attributes: Any) -> Any:
    """A DDIM scheduler whose step adds `change(scheduler, sample)` to its result."""

    class Changed(diffusers.DDIMScheduler):  # type: ignore[misc]
        def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **kwargs: Any) -> Any:
            result = super().step(model_output, timestep, sample, **kwargs)
            moved = result[0] + 0.1 * change(self, sample)
            return (moved,) if isinstance(result, tuple) else type(result)(prev_sample=moved)

    Changed.__name__ = name
    made = Changed(clip_sample=False)
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def swap(scheduler: Any, sample: Tensor) -> Tensor:
    last, scheduler.hidden.last = scheduler.hidden.last, scheduler.hidden.last + 1.0
    return torch.full_like(sample, last)


def nested(scheduler: Any, sample: Tensor) -> Tensor:
    scheduler.table["seen"].append(float(len(scheduler.table["seen"])))
    return torch.full_like(sample, sum(scheduler.table["seen"]))


def in_place(scheduler: Any, sample: Tensor) -> Tensor:
    scheduler.buffer += 1.0
    return torch.full_like(sample, float(scheduler.buffer))


def kept_object(scheduler: Any, sample: Tensor) -> Tensor:
    scheduler.noise_sampler = Hidden()
    return torch.zeros_like(sample)


REFUSED: dict[str, Callable[[], Any]] = {
    "a generator of its own": lambda: with_step(
        "Private",
        lambda s, x: torch.randn(x.shape, generator=s.own),
        own=torch.Generator().manual_seed(0),
    ),
    "a generator made in each step": lambda: with_step(
        "Reseeded", lambda s, x: torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    ),
    "uniform numbers": lambda: with_step("Uniform", lambda s, x: torch.rand_like(x)),
    "integers": lambda: with_step("Integers", lambda s, x: torch.randint(0, 2, x.shape).float()),
    "choices": lambda: with_step(
        "Choices", lambda s, x: torch.multinomial(torch.ones(9), x.numel(), replacement=True).reshape(x.shape)
    ),
    "normal numbers in place": lambda: with_step("InPlace", lambda s, x: torch.empty_like(x).normal_()),
    "normal numbers of given means": lambda: with_step("Means", lambda s, x: torch.normal(x, 1.0)),
    "numbers of NumPy": lambda: with_step("Numpy", lambda s, x: torch.from_numpy(np.random.randn(*x.shape))),
    "a generator of NumPy": lambda: with_step(
        "NumpyOwn",
        lambda s, x: torch.from_numpy(s.own.standard_normal(x.shape)),
        own=np.random.default_rng(0),
    ),
    "numbers of Python": lambda: with_step("Python", lambda s, x: random.random() * torch.ones_like(x)),
    "noise of another shape": lambda: with_step("Shape", lambda s, x: torch.randn(x.shape[0], 1, 1, 1)),
    "history in an object": lambda: with_step("InObject", swap, hidden=Hidden()),
    "history in a nested list": lambda: with_step("Nested", nested, table={"seen": []}),
    "history in a tensor that is written into": lambda: with_step("Buffer", in_place, buffer=torch.zeros(1)),
    "a Brownian tree": lambda: schedulers()["DPMSolverSDEScheduler"](),
    "a Brownian tree with a seed": lambda: schedulers()["DPMSolverSDEScheduler"](noise_sampler_seed=1),
    "a Brownian tree of the generator's seed": lambda: schedulers()["CosineDPMSolverMultistepScheduler"](),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("sampler", ["best_of_n", "smc"])
def test_what_cannot_be_stepped_is_refused_before_anything_is_spent(kind: str, sampler: str) -> None:
    pipe = plain_loop()
    pipe.scheduler = REFUSED[kind]()
    calls: list[int] = []
    pipe.unet.conv_in.register_forward_hook(lambda *args: calls.append(1))
    scaled = genscale.scale(pipe, sampler, brightness)
    with pytest.raises(UsageError, match=type(pipe.scheduler).__name__) as refusal:
        scaled(num_inference_steps=4, generator=torch.Generator().manual_seed(3))
    assert str(refusal.value).endswith("choose another scheduler.")
    assert "\n" not in str(refusal.value)
    with pytest.raises(UsageError):
        scaled.plan(num_inference_steps=4)
    assert not calls


def test_a_scheduler_whose_state_cannot_be_stored_is_called_as_a_whole() -> None:
    """Its call is a function of its generator; what needs the loop is refused, before anything is spent."""
    pipe = plain_loop()
    pipe.scheduler = with_step("Object", kept_object)
    call = {"num_inference_steps": 4, "output_type": "np"}
    alone = pipe(**call, generator=torch.Generator().manual_seed(3)).images
    with pytest.warns(UserWarning, match="keeps an object of the class"):
        found = genscale.scale(pipe, candidates=1)(**call, generator=torch.Generator().manual_seed(3))
    assert np.allclose(np.asarray(found.images[0], np.float32) / 255, alone[0], atol=1 / 255)
    with pytest.raises(UsageError, match="keeps an object of the class"):
        genscale.scale(pipe, "smc", brightness)(**call)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("history in a list", lambda s, x: s.seen.append(len(s.seen)) or torch.full_like(x, sum(s.seen))),
        (
            "history in a dictionary",
            lambda s, x: torch.full_like(x, s.table.setdefault(str(len(s.table)), 0.5)),
        ),
        ("normal numbers", lambda s, x: torch.randn_like(x)),
        ("no noise", lambda s, x: 0.1 * x),
    ],
)
def test_what_can_be_stepped_is_not_refused(kind: str, change: Callable[[Any, Tensor], Tensor]) -> None:
    def made() -> Any:
        pipe = plain_loop()
        pipe.scheduler = with_step("Kept", change, seen=[], table={})
        return pipe

    call = {"num_inference_steps": 4, "output_type": "np"}
    torch.manual_seed(5)
    alone = made()(**call, **one()).images
    torch.manual_seed(5)
    assert np.array_equal(alone, genscale.scale(made(), candidates=1)(**call, **one()).images)


def test_the_command_line_seeds_the_global_generator_too() -> None:
    from genscale.runs.prepared_run import PreparedRun
    from genscale.runs.request import Request

    drawn = []
    for seed in (4, 4, 5):
        torch.manual_seed(0)
        run = PreparedRun.without_search(Request(model="", prompts=("a cat",), seed=seed))
        run.with_pipe(ZOO["sd3"].build()).seeded_call()
        drawn.append(float(torch.randn(1)))
    assert drawn[0] == drawn[1] != drawn[2]
