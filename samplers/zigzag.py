"""Zigzag diffusion sampling: every step is made, inverted with weak guidance, and made again. It needs no reward."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from genscale.algorithms.budget_planning import cost_of, next_batch
from genscale.algorithms.leftover_budget import spend_leftover_budget
from genscale.algorithms.option_checks import check_options
from genscale.diffusion.kernels import Ddim
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.answers import Prediction
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, branch, draw
from genscale.protocol.queries import Denoise, Query, Score, Solve

ODE = Ddim(0.0)


@dataclass(frozen=True)
class Zigzag:
    """Zigzag sampling: make each step with guidance, invert it without, and make it again; uses no verifier.

    Z-sampling (Bai et al. 2025, "Zigzag Diffusion Sampling", ICLR) lets the effect of guidance accumulate in the
    latents. Each of the first steps has three parts: a DDIM step with the pipeline's guidance, a step back with the
    unconditional prediction alone (the paper's inversion guidance of 0), and the first step again.

    candidates: number of noises that are run in this way. The best image is the result. None, the default, means as
        many as the budget pays for (1 without a budget).
    until: fraction of the run up to which steps are repeated. 0.98 by default (the paper repeats 49 of 50 steps). The
        last step is never inverted.

    It needs a pipeline with both branches of guidance. Its steps are DDIM steps, whatever the pipeline's scheduler is.

    Cost in NFE: of one candidate f + about until (1.5 f), 2.5 times a plain one.
    """

    candidates: int | None = None
    until: float = 0.98

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule", "branches"})
    asks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self, candidates=1)
        if not 0 < self.until <= 1:
            raise UsageError(f"until={self.until} must be a fraction of the run in (0, 1].")

    def grid(self, process: Process) -> Process:
        """On second-order schedulers DDIM steps over the levels at which a step begins."""
        return process.regridded()

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        turns, done = self._turns(process), 0
        each = 1 + len(turns)  # ids that a candidate takes, one more for each time that it is inverted
        while n := (yield from next_batch(process, self.candidates, done, self._price(process))):
            ids = [(done + i) * each for i in range(n)]
            particles = process.start([draw(key, i) for i in ids])
            for step in range(process.model_steps):
                prediction: Prediction = yield Denoise(particles)
                particles = particles[: len(prediction)]
                ahead = process.move(particles, prediction, ODE)
                if step in turns:
                    back: Prediction = yield Denoise(ahead, "uncond")
                    ahead = ahead[: len(back)]  # fewer where time runs short
                    level = process.schedule.level(step)
                    x = level.alpha * back.x0 + level.sigma * back.eps
                    rows = zip(ids, ahead.candidates, strict=False)
                    candidates = [branch(key, i + 1 + step, c, step) for i, c in rows]
                    particles = Particles(x, step, tuple(candidates))
                    prediction = yield Denoise(particles)
                    particles = particles[: len(prediction)]
                    ahead = process.move(particles, prediction, ODE)
                particles = ahead
            finished = yield Solve(particles)
            yield Score(finished)
            done += n
        if self.candidates is None or not done:  # a plain candidate where the budget pays for no other
            yield from spend_leftover_budget(process, key, done * each)

    def _turns(self, process: Process) -> range:
        """Steps that are made, inverted and made again."""
        return range(min(round(self.until * process.model_steps), process.model_steps - 1))

    def _price(self, process: Process) -> int:
        again = [process.nfe(i, i + 1) + process.branch_nfe(i + 1) for i in self._turns(process)]
        return process.nfe() + sum(again)

    def cost(self, process: Process) -> int | None:
        return cost_of(process, self.candidates, self._price(process))
