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
from genscale.algorithms.option_checks import check_options, window_of_run
from genscale.algorithms.preview_steps import steps_between
from genscale.algorithms.transition_kernels import outside
from genscale.diffusion.kernels import Ddim, Kernel, parse
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.queries import Query

CANDIDATES = 4  # where neither a number nor a budget is given


@dataclass(frozen=True)
class GradientGuidance:
    """Gradient guidance: move the clean estimate of each candidate along the gradient of its score at every step.

    candidates: number of candidates. None, the default, means as many as the budget pays for (4 without a budget).
    through: what the gradient is taken through. "model" goes back through verifier, decoder and denoiser, as do DPS
        (Chung et al. 2023, arXiv 2209.14687), FreeDoM (Yu et al. 2023, 2303.09833) and Universal Guidance (Bansal et
        al. 2023, 2302.07121). "decoder", the default, holds the noise constant and leaves the denoiser out, as do
        SceneGenie (2304.14573) and MPGD (2311.16424), and costs no NFE.
    scale: strength of the whole run; 0.1 by default (ours): on the bundled flow model 0.3 gains more of the searched
        score and loses on the held-out judge. Where rows are normalised it is how far a candidate is moved in all, in
        standard deviations of unit-variance data, for each radian of the angle atan(sigma / alpha) that the window
        spans (1.2 for the default on a linear flow), however many steps there are.
    normalise: how gradients are scaled. "row", the default, brings the gradient of every row to a root mean square of
        1, and moves the clean estimate by scale * spread times this gradient. Here spread = kappa / sqrt(1 + kappa^2)
        with kappa = sigma / alpha, which is the posterior std of unit-variance data. The noise estimate moves with it,
        so that a step takes over only its share of the move, scale times the angle of the step. "each" brings the
        gradient of every verifier to that size before they are summed, and then the weighted sum as well. "none" moves
        by scale times posterior covariance times gradient, the guidance towards exp(scale * score): exact for Gaussian
        data and linear scores, except that a step out of pure noise is not guided, and to first order else. DPS divides
        by the norm of its residual, which only a squared error has. For a squared error the normalisation here does the
        same.
    clip: largest root mean square of a verifier's weighted gradient before they are added up. inf by default, which
        limits nothing. A limit costs one backward pass for each verifier.
    recurrence: how often each step is taken. Before every repetition the state goes back up to the step with fresh
        noise, as in the recurrence of Universal Guidance and TFG (Ye et al. 2024, 2409.15761) and in FreeDoM's
        time-travel. 1 by default.
    window: fractions of the run between which steps are guided.
    kernel: the kernel of guided steps, "ode" or "ddim(eta)".
    rest: kernel of the other steps; "own" is the pipeline's scheduler.

    What is left of a budget is spent on plain candidates. The scores of estimates during the run count as previews.

    Cost in NFE: per candidate f(0, T), and for each guided step 2 NFE for each of its model calls (none through the
    decoder), each `recurrence` times.
    """

    candidates: int | None = None
    through: str = "decoder"
    scale: float = 0.1
    normalise: str = "row"
    clip: float = math.inf
    recurrence: int = 1
    window: tuple[float, float] = (0.2, 0.9)
    kernel: str | Kernel = "ode"
    rest: str | Kernel = "own"

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule", "gradient"})
    asks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self, recurrence=1, candidates=1)
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
            nfe, previews = plan.nfe(process), plan.previews
            while n := (yield from next_batch(process, self.candidates, done, nfe, previews, CANDIDATES)):
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
        """Steps in the window that can be guided.

        At pure noise the gradient does not pass through the decoder, and the posterior covariance has no bound.
        """
        found = list(steps_between(process, self.window))
        if self.through == "model" and self.normalise != "none":
            return found
        return [i for i in found if process.schedule.level(i).alpha > 0]

    def cost(self, process: Process) -> int | None:
        if process.open_ended:
            return None
        return cost_of(process, self.candidates, self.plan(process).nfe(process), CANDIDATES)
