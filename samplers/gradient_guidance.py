"""Gradient guidance: candidates are moved along the gradient of the search score during the run."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from genscale.algorithms.budget_planning import cost_of, next_batch
from genscale.algorithms.guided_steps import NORMALISE, GuidedSteps, Push
from genscale.algorithms.leftover_budget import spend_leftover_budget
from genscale.algorithms.option_checks import at_least, window_of_run
from genscale.algorithms.transition_kernels import outside
from genscale.diffusion.kernels import Ddim, Kernel, parse
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.queries import Query

CANDIDATES = 4  # without a number and without a budget


@dataclass(frozen=True)
class GradientGuidance:
    """Gradient guidance: move the clean estimate of each candidate along the gradient of its score at every step.

    candidates: None: as many as the budget pays for, 4 without one.
    through: "model", back through verifier, decoder and denoiser as DPS (Chung et al. 2023, arXiv 2209.14687), FreeDoM
        (Yu et al. 2023, 2303.09833) and Universal Guidance (Bansal et al. 2023, 2302.07121) go; or "decoder", with
        the noise held constant and without the denoiser, as SceneGenie (2304.14573) and MPGD (2311.16424) go, at no
        NFE.
    scale: size of the move. normalise: "row": every row's gradient is brought to a root mean square of 1, and the clean
        estimate moves by scale * spread of that, spread = kappa / sqrt(1 + kappa^2) with kappa = sigma / alpha, the
        posterior std of unit-variance data: a scale of 0.1 moves by a tenth of the posterior std, so by nothing at the
        clean end. "each": every verifier's gradient is brought to that size before the weighted sum is, too. "none":
        the move is scale times posterior covariance times gradient, the exact guidance towards exp(scale * score) to
        first order. DPS divides by the norm of its residual, which only a squared error has; ours is the same for that.
    clip: largest root mean square of a verifier's weighted gradient before they are added up; costs one backward pass
        each.
    recurrence: times that a step is taken, each but the first after going back up to it with fresh noise (the
        recurrence of Universal Guidance and of TFG, Ye et al. 2024, 2409.15761; FreeDoM's time-travel).
    window: fractions of the run between which steps are guided. kernel: of these, "ode" or "ddim(eta)". rest: of the
        others; "own" is the pipeline's scheduler.

    What is left of a budget is spent on plain candidates. Scores of the estimates on the way count as previews.
    Cost in NFE: per candidate f(0, T), and for each guided step 2 NFE for each of its model calls (none through the
    decoder), each `recurrence` times.
    """

    candidates: int | None = None
    through: str = "decoder"
    scale: float = 0.2
    normalise: str = "row"
    clip: float = math.inf
    recurrence: int = 1
    window: tuple[float, float] = (0.2, 0.9)
    kernel: str | Kernel = "ode"
    rest: str | Kernel = "own"

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule", "gradient"})

    def __post_init__(self) -> None:
        if self.through not in ("model", "decoder"):
            raise UsageError(f"through='{self.through}' is unknown: give model or decoder.")
        if self.normalise not in NORMALISE:
            raise UsageError(f"normalise='{self.normalise}' is unknown: give one of {', '.join(NORMALISE)}.")
        if not 0 <= self.scale < math.inf:
            raise UsageError(
                f"scale={self.scale} must be a number of 0 or more; the score's sign is its own."
            )
        if not self.clip > 0:
            raise UsageError(f"clip={self.clip} must be above 0; inf limits nothing.")
        at_least(self, recurrence=1, candidates=1)
        window_of_run(self.window, "0.2,0.9")
        if not isinstance(parse(self.kernel), Ddim):
            raise UsageError(f"kernel '{self.kernel}' cannot be guided: use ode or ddim(eta).")
        parse(self.rest)

    def grid(self, process: Process) -> Process:
        """On second-order schedulers kernels step over the levels at which a step begins."""
        return process.regridded()

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        plan, done = self.plan(process), 0
        with suppress(BudgetExhausted):
            while n := next_batch(
                process, self.candidates, done, plan.nfe(process), plan.previews, CANDIDATES
            ):
                yield from plan.run(process, key, done, n)
                done += n
        with suppress(BudgetExhausted):
            yield from spend_leftover_budget(process, key, done)

    def plan(self, process: Process) -> GuidedSteps:
        steps = self._guided(process)
        rest = outside(process, self.rest, branched=bool(steps))
        kernel = parse(self.kernel)
        assert isinstance(kernel, Ddim)
        push = Push(self.scale, self.normalise, self.clip, self.through)
        return GuidedSteps(push, (steps[0], steps[-1]) if steps else None, self.recurrence, kernel, rest)

    def _guided(self, process: Process) -> list[int]:
        """Steps in the window. At pure noise no gradient leads through the decoder, and its covariance has no bound."""
        low, high = (f * process.model_steps for f in self.window)
        found = [i for i in range(process.model_steps) if low <= i <= high]
        if self.through == "model" and self.normalise != "none":
            return found
        return [i for i in found if process.schedule.level(i).alpha > 0]

    def cost(self, process: Process) -> int | None:
        if process.open_ended:
            return None
        return cost_of(process, self.candidates, self.plan(process).nfe(process), CANDIDATES)
