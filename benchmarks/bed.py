"""A small model with a reward, and a plain loop that lets the package's samplers run on it, many runs at a time.

No pipeline is involved: the engine asks, the loop answers. A run is a prompt of the engine, so one process fills its
batches with the questions of all runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genscale.diffusion.noise_schedule import NoiseLevel, NoiseSchedule
from genscale.diffusion.prediction import View
from genscale.engine.archive import Archive
from genscale.engine.budget import Budget
from genscale.engine.drive import drive
from genscale.engine.engine import Engine
from genscale.engine.ledger import Ledger
from genscale.engine.prior import Prior
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.key import Key
from genscale.media import Media
from genscale.protocol.batches import Batch, Output
from genscale.protocol.interfaces import Verifier
from genscale.protocol.particles import Memory, Particles

DRAWS = 16  # from what a run found


@dataclass(frozen=True, eq=False)
class Bed:
    """A model, a reward, and the chain that all samplers share.

    shape: of the latents. schedule: the noise levels; there are `steps` model calls. kind: what the model predicts.
    kernel: of every transition, of the plain run, too, so that all samplers start from one law. model: (x [n, *shape],
    level) -> prediction. decode: latents to images [n, c, h, w]. reward: a verifier; a prompt is a run's class.
    """

    shape: tuple[int, ...]
    schedule: NoiseSchedule
    kind: str
    kernel: Any
    model: Callable[[Tensor, NoiseLevel], Tensor]
    decode: Callable[[Tensor], Tensor]
    reward: Verifier
    limit: Any = None

    @property
    def steps(self) -> int:
        return self.schedule.steps

    @property
    def view(self) -> View:
        return View(self.schedule, self.kind, limit=self.limit)

    def base(self, n: int, seed: int) -> Tensor:
        """n images of the model alone, by the same chain, without engine or sampler."""
        g = torch.Generator().manual_seed(seed)
        x = self.schedule.level(0).sigma * torch.randn(n, *self.shape, generator=g)
        for i in range(self.steps):
            start, stop = self.schedule.level(i), self.schedule.level(i + 1)
            step = self.kernel.transition(x, *self.view.pair(start, self.model(x, start), x), start, stop)
            x = step.sample(torch.randn(n, *self.shape, generator=g)).float()
        return self.decode(x)


@dataclass(frozen=True)
class Chain:
    """The plain run of a bed: its kernel, with the noise of the pipeline's own scheduler."""

    bed: Bed

    def step(self, particles: Particles, output: Tensor, draw: Any) -> tuple[Tensor, Memory | None]:
        levels, i = self.bed.schedule, particles.step
        x0, eps = self.bed.view.clean_and_noise(i, output, particles.x)
        step = self.bed.kernel.transition(particles.x, x0, eps, levels.level(i), levels.level(i + 1))
        x = step.mean if step.std == 0 else step.sample(draw(0))
        return x.to(particles.x.dtype), None


@dataclass(frozen=True)
class Found:
    """What one run knows in the end: weighted images, of which some are drawn by their weights.

    images: [n, c, h, w]. weights, totals (rewards): float64 [n]. drawn: rows [m], independent given the run. spent:
    NFE. evidence: the log of its estimate of Z, NaN where it makes none.
    """

    pictures: Tensor
    weights: Tensor
    totals: Tensor
    drawn: Tensor
    spent: int
    evidence: float


def runs(
    bed: Bed, sampler: Any, prompts: Sequence[str], nfe: int, *, seed: int = 0, together: int = 100,
    batch_size: int = 4096,
) -> Iterator[Found]:  # fmt: skip
    """Independent runs of a sampler, each with a budget of so many NFE. Run i depends on seed, i and its prompt only.

    together: runs in one engine; a matter of memory and speed.
    """
    for first in range(0, len(prompts), together):
        some = prompts[first : first + together]
        for search, key in _searched(bed, sampler, some, nfe, seed, first, batch_size):
            yield _found(bed, search, key)


def _searched(
    bed: Bed, sampler: Any, prompts: Sequence[str], nfe: int, seed: int, first: int, batch_size: int
) -> list[tuple[Search, Key]]:
    roles, budget = Roles(VerifierSet((WeightedVerifier("reward", bed.reward),))), Budget(nfe=nfe)
    std = bed.schedule.level(0).sigma
    keys = [Key.from_seed(seed).fold("run", first + i) for i in range(len(prompts))]
    searches = []
    for i, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
        parts = {
            "evaluations": (1,) * bed.steps,
            "prior": Prior(
                torch.zeros(bed.shape), torch.full(bed.shape, std), std * key.fold("own").normal(bed.shape)
            ),
            "solver": Chain(bed),
            "view": bed.view,
            "own_draw": _own_draw(key, bed.shape),
        }
        # All finished candidates keep their latents: the draw is made from them.
        searches.append(Search.open(i, prompt, sampler, key, budget, roles, keep=nfe, **parts))
    engine = Engine(
        searches, roles, lambda x, _: Media(bed.decode(x)), budget=budget, archive=Archive(), ledger=Ledger(),
        batch_size=batch_size,
    )  # fmt: skip

    def evaluate(batch: Batch) -> Output:
        with torch.set_grad_enabled(batch.grad):
            value = bed.model(batch.x, bed.schedule.level(batch.step))
        return Output(value, batch.x, len(batch.prompts))

    drive(engine, evaluate)
    return list(zip(searches, keys, strict=True))


def _own_draw(key: Key, shape: tuple[int, ...]) -> Callable[[int, int], Tensor]:
    return lambda step, draw: key.fold("own-step", step, draw).normal(shape)


def _found(bed: Bed, search: Search, key: Key) -> Found:
    """The population with its weights; of a sampler that weighs nothing, its best."""
    entries = {e.candidate.id: e for e in search.finals}
    assert len(entries) == len(search.finals)
    population = search.population
    if population is None:
        best = search.best()
        assert best is not None
        held, weights, evidence = [best], torch.ones(1, dtype=torch.float64), float("nan")
    else:
        held = [entries[c.id] for c in population.candidates]
        weights, evidence = population.weights, population.log_evidence
    u = key.fold("draw").uniform(DRAWS)
    drawn = torch.searchsorted(weights.cumsum(0), u, right=True).clamp(max=len(held) - 1)
    totals = torch.tensor([e.scores["reward"] for e in held], dtype=torch.float64)
    pictures = bed.decode(torch.stack([e.x for e in held if e.x is not None]))
    return Found(pictures, weights, totals, drawn, search.spent, evidence)
