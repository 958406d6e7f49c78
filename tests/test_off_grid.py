"""Model calls between the levels of a pipeline's grid: the timestep, the input's scale, and the whole loop."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import genscale
from genscale.diffusion.interpolants import rbf_times
from genscale.diffusion.kernels import Ddim
from genscale.engine.process import PromptProcess
from genscale.errors import UsageError
from genscale.key import Key
from genscale.pipelines.scheduler_levels import timestep_of
from genscale.pipelines.scheduler_proxy import OffGrid, make_proxy
from genscale.protocol.answers import Prediction
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import draw
from genscale.protocol.queries import Denoise, Query, Score, Solve
from tests.analytic import process_of
from tests.test_passthrough import equal
from tests.test_schedules import CONVERTED, FIRST_ORDER, WITH_ESTIMATE, Case, _view
from tests.zoo import ZOO, with_scheduler

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CASES = {str(c): c for c in (*WITH_ESTIMATE, *CONVERTED, *FIRST_ORDER)}


# Levels that are interpolated in log sigma between timesteps which are not: these never fitted each other.
UNPAIRED = [name for name in CASES if "log_linear" in name]


@pytest.mark.parametrize("case", [c for n, c in CASES.items() if n not in UNPAIRED], ids=str)
def test_at_the_grid_s_own_levels_it_is_the_grid_s_own_timestep(case: Case) -> None:
    scheduler = case.build()
    view = _view(scheduler)
    calls = view.schedule.steps
    timesteps = scheduler.timesteps[:calls].double()
    try:
        found = [
            timestep_of(scheduler, scheduler.timesteps[:calls], view, float(view.schedule.linear_time[i]))
            for i in range(1, calls)
        ]
    except ValueError:
        assert case.name in ("SCM", "DDPMWuerstchen", "TCD")
        return
    # Tables of discrete models are in whole timesteps, and some schedulers round to them; levels between the two
    # calls of a second-order step need not be in the table's order.
    whole = bool((timesteps == timesteps.round()).all()) or hasattr(scheduler, "alphas_cumprod")
    slack = 1.6 if whole and "continuous" not in str(case) else 1e-6 * float(timesteps.abs().max())
    wanted = [float(t) for t in timesteps[1:]]
    if getattr(scheduler, "order", 1) == 2:
        found, wanted = found[1::2], wanted[1::2]
    assert found == pytest.approx(wanted, abs=slack)


class LoopDriver:
    """Stands where a driver stands."""

    def __init__(self, off_grid: OffGrid | None) -> None:
        self.off_grid = off_grid
        self.scale_rows = None

    def position(self) -> int:
        return 2


@pytest.mark.parametrize(
    "name", ["EulerDiscrete", "EulerAncestralDiscrete", "LMSDiscrete", "HeunDiscrete", "DDIM"]
)
def test_the_input_is_scaled_for_the_level(name: str) -> None:
    scheduler = Case(name).build(exact=False)
    x = torch.randn(1, 3, 4, 4)
    kappa = 1.7
    made = make_proxy(scheduler, LoopDriver(OffGrid(100.0, kappa)))
    scaled = made.scale_model_input(x, torch.tensor(100.0))
    wanted = x if name == "DDIM" else x / (kappa**2 + 1) ** 0.5
    assert torch.allclose(scaled, wanted, atol=1e-6)
    # ... and nothing of it stays
    made = make_proxy(scheduler, LoopDriver(None))
    made._step_index = 2 if hasattr(scheduler, "sigmas") else None  # as a driver shows it
    again = made.scale_model_input(x, scheduler.timesteps[2])
    if hasattr(scheduler, "sigmas"):
        assert torch.allclose(again, x / (scheduler.sigmas[2] ** 2 + 1) ** 0.5, atol=1e-6)


@dataclass(frozen=True)
class Asked:
    """Denoise the initial latents at a level of its own grid, and finish by the ODE."""

    times: tuple[float, ...] | None
    seen: list[Prediction]

    needs = frozenset({"noise", "schedule"})

    def grid(self, process: PromptProcess) -> PromptProcess:
        times = self.times or tuple(process.schedule.linear_time[: process.model_steps].tolist())
        return process.regridded(times)

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        particles = process.start([draw(key, 0), draw(key, 1)])
        prediction = yield Denoise(particles)
        self.seen.append(prediction)
        particles = process.move(particles, prediction, Ddim(0.0))
        finished = yield Solve(particles, None, Ddim(0.0))
        yield Score(finished)

    def cost(self, process: Process) -> int:
        return 2 * process.nfe()


@dataclass(frozen=True)
class OnGrid(Asked):
    def grid(self, process: PromptProcess) -> PromptProcess:
        return process


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [("sdxl", "EulerDiscreteScheduler"), ("stable_diffusion", "DDIMScheduler"), ("sd3", None), ("flux", None),
     ("wan", None), ("stable_diffusion", "DPMSolverMultistepScheduler")],
)  # fmt: skip
def test_the_pipeline_s_own_levels_asked_for_by_time(name: str, scheduler: str | None) -> None:
    """A grid of the same times gives what the grid itself gives: the loop is shown the same timestep and scale."""
    pipe = ZOO[name].build()
    if scheduler is not None:
        pipe = with_scheduler(pipe, scheduler)
    results = []
    for cls in (OnGrid, Asked):
        sampler = cls(None, [])
        arguments = ZOO[name].arguments(1) | {
            "output_type": "np",
            "generator": torch.Generator().manual_seed(0),
        }
        output = genscale.scale(pipe, sampler, equal, keep=2)(**arguments)
        results.append((sampler.seen[0], [e.x for e in output.search.ranking()]))
    (a, xs), (b, ys) = results
    # float32 tables of discrete schedulers put a time within 1e-3 of a timestep
    assert torch.allclose(a.x0, b.x0, atol=2e-2 * float(a.x0.abs().max()))
    for x, y in zip(xs, ys, strict=True):
        assert torch.allclose(x, y, atol=3e-2 * float(x.abs().max()))


@pytest.mark.parametrize("name", ["sd3", "sdxl", "stable_diffusion", "flux", "wan"])
def test_rbf_levels_and_glass_run_on_pipelines(name: str) -> None:
    pipe = ZOO[name].build()
    for sampler, options in (("rollover", {"levels": "rbf", "calls": 12, "kernel": "sde(rbf, vp)"}), ("smc", {
        "kernel": "glass(3)", "particles": 2, "window": (0.0, 1.0), "interval": 0.0})):  # fmt: skip
        arguments = ZOO[name].arguments(1) | {
            "output_type": "np",
            "generator": torch.Generator().manual_seed(0),
        }
        search = genscale.scale(pipe, sampler, lambda m, p: [0.0] * len(p), **options)(**arguments).search
        assert search.ledger.evaluations == search.searches[0].spent > 0


def test_a_grid_must_fit_the_process() -> None:
    process = PromptProcess(**process_of(6))
    fine = process.regridded(rbf_times(6).tolist())
    assert fine.steps == 6
    assert not fine.own_steps
    assert fine.schedule.linear_time[:-1].tolist() == pytest.approx(rbf_times(6).tolist())
    assert fine.places[0].step == 0
    for wrong in ([0.5, 0.6], []):
        with pytest.raises(UsageError, match="time grid"):
            process.regridded(wrong)
    closed = PromptProcess(**process_of(6) | {"off_grid": "this scheduler has no rule"})
    with pytest.raises(UsageError, match="no rule"):
        closed.regridded([0.9, 0.5])
    assert process.regridded() is process


def test_second_order_schedulers_are_taken_at_the_levels_where_steps_begin() -> None:
    process = PromptProcess(**process_of(5) | {"restarts": (0, 2, 4)})
    coarse = process.regridded()
    assert coarse.steps == coarse.model_steps == 3
    assert [coarse.place(i) for i in range(3)] == [0, 2, 4]
    assert coarse.schedule.linear_time.tolist() == pytest.approx([1.0, 0.6, 0.2, 0.0])
    assert not coarse.own_steps
