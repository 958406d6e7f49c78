"""Guidance by the gradient of the search score: candidates are moved along it during the run.

At every step of a window the clean estimate is moved along the gradient, and the transition continues from there with
the estimate of the noise as it was, x' = alpha' (x0 + move) + sqrt(sigma'^2 - std^2) eps + std z, so the next latents
move by alpha' move. That is the form of MPGD (arXiv 2311.16424); DPS (2209.14687) and FreeDoM (2303.09833) move x', and
Universal Guidance (2302.07121) eps instead, which is the same up to a factor that depends on the noise level.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genscale.diffusion.kernels import Ddim, Kernel
from genscale.diffusion.noise_schedule import NoiseLevel
from genscale.errors import BudgetExhausted
from genscale.key import Key
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate, Particles, draw
from genscale.protocol.queries import Gradient, Query, Score, Solve

NORMALISE = ("row", "each", "none")


@dataclass(frozen=True)
class Push:
    """How a gradient becomes a move of the clean estimate; see samplers/gradient_guidance.py for the fields."""

    scale: float
    normalise: str
    clip: float
    through: str

    @property
    def each(self) -> bool:
        """Whether the gradient of every verifier is needed by itself."""
        return self.normalise == "each" or math.isfinite(self.clip)

    def move(self, graded: Graded, level: NoiseLevel) -> Tensor:
        """What is added to the clean estimates [n, *latent]."""
        gradient = self._joined(graded)
        spread = 1.0 if math.isinf(level.kappa) else level.kappa / math.hypot(1.0, level.kappa)
        if self.normalise != "none":
            return self.scale * spread * gradient / _rms(gradient)
        # Tweedie's formula for the guided score; sigma^2 / alpha d x0 / d x is the posterior covariance of x0.
        if self.through == "model":
            return self.scale * level.sigma**2 / level.alpha * gradient
        return self.scale * spread**2 * level.alpha * gradient

    def _joined(self, graded: Graded) -> Tensor:
        """The gradient of the combined score, with that of every verifier clipped or normalised."""
        if not self.each:
            return graded.gradient
        assert graded.each is not None
        assert graded.scores is not None
        parts = graded.each
        weights = graded.scores.combine(torch.eye(len(parts), dtype=torch.float64)).to(parts)
        weights = weights.reshape(-1, *[1] * (parts.ndim - 1))
        if self.normalise == "each":
            return (weights * parts / _rms(parts, first=2)).sum(0)
        parts = weights * parts
        return (parts * (self.clip / _rms(parts, first=2)).clamp_max(1.0)).sum(0)


def _rms(gradient: Tensor, first: int = 1) -> Tensor:
    """Root mean square over all but the first dimensions, which stay; a gradient of 0 has a direction of 0."""
    size = gradient.square().mean(dim=tuple(range(first, gradient.ndim)), keepdim=True).sqrt()
    return size.clamp_min(torch.finfo(gradient.dtype).tiny)


@dataclass(frozen=True)
class GuidedSteps:
    """The guided steps and their kernel. window: first and last of them, None where there is none. recurrence: times
    that each is taken. kernel: of these steps; rest: of the others, None being the pipeline's own scheduler."""

    push: Push
    window: tuple[int, int] | None
    recurrence: int
    kernel: Ddim
    rest: Kernel | None

    @property
    def steps(self) -> range:
        return range(0) if self.window is None else range(self.window[0], self.window[1] + 1)

    def nfe(self, process: Process) -> int:
        """Of one candidate."""
        if self.window is None:
            return process.nfe(0, None, self.rest)
        low, high = self.window
        each = (process.gradient_nfe(i, (), self.push.through, self.push.each) for i in self.steps)
        plain = process.nfe(0, low, self.rest) + process.nfe(high + 1, None, self.rest)
        return plain + self.recurrence * sum(each)

    @property
    def previews(self) -> int:
        """Clean estimates of one candidate that are scored."""
        return self.recurrence * len(self.steps)

    def run(self, process: Process, key: Key, first: int, n: int) -> Generator[Query, Any, Scores]:
        """Candidates from number `first` on, to their final scores."""
        particles = process.start([draw(key, first + i) for i in range(n)])
        if self.window is not None:
            particles = yield Solve(particles, self.window[0], self.rest)
            with suppress(BudgetExhausted):  # of time: the candidates continue unguided
                for step in self.steps:
                    for again in range(self.recurrence):
                        particles = yield from self._step(process, particles, step, again)
        finished: Particles = yield Solve(particles, None, self.rest)
        scores: Scores = yield Score(finished)
        return scores

    def _step(
        self, process: Process, particles: Particles, step: int, again: int
    ) -> Generator[Query, Any, Particles]:
        """From a step to the next; each repetition first goes back to the step with fresh noise."""
        if again:
            particles = process.renoise(
                particles, step, [_again(c, step, again) for c in particles.candidates]
            )
        graded: Graded = yield Gradient(particles, through=self.push.through, each=self.push.each)
        particles, found = particles[: len(graded)], graded.prediction
        moved = Prediction(found.x0 + self.push.move(graded, process.schedule.level(step)), found.eps)
        return process.take(particles, process.transition(particles, moved, self.kernel))


def _again(candidate: Candidate, step: int, again: int) -> Candidate:
    """The same candidate with fresh noise for a repetition of a step."""
    return replace(candidate, key=Key(candidate.key).fold("again", step, again).path)
