"""DNO: optimise all noises of a stochastic run, the initial one and the injected ones.

Tang et al. 2025, "Inference-Time Alignment of Diffusion Models with Direct Noise Optimization" (arXiv 2405.18881;
code TZW1998/Direct-Noise-Optimization).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.noise_ascent import NoiseAscent, NoiseGradient, Rows
from genscale.diffusion.kernels import Ddim, Kernel
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.numerics.optimisers import Adam, rowwise
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate, Particles
from genscale.protocol.queries import Denoise, Query, Score, Solve


@dataclass(frozen=True)
class Dno(NoiseGradient):
    """Adam on all noises of ancestral sampling (DDIM with eta = 1), with gradients through every model call.

    lr: 0.01 by default, as in the authors' code (its README has 0.001).
    clip: 1 by default. It limits the gradient by all noises together.
    iterations: 100, as published.
    reg: 0 by default. The authors' code has a coefficient gamma instead, also 0 by default, for a penalty of
        implausible noise. Here that implausibility is only measured (`noise` of a candidate in run.json).
    starts: 1 by default.
    blackbox: whether the gradient of the verifiers is estimated, for verifiers that have none. The gradient by the
        latents of the image is estimated from runs with perturbed noises, as sum (r_i - r) (x_i - x) scaled to length
        1, and then pulled back through the model. Warm-up and trials are not used with it.
    batch: number of perturbed runs for each estimate. 4 by default.
    mu: size of the perturbation. 0.01 by default, published.

    Differences: there is no weight decay (in the published code AdamW's default decay shrinks the noise, because the
    override is misspelt). The best candidate of all is returned, not the last. The perturbed runs are candidates too.

    Cost in NFE: as of `ditto`; for a black box f + starts * (iterations * (5 + batch) f + f), f being the evaluations
    of one candidate.
    """

    reg: float = 0.0
    lr: float = 0.01
    clip: float | None = 1.0
    blackbox: bool = False
    mu: float = 0.01
    batch: int = 4

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})  # with blackbox, no gradient
    PUBLISHED: ClassVar[int] = 100
    kernel: ClassVar[Ddim] = Ddim(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.mu > 0:
            raise UsageError("mu=0 moves no noise, so nothing can be estimated: give a number above 0.")

    @property
    def tries(self) -> int:
        return 0 if self.blackbox else self.trials

    @property
    def share(self) -> float:
        return 0.0 if self.blackbox else self.warmup

    def optimiser(self) -> Adam:
        return Adam(self.lr)

    def turn_nfe(self, process: Process) -> int:
        runs = (1 + self.batch) * process.nfe() if self.blackbox else 0
        return super().turn_nfe(process) + runs

    def turn_calls(self, process: Process, shows: bool) -> int:
        return process.calls(0, 1 + self.batch) if self.blackbox else super().turn_calls(process, shows)

    def turn(self, climb: NoiseAscent, rows: Rows) -> Generator[Query, Any, tuple[Graded, Tensor]]:
        if not self.blackbox:
            return (yield from super().turn(climb, rows))
        points, lead = climb.points[list(rows)], [climb.lead[i] for i in rows]
        moved = points.repeat_interleave(self.batch, 0)
        mutants = [self._mutant(climb, parent, j) for parent in lead for j in range(self.batch)]
        drawn = [Key(c.key).fold("perturbed").normal(tuple(points.shape[1:])) for c in mutants]
        moved = moved + self.mu * torch.stack(drawn)
        clean, scores = yield from run_from(
            climb.process, [*lead, *mutants], torch.cat([points, moved]), self.kernel
        )
        if len(scores) < len(lead) + len(mutants):  # time is short
            raise BudgetExhausted
        pull, merits = hybrid(clean.x, self.merit(scores, climb.process), len(lead))
        graded: Graded = yield climb.ask(rows, pull)
        return graded, merits[: len(graded)]

    def _mutant(self, climb: NoiseAscent, parent: Candidate, j: int) -> Candidate:
        key = Key(parent.key).fold("turn", climb.turns, j)
        return Candidate(climb.number(), "mutant", key.path, parent.id, details={"mu": self.mu})

    def run(
        self, process: Process, candidates: Sequence[Candidate], points: Tensor, rest: Kernel | None
    ) -> Generator[Query, Any, Scores]:
        return (yield from run_from(process, candidates, points, self.kernel))[1]


def hybrid(x: Tensor, merits: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """(pullback [rows, *latent], merits [rows]) of clean latents: first the `rows` bases, then the perturbed ones.

    The pullback is sum_i (r_i - r) (x_i - x), scaled to length 1. It estimates the direction of J J^T dr/dx, where J is
    dx / d noises.
    """
    base, moved = x[:rows].float(), x[rows:].float()
    gain = (merits[rows:].view(rows, -1) - merits[:rows, None]).to(moved)
    away = moved.view(rows, -1, *base.shape[1:]) - base[:, None]
    failed = ~gain.isfinite()  # of candidates that failed, nothing is learned
    gain = gain.masked_fill(failed, 0)
    away = away.masked_fill(failed.view(*failed.shape, *[1] * (base.ndim - 1)), 0)
    pull = (rowwise(gain.flatten(), moved).view(rows, -1, *[1] * (base.ndim - 1)) * away).sum(1)
    length = pull.flatten(1).norm(dim=1).clamp(min=torch.finfo(pull.dtype).tiny)
    return pull / rowwise(length, pull), merits[:rows]


def run_from(
    process: Process, candidates: Sequence[Candidate], points: Tensor, kernel: Ddim
) -> Generator[Query, Any, tuple[Particles, Scores]]:
    """Whole runs with given noises [n, noises, *latent], scored. Only the first rows where time is short."""
    particles = process.start(candidates, points[:, 0])
    for step in range(process.model_steps):
        prediction: Prediction = yield Denoise(particles)
        particles = particles[: len(prediction)]
        if step + 1 == process.model_steps:
            break
        made = process.transition(particles, prediction, kernel)
        noise = points[: len(particles), 1 + step].to(made.mean.device)
        particles = Particles(made.sample(noise), step + 1, particles.candidates)
    finished = yield Solve(process.estimate(particles, prediction, particles.candidates))
    scores: Scores = yield Score(finished)
    return finished[: len(scores)], scores
