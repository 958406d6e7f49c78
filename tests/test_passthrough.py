"""A search of one candidate is the pipeline itself, bit for bit; every row of a batch is that latent alone."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import genscale
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.queries import Query, Score, Solve
from genscale.samplers.best_of_n import draw
from tests.quick import quick, third
from tests.zoo import ZOO, with_scheduler

TOLERANCE = 2e-5  # of the spread between candidates: float32 kernels round differently by batch size


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def pixels(output: Any) -> Tensor:
    first = output[0]
    return (
        torch.stack([torch.as_tensor(x) for x in first])
        if isinstance(first, list)
        else torch.as_tensor(first)
    )


CASES = [(name, scheduler) for name, entry in ZOO.items() for scheduler in (None, *entry.schedulers)]


@pytest.mark.parametrize(("name", "scheduler"), quick(CASES, CASES[::3], sets=True))
def test_one_candidate_is_the_pipeline_itself(name: str, scheduler: str | None) -> None:
    entry = ZOO[name]
    pipe = entry.build()
    if scheduler is not None:
        pipe = with_scheduler(pipe, scheduler)
    for prompts in (1, 2):
        # fresh arguments each time: some pipelines write into the prompt list that they are given
        alone = pixels(pipe(**entry.arguments(prompts), output_type="np", generator=seeded()))
        before = dict(pipe.__dict__)
        scaled = genscale.scale(pipe, candidates=1)
        output = scaled(**entry.arguments(prompts), output_type="np", generator=seeded())
        assert torch.equal(alone, pixels(output))
        search = output.search
        assert search.ledger.evaluations == sum(s.spent for s in search.searches) > 0
        assert search.ledger.probes == 0
        assert pipe.__dict__.keys() == before.keys()
        assert all(pipe.__dict__[k] is before[k] for k in before)


EMBEDDED = [
    ("shapes-flow", None),
    ("shapes-flow", "UniPCMultistepScheduler"),
    ("shapes-diffusion", None),
    ("shapes-diffusion", "EulerAncestralDiscreteScheduler"),
    ("shapes-diffusion", "DPMSolverMultistepScheduler"),
    ("shapes-diffusion", "HeunDiscreteScheduler"),
]


@pytest.mark.parametrize(("model", "scheduler"), EMBEDDED)
def test_one_candidate_is_the_embedded_model_itself(model: str, scheduler: str | None) -> None:
    pipe = genscale.load_pipeline(model, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipe = with_scheduler(pipe, scheduler)
    for prompt in ("a red star", ["a red star", "three green circles"]):
        call = {"prompt": prompt, "num_inference_steps": 6, "guidance_scale": 3.0, "output_type": "np"}
        alone = pipe(**call, generator=seeded()).images
        output = genscale.scale(pipe, candidates=1)(**call, generator=seeded())
        assert np.array_equal(alone, output.images)


@dataclass(frozen=True)
class Collect:
    """Solve n candidates and remember their latents."""

    n: int
    latents: list[Tensor] = field(default_factory=list)
    needs = frozenset({"noise"})

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        finished = yield Solve(process.start([draw(key, i) for i in range(self.n)]))
        self.latents.append(finished.x)
        yield Score(finished)

    def cost(self, process: Process) -> int:
        return self.n * process.nfe()


def equal(media: Any, prompts: Any) -> list[float]:
    """A verifier for searches whose candidates are all looked at: the first wins."""
    return [0.0] * len(prompts)


def solved(pipe: Any, arguments: dict[str, Any], n: int, batch_size: int) -> list[Tensor]:
    sampler = Collect(n)
    scaled = genscale.scale(pipe, sampler, equal, batch_size=batch_size)
    scaled(**arguments, output_type="np", generator=seeded())
    return sampler.latents


@pytest.mark.parametrize("name", third(ZOO))
def test_each_row_of_a_batch_is_that_latent_alone(name: str) -> None:
    entry = ZOO[name]
    pipe = entry.build()
    alone = solved(pipe, entry.arguments(1), 5, 1)[0]
    spread = float((alone[1] - alone[0]).abs().max())
    assert spread > 0.1  # else the comparison would prove nothing
    for batch_size in (2, 5):
        together = solved(pipe, entry.arguments(1), 5, batch_size)[0]
        assert float((together - alone).abs().max()) < TOLERANCE * spread


@pytest.mark.parametrize("name", third(ZOO))
def test_latents_of_several_prompts_share_a_batch(name: str) -> None:
    entry = ZOO[name]
    pipe = entry.build()
    alone = solved(pipe, entry.arguments(3), 2, 1)
    together = solved(pipe, entry.arguments(3), 2, 5)  # batches of 5 latents of 3 prompts, and the sixth
    assert len(together) == 3
    for a, b in zip(alone, together, strict=True):
        assert float((a - b).abs().max()) < TOLERANCE * float((a[1] - a[0]).abs().max())
    differences = [float((together[i][1] - together[j][1]).abs().max()) for i, j in ((0, 1), (1, 2))]
    assert min(differences) > 1e-2  # the prompts matter
