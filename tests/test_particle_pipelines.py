"""Particle methods and beams on tiny real pipelines: one ancestry for any batch size and any company."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import genscale
from genscale.algorithms.beam_search import BeamSearch
from genscale.algorithms.particle_filter import ParticleFilter
from genscale.plugins.registry import found, load
from genscale.samplers.rollover import Rollover
from tests.quick import quick
from tests.zoo import ZOO, with_scheduler

KINDS = ParticleFilter | Rollover | BeamSearch
PRESETS = [n for n in found("sampler") if issubclass(load("sampler", n), KINDS)]
UNWEIGHTED = ("rollover", "beam", "dlbs", "treeg")
STEPS = 6
# Small enough for seconds, and so that states are scored and branched within six steps.
FEW: dict[str, dict[str, Any]] = {
    "code": {"children": 3},
    "svdd": {"children": 3},
    "rollover": {"calls": 20},
    "particle_gibbs": {"particles": 3, "sweeps": 2, "window": (0.2, 0.7)},
    "importance": {"particles": 3},
    "beam": {
        "width": 5,
        "survivors": (2, 2),
        "branch": 2,
        "levels": (0.4, 0.6),
        "lookahead": 2,
        "diversity": 1.0,
    },
    "dlbs": {"width": 4, "survivors": 2, "lookahead": 2},
    "treeg": {"width": 4, "survivors": 2, "branch": 2},
}
MANY = {"particles": 3, "window": (0.2, 0.7)}
TOLERANCE = 1e-3  # of a score in grey levels; batched float32 kernels round differently


def brightness(media: Any, prompts: Any) -> list[float]:
    return [float(np.asarray(m, dtype=np.float64).mean()) for m in media]


def fine(media: Any, prompts: Any) -> torch.Tensor:
    """Mean of the pixels before they are rounded to 8 bits: no ties."""
    return 255 * media.pixels.double().flatten(1).mean(1)


def searched(pipe: Any, name: str, preset: str, prompts: int = 1, batch_size: int = 8, **more: Any) -> Any:
    options = FEW.get(preset, MANY) | more
    scaled = genscale.scale(pipe, preset, fine, batch_size=batch_size, **options)
    arguments = ZOO[name].arguments(prompts) | {"output_type": "np", "num_inference_steps": STEPS}
    generators = [torch.Generator().manual_seed(i) for i in range(prompts)]
    return scaled(**arguments | {"generator": generators if prompts > 1 else generators[0]}).search


def recipes(search: Any, prompt: int = 0) -> list[Any]:
    return [(e.candidate, e.step) for e in search.entries if e.prompt == prompt]


def totals(search: Any, prompt: int = 0) -> list[float]:
    return [search.total(e) for e in search.entries if e.prompt == prompt]


@pytest.mark.parametrize("name", ["sd3", "flux", "sdxl", "wan"])
@pytest.mark.parametrize("preset", quick(PRESETS, list(PRESETS)[::6]))
def test_every_preset_on_real_pipelines(preset: str, name: str) -> None:
    """... with one ancestry and one winner for microbatches of 1 and of 8."""
    pipe = ZOO[name].build()
    one, many = (searched(pipe, name, preset, batch_size=n) for n in (1, 8))
    assert recipes(one) == recipes(many)
    assert totals(one) == pytest.approx(totals(many), abs=TOLERANCE)
    assert one.best.candidate == many.best.candidate
    assert one.ledger.nfe == sum(s.spent for s in one.searches) == many.ledger.nfe
    if preset != "importance":
        assert any(e.candidate.origin == "branch" for e in one.entries)
    population = one.population()
    assert (population is None) == (preset in UNWEIGHTED)
    if population is not None:
        assert float(population.weights.sum()) == pytest.approx(1)
        assert np.isfinite(population.log_evidence) == population.has_evidence


@pytest.mark.parametrize(
    "preset", quick(("smc", "fk_steering", "svdd", "rollover", "particle_gibbs", "beam"), ("smc", "beam"))
)
def test_company_changes_nothing(preset: str) -> None:
    """A prompt alone and beside two others."""
    pipe = genscale.load_pipeline("shapes-flow", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    prompts = ["three green circles", "a red star left of a blue ring", "a black cross"]
    options = FEW.get(preset, MANY)
    made = []
    for chosen in (prompts[:1], prompts):
        scaled = genscale.scale(pipe, preset, "shapes_clip", **options)
        generators = [torch.Generator().manual_seed(i) for i in range(len(chosen))]
        made.append(
            scaled(chosen, num_inference_steps=STEPS, guidance_scale=3.0, generator=generators).search
        )
    alone, together = made
    assert recipes(alone) == recipes(together)
    assert totals(alone) == pytest.approx(totals(together), abs=1e-4)
    # Of two that are equal but for round-off either may come first.
    same = next(e for e in together.ranking() if e.candidate == alone.best.candidate)
    assert same.total == pytest.approx(together.best.total, abs=1e-4)


def test_one_batch_composition_gives_the_same_bits() -> None:
    pipe = ZOO["sd3"].build()
    a, b = (searched(pipe, "sd3", "smc") for _ in range(2))
    assert totals(a) == totals(b)
    assert torch.equal(a.best.x, b.best.x)


@pytest.mark.parametrize(
    "scheduler", ["HeunDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
)
@pytest.mark.parametrize("preset", ["smc", "rollover", "fk_steering", "beam"])
def test_schedulers_with_memory_and_second_order(preset: str, scheduler: str) -> None:
    """Deterministic parts run on the scheduler itself where it can step, else on the ODE over its levels."""
    pipe = with_scheduler(ZOO["stable_diffusion"].build(), scheduler)
    one, many = (searched(pipe, "stable_diffusion", preset, batch_size=n) for n in (1, 8))
    assert recipes(one) == recipes(many)
    assert totals(one) == pytest.approx(totals(many), abs=TOLERANCE)
    process = one.searches[0].process
    assert process.own_steps == (scheduler != "HeunDiscreteScheduler")


def test_the_state_is_kept_in_float32() -> None:
    pipe = ZOO["sd3"].build().to(torch.bfloat16)
    search = searched(pipe, "sd3", "fk_steering")
    assert search.best.x.dtype == torch.float32
    assert not torch.equal(search.best.x, search.best.x.bfloat16().float())


@pytest.mark.parametrize(
    "name",
    quick(
        ("sd_img2img", "sd_inpaint", "sd_inpaint4", "sdxl_controlnet", "flux_fill", "animatediff"),
        ("sd_img2img", "sd_inpaint4"),
    ),
)
@pytest.mark.parametrize("preset", quick(("smc", "rollover", "rebirth", "beam"), ("smc", "rollover")))
def test_pipelines_that_begin_in_the_middle_or_edit_their_latents(preset: str, name: str) -> None:
    one, many = (searched(ZOO[name].build(), name, preset, batch_size=n) for n in (1, 8))
    assert recipes(one) == recipes(many)
    assert totals(one) == pytest.approx(totals(many), abs=TOLERANCE)
    assert any(e.candidate.origin == "branch" for e in one.entries) or one.searches[0].process.model_steps < 4


@pytest.mark.parametrize("preset", [n for n in PRESETS if n not in ("importance", "rollover")])
def test_branches_of_an_ode_are_refused_with_the_cure(preset: str) -> None:
    rebirth = {"rebirth": ""} if preset == "rebirth" else {}
    for kernel in ("ode", "ddim(0)", "sde(0)", "own"):
        with pytest.raises(genscale.UsageError, match=r"kernel='ddim\(0.5\)'"):
            genscale.scale(object(), preset, kernel=kernel, **rebirth)
