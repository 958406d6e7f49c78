"""Snapshot and restore: a particle that is put away, on disk too, goes on to the very bits that it would have come to.

Branching, backtracking and resume rest on it, for every scheduler with whatever it remembers.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import genscale
from genscale.engine.archive import Archive
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, draw
from genscale.protocol.queries import Query, Score, Solve
from tests.test_passthrough import CASES, equal, seeded
from tests.zoo import ZOO, with_scheduler

# Those that compute a step from earlier model outputs: for them a snapshot of the latents alone is not enough.
REMEMBERING = {
    "CogVideoXDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
}
# The pipeline that each is tried with: those of the zoo, and more that any Stable Diffusion takes.
SCHEDULERS = dict.fromkeys(sorted(REMEMBERING), "stable_diffusion") | {
    scheduler or type(ZOO[name].build().scheduler).__name__: name for name, scheduler in CASES[::-1]
}


@dataclass(frozen=True)
class Restore:
    """One candidate to the end in one go; and to a step, put away while another runs, and on from there."""

    folder: Path
    step: int
    ends: dict[str, Tensor] = field(default_factory=dict)
    needs = frozenset({"noise"})

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        start = process.start([draw(key, 1)])
        finished = yield Solve(start)
        self.ends["in one go"] = finished.x
        state: Particles = yield Solve(start, self.step)
        archive = Archive(self.folder, {})
        archive.add_solved(0, state)
        archive.close()
        yield Solve(process.start([draw(key, 2)]))  # whatever the scheduler object remembers now is another's
        self.ends["from memory"] = (yield Solve(state)).x
        self.ends["from memory again"] = (yield Solve(state)).x
        stored = Archive(self.folder, {}).solved(0, state.candidates[0], self.step)
        assert stored is not None
        self.ends["from disk"] = (yield Solve(stored)).x
        self.ends["without its history"] = (yield Solve(replace(state, memory=None))).x
        yield Score(finished)

    def cost(self, process: Process) -> None:
        return None


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_a_particle_goes_on_from_a_snapshot_bit_for_bit(scheduler: str, tmp_path: Path) -> None:
    entry = ZOO[SCHEDULERS[scheduler]]
    pipe = with_scheduler(entry.build(), scheduler)
    sampler = Restore(tmp_path / "run", step=3)
    arguments = entry.arguments(1) | {"num_inference_steps": 6}
    genscale.scale(pipe, sampler, equal)(**arguments, output_type="np", generator=seeded())
    whole = sampler.ends["in one go"]
    assert torch.isfinite(whole).all()
    for way in ("from memory", "from memory again", "from disk"):
        assert torch.equal(sampler.ends[way], whole), way
    lost = not torch.equal(sampler.ends["without its history"], whole)
    assert lost == (scheduler in REMEMBERING)
