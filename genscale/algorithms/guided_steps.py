"""Guidance by the gradient of the search score: candidates are moved along it during the run.

At every step of a window the clean estimate is moved along the gradient, and the estimate of the noise with it, so that
x = alpha x0 + sigma eps still holds: a score that is changed by g changes x0 by sigma^2 / alpha g and eps by -sigma g
(Dhariwal & Nichol 2021, arXiv 2105.05233, algorithm 2). The pair describes the same latents, so the move of a step
shrinks with the step, and the move of a whole run does not depend on the number of steps. With eps unchanged a step
would move x' by alpha' move however short it is. DPS (2209.14687) and FreeDoM (2303.09833) move x', and MPGD
(2311.16424) moves x0 and keeps eps, at numbers of steps that are fixed; Universal Guidance (2302.07121) moves eps, as
here.
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
        """Whether the gradient of every verifier is needed separately."""
        return self.normalise == "each" or math.isfinite(self.clip)

    def move(self, graded: Graded, level: NoiseLevel) -> Tensor:
        """The move [n, *latent] that is added to the clean estimates at a noise level."""
        gradient = self._joined(graded)
        spread = 1.0 if math.isinf(level.kappa) else level.kappa / math.hypot(1.0, level.kappa)
        if self.normalise != "none":
            return self.scale * spread * gradient / _rms(gradient)
        # Tweedie's formula for the guided score; sigma^2 / alpha d x0 / d x is the posterior covariance of x0.
        if self.through == "model":
            return self.scale * level.sigma**2 / level.alpha * gradient
        return self.scale * spread**2 * level.alpha * gradient

    def _joined(self, graded: Graded) -> Tensor:
        """The gradient of the combined score [n, *latent], after the gradient of every verifier was clipped or
        normalised if the options say so."""
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
    """Root mean square over all dimensions except the `first` leading ones. It is above 0, so that a gradient of 0
    divided by it is 0."""
    size = gradient.square().mean(dim=tuple(range(first, gradient.ndim)), keepdim=True).sqrt()
    return size.clamp_min(torch.finfo(gradient.dtype).tiny)


@dataclass(frozen=True)
class GuidedSteps:
    """Runs candidates with guided steps.

    window: first and last guided step; None: no step is guided. recurrence: number of times that each guided step is
    taken. kernel: of the guided steps. rest: kernel of the other steps; None: the pipeline's own scheduler.
    """

    push: Push
    window: tuple[int, int] | None
    recurrence: int
    kernel: Ddim
    rest: Kernel | None

    @property
    def steps(self) -> range:
        return range(0) if self.window is None else range(self.window[0], self.window[1] + 1)

    def nfe(self, process: Process) -> int:
        """NFE of one candidate."""
        if self.window is None:
            return process.nfe(0, None, self.rest)
        low, high = self.window
        each = (process.gradient_nfe(i, (), self.push.through, self.push.each) for i in self.steps)
        plain = process.nfe(0, low, self.rest) + process.nfe(high + 1, None, self.rest)
        return plain + self.recurrence * sum(each)

    @property
    def previews(self) -> int:
        """Number of clean estimates that are scored for one candidate."""
        return self.recurrence * len(self.steps)

    def run(self, process: Process, key: Key, first: int, n: int) -> Generator[Query, Any, Scores]:
        """Run and score n candidates with ids from `first` on."""
        particles = process.start([draw(key, first + i) for i in range(n)])
        if self.window is not None:
            particles = yield Solve(particles, self.window[0], self.rest)
            with suppress(BudgetExhausted):  # time is up: the candidates continue without guidance
                for step in self.steps:
                    for again in range(self.recurrence):
                        particles = yield from self._step(process, particles, step, again)
        finished: Particles = yield Solve(particles, None, self.rest)
        scores: Scores = yield Score(finished)
        return scores

    def _step(
        self, process: Process, particles: Particles, step: int, again: int
    ) -> Generator[Query, Any, Particles]:
        """Take one guided step. again: 0 the first time; a repetition first returns to the step with fresh noise."""
        if again:
            particles = process.renoise(
                particles, step, [_again(c, step, again) for c in particles.candidates]
            )
        graded: Graded = yield Gradient(particles, through=self.push.through, each=self.push.each)
        particles, found = particles[: len(graded)], graded.prediction
        level = process.schedule.level(step)
        moved = shifted(found, self.push.move(graded, level), level)
        return process.take(particles, process.transition(particles, moved, self.kernel))


def shifted(found: Prediction, move: Tensor, level: NoiseLevel) -> Prediction:
    """The prediction with its clean estimate moved by move [n, *latent], and the noise that then belongs to the same
    latents: (x - alpha x0) / sigma."""
    return Prediction(found.x0 + move, found.eps - level.alpha / level.sigma * move)


def _again(candidate: Candidate, step: int, again: int) -> Candidate:
    """The same candidate with fresh noise for a repetition of a step."""
    return replace(candidate, key=Key(candidate.key).fold("again", step, again).path)
