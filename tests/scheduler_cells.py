"""Every scheduler class of diffusers, with its options, on small pipelines: is a search of one candidate the pipeline?

`schedulers()` lists the classes and `variants` the options to try. `LOOPS` are the pipelines that they are tried with,
and `cell` is what came out. `benchmarks/scheduler_table.py` writes the cells into the documentation.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import diffusers
import torch
from torch import Tensor

import genscale
from genscale.errors import UsageError
from tests import scheduler_pipelines as special
from tests.test_passthrough import pixels, seeded
from tests.zoo import ZOO

EQUAL, FAILS, REFUSED = "bit for bit", "–", "refused: "

# Options to try one at a time, each on the classes whose constructor has it. Values that a class refuses are left out.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "use_karras_sigmas": (True,),
    "use_exponential_sigmas": (True,),
    "use_beta_sigmas": (True,),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "prediction_type": ("v_prediction", "sample"),
    "algorithm_type": (
        "dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis", "noise_prediction",
    ),
    "solver_order": (1, 3),
    "solver_type": ("heun", "bh1", "logrho"),
    "predictor_order": (3,),
    "corrector_order": (1,),
    "stochastic_sampling": (True,),
    "noise_sampler_seed": (0,),
    "rescale_betas_zero_snr": (True,),
    "thresholding": (True,),
    "clip_sample": (True,),
    "variance_type": ("fixed_large",),
    "final_sigmas_type": ("sigma_min",),
    "lower_order_final": (False,),
    "euler_at_final": (True,),
    "predict_x0": (False,),
    "skip_prk_steps": (True, False),
    "interpolation_type": ("log_linear",),
    "timestep_type": ("continuous",),
    "sigma_schedule": ("exponential",),
    "invert_sigmas": (True,),
    "shift": (3.0,),
    "eta": (0.5,),
    "s_noise": (0.5,),
}  # fmt: skip


class _Interval:
    """Stands for `torchsde.BrownianInterval` where torchsde is not installed: numbers from a generator of its own."""

    def __init__(self, size: Any, dtype: Any, device: Any, entropy: int, **kwargs: Any) -> None:
        self.generator = torch.Generator(device).manual_seed(int(entropy))
        self.like = {"dtype": dtype, "device": device}
        self.size = size

    def __call__(self, t0: Any, t1: Any) -> Tensor:
        return (
            torch.randn(self.size, generator=self.generator, **self.like) * abs(float(t1) - float(t0)) ** 0.5
        )


@contextmanager
def torchsde() -> Iterator[None]:
    """With torchsde, or a stand-in of it, which leaves nothing behind that was imported with it."""
    if importlib.util.find_spec("torchsde"):
        yield
        return
    sys.modules["torchsde"] = types.ModuleType("torchsde")
    sys.modules["torchsde"].BrownianInterval = _Interval
    try:
        yield
    finally:
        stand_in = sys.modules.pop("torchsde")
        for name in [n for n, m in sys.modules.items() if getattr(m, "torchsde", None) is stand_in]:
            del sys.modules[name]


@cache
def schedulers() -> dict[str, type]:
    """All classes that are diffusers schedulers and have a `step`, by name."""
    with torchsde():
        found = {}
        for file in pkgutil.walk_packages(diffusers.schedulers.__path__, "diffusers.schedulers."):
            for name, cls in vars(importlib.import_module(file.name)).items():
                if (
                    inspect.isclass(cls)
                    and issubclass(cls, diffusers.SchedulerMixin)
                    and hasattr(cls, "step")
                ):
                    found[name] = cls
    return dict(sorted(found.items()))


def variants(cls: type) -> list[dict[str, Any]]:
    """Configs of a class: its defaults, and each of OPTIONS that its constructor takes and that is not its default."""
    defaults = inspect.signature(cls.__init__).parameters
    found: list[dict[str, Any]] = [{}]
    for name, values in OPTIONS.items():
        if name in defaults:
            found += [{name: value} for value in values if value != defaults[name].default]
    return found


@dataclass(frozen=True)
class Loop:
    """A pipeline to try schedulers with.

    takes: names of the classes to try; empty: all. options: whether to try all options, or the defaults alone.
    """

    title: str
    build: Callable[[], Any]
    arguments: Callable[[], dict[str, Any]]
    takes: tuple[str, ...] = ()
    options: bool = True

    def tries(self, cls: type) -> list[dict[str, Any]]:
        if self.takes and cls.__name__ not in self.takes:
            return []
        return variants(cls) if self.options else [{}]


def _zoo(title: str, name: str, takes: tuple[str, ...] = (), options: bool = True, **more: Any) -> Loop:
    return Loop(title, ZOO[name].build, lambda: ZOO[name].arguments(1) | more, takes, options)


LOOPS = (
    _zoo("Stable Diffusion", "stable_diffusion", num_inference_steps=4),
    _zoo("Stable Diffusion, image-to-image", "sd_img2img", (), False, num_inference_steps=5, strength=0.7),
    _zoo("Stable Diffusion 3", "sd3", num_inference_steps=4),
    Loop("plain loop", special.plain_loop, lambda: {"num_inference_steps": 4}, (), False),
    _zoo("Latent Consistency", "lcm", ("LCMScheduler",), num_inference_steps=4),
    _zoo(
        "CogVideoX", "cogvideox", ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"), num_inference_steps=4
    ),
    *(Loop(s.title, s.build, s.arguments, s.takes) for s in special.SPECIAL),
)


def given(pipe: Any, cls: type, options: dict[str, Any]) -> Any:
    """The pipeline with a scheduler of this class, made from the config of its own as far as that fits."""
    flow = "FlowMatch" in type(pipe.scheduler).__name__
    if flow and "use_flow_sigmas" in inspect.signature(cls.__init__).parameters:
        flows = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
        options = flows | {k: v for k, v in options.items() if k != "prediction_type"}
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **options)
    return pipe


def brightness(media: Any, prompts: Any) -> Tensor:
    return media.pixels.flatten(1).mean(1)


def _seeded() -> dict[str, Any]:
    torch.manual_seed(11)
    return {"generator": seeded()}


def cells(cls: type, loop: Loop) -> Counter[str]:
    """What came out of a class on a pipeline, and how often over the options."""
    return Counter(cell(cls, options, loop) for options in loop.tries(cls))


def cell(cls: type, options: dict[str, Any], loop: Loop) -> str:
    """EQUAL, FAILS (the pipeline alone does not run with it) or REFUSED with the sentence.

    AssertionError: a search of one candidate is silently another picture, or a search of three neither ends nor is
    refused.
    """
    call = {"output_type": "np"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pipe = given(loop.build(), cls, options)
            alone = pixels(pipe(**loop.arguments(), **call, **_seeded()))
            assert torch.equal(alone, pixels(pipe(**loop.arguments(), **call, **_seeded())))
        except Exception:
            return FAILS
        where = f"{cls.__name__} {options} on {loop.title}"
        drawn = torch.randn(3)  # what comes next from the global generator
        try:
            made = pixels(genscale.scale(pipe, candidates=1)(**loop.arguments(), **call, **_seeded()))
        except UsageError as error:
            return REFUSED + " ".join(str(error).split())
        same = torch.equal(alone.nan_to_num(7.0), made.nan_to_num(7.0))
        assert same, f"{where}: silently another picture, by {float((alone - made).abs().max()):.2g}"
        assert torch.equal(drawn, torch.randn(3)), f"{where}: the global generator is left elsewhere"
        if not options:
            with suppress(UsageError):
                genscale.scale(pipe, "smc", brightness, particles=3)(**loop.arguments(), **call, **_seeded())
    return EQUAL
