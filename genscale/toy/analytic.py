"""Closed-form models for writing and testing samplers: exact predictions, no pipeline, milliseconds a run.

    from genscale.toy import analytic
    model = analytic.gaussian(16)
    found = analytic.search("best_of_n", model, analytic.coordinate(0), budget="128nfe", runs=100)
    found.ranking(7)[0].total        # of run 7; compare with model.carry(noise, steps)

Engine, budgets, ledger and results are those of a pipeline; only the model is a formula. Each run is a prompt of the
engine, so that many runs share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.diffusion.prediction import View
from genscale.engine.archive import Archive, Entry
from genscale.engine.budget import Budget
from genscale.engine.drive import drive
from genscale.engine.engine import Engine
from genscale.engine.holding import DEVICE
from genscale.engine.ledger import Ledger
from genscale.engine.prior import Prior
from genscale.engine.search import Search
from genscale.engine.verifier_roles import Roles, verifier_set
from genscale.errors import UsageError
from genscale.key import Key
from genscale.media import Media
from genscale.plugins import registry
from genscale.protocol.batches import Batch, Output
from genscale.protocol.interfaces import Sampler
from genscale.protocol.particles import Memory, Particles
from genscale.results.result import SearchResult


@dataclass(frozen=True, eq=False)
class Mixture:
    """Isotropic Gaussian mixture under the rectified-flow interpolant x_t = (1 - t) x0 + t noise.

    means: [k, d]. std: of every component. weights: [k], equal where None.
    """

    means: Tensor
    std: float = 1.0
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if self.means.ndim != 2:
            raise UsageError(f"means must be [components, dimensions], not {list(self.means.shape)}.")
        if self.weights is not None and self.weights.shape != self.means.shape[:1]:
            raise UsageError(
                f"{len(self.means)} components need as many weights, not {list(self.weights.shape)}."
            )

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def clean(self, x: Tensor, t: float) -> Tensor:
        """E[x0 | x_t = x], [n, d] float64, for x [n, d] and t in [0, 1]."""
        alpha, means = 1 - t, self.means.double()
        var = (alpha * self.std) ** 2 + t**2
        gap = x.double()[:, None] - alpha * means  # [n, k, d]
        prior = torch.zeros(len(means)) if self.weights is None else self.weights.log()
        weight = torch.softmax(prior.double() - gap.square().sum(-1) / (2 * var), 1)
        return (weight[..., None] * (means + alpha * self.std**2 / var * gap)).sum(1)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """The prediction of a flow model at time t > 0, [n, d]."""
        return ((x.double() - self.clean(x, t)) / t).to(x.dtype)

    def carry(self, noise: Tensor, steps: int = 8) -> Tensor:
        """Clean latents [n, d] of a plain Euler loop from noise [n, d], without the engine."""
        x = noise
        for t, s in pairwise(times(steps)):
            x = x + (s - t) * self.velocity(x, t)
        return x


def gaussian(dim: int, mean: float = 0.0, std: float = 1.0) -> Mixture:
    """N(mean, std^2) in each of `dim` coordinates; the run from noise to clean latents is then linear."""
    return Mixture(torch.full((1, dim), float(mean)), std)


def coordinate(i: int) -> Callable[[Media, Sequence[str]], Tensor]:
    """A differentiable verifier whose score is coordinate i of the clean latents."""

    def score(media: Media | Tensor, prompts: Sequence[str]) -> Tensor:
        return latents(media)[:, i].double()

    score.__name__ = f"coordinate_{i}"
    score.score_tensor = score  # type: ignore[attr-defined]
    return score


def latents(media: Media | Tensor) -> Tensor:
    """Clean latents [n, d] of images of these models, which have one pixel with d channels."""
    return (media.pixels if isinstance(media, Media) else media).flatten(1)


def times(steps: int) -> tuple[float, ...]:
    """Noise levels of the grid, from 1 to 0."""
    return tuple(1 - i / steps for i in range(steps + 1))


def search(
    sampler: str | Sampler,
    model: Mixture,
    verifier: Any,
    *,
    held_out: Any = None,
    steps: int = 8,
    budget: Budget | str | None = None,
    runs: int = 1,
    seed: int = 0,
    batch_size: int = 256,
    keep: int = 1,
    hold: str = DEVICE,
) -> SearchResult:
    """Independent runs of a sampler on a model. Each is one prompt of the result and has the whole budget.

    verifier, held_out, keep, hold: as for `genscale.scale`. One row through the model is 1 NFE. UsageError: as for
    `scale`, and where a sampler asks for branches of guidance, which these models do not have.
    """
    if steps < 1 or runs < 1:
        raise UsageError(f"steps={steps} and runs={runs} must be at least 1.")
    sampler = registry.make("sampler", sampler, {}) if isinstance(sampler, str) else sampler
    roles = Roles(verifier_set(verifier, "weighted"), held_out=verifier_set(held_out, "weighted"))
    budget = Budget.of(budget).resolved(steps)
    keys = [Key.from_seed(seed).fold("prompt", i) for i in range(runs)]
    searches = [
        Search.open(
            i, f"run {i}", sampler, key, budget, roles, keep=keep, hold=hold, **_process(model, steps, key)
        )
        for i, key in enumerate(keys)
    ]
    archive, ledger = Archive(), Ledger()
    engine = Engine(
        searches, roles, _decoded, budget=budget, archive=archive, ledger=ledger, batch_size=batch_size
    )
    drive(engine, lambda batch: _answer(model, batch, times(steps)))
    return SearchResult(tuple(searches), tuple(archive.entries), ledger, budget, seed, _media)


def _process(model: Mixture, steps: int, key: Key) -> dict[str, Any]:
    """The parts of a run's process, as `Search.open` takes them."""
    shape, grid = (model.dim,), times(steps)
    alpha = torch.tensor([1 - t for t in grid], dtype=torch.float64)
    return {
        "evaluations": (1,) * steps,
        "prior": Prior(torch.zeros(shape), torch.ones(shape), key.fold("own").normal(shape)),
        "solver": _Euler(grid),
        "view": View(NoiseSchedule(alpha, 1 - alpha), "flow"),
        "off_grid": None,
    }


def _answer(model: Mixture, batch: Batch, grid: Sequence[float]) -> Output:
    """The model's velocity for every row, with its graph where the batch asks for one."""
    t = grid[batch.step] if batch.time is None else batch.time
    with torch.set_grad_enabled(batch.grad):
        if batch.checkpoint:
            value = checkpoint(model.velocity, batch.x, t, use_reentrant=False)
        else:
            value = model.velocity(batch.x, t)
    return Output(value, batch.x, len(batch.prompts))


@dataclass(frozen=True)
class _Euler:
    """The model's own scheduler: the Euler step of its flow."""

    grid: tuple[float, ...]

    def step(self, particles: Particles, output: Tensor, draw: Any) -> tuple[Tensor, Memory | None]:
        t, s = self.grid[particles.step], self.grid[particles.step + 1]
        return particles.x + (s - t) * output, None


def _decoded(x: Tensor, prompts: tuple[int, ...]) -> Media:
    return Media(x[:, :, None, None].clone())


def _media(entries: Sequence[Entry]) -> Media:
    return _decoded(torch.stack([e.x for e in entries if e.x is not None]), ())
