"""The particle core: sequential Monte Carlo along the reverse process (Feynman-Kac steering), in all its forms.

Target: p(x0) exp(strength R(x0)) / Z, p being the law of the base process and R the verifier's score (Singhal et
al. 2025, arXiv 2501.06848; Del Moral 2004). At scoring steps the clean estimates of the *current* states are
decoded and judged, log-weights are updated by a potential, and particles are resampled; the next transition starts
from the predictions that were made for scoring, so scoring costs no model call. The published methods are presets,
in samplers/.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

from genscale.algorithms.budget_planning import largest, within
from genscale.errors import BudgetExhausted, Refusal
from genscale.diffusion.kernels import Glass, Kernel, Own, parse
from genscale.key import Key
from genscale.algorithms.particle_pass import Pass, Proposal
from genscale.protocol.population import Population
from genscale.algorithms.tempering import POTENTIALS, TEMPERS
from genscale.protocol.interfaces import Ask, Process
from genscale.algorithms.leftover_budget import remainder
from genscale.algorithms.guided_proposal import NONE, THROUGH
from genscale.numerics.resampling import SCHEMES

UNLIMITED = 16  # particles when neither the user nor a budget says how many


@dataclass(frozen=True)
class ParticleFilter:
    """The fields that all presets share; each preset explains its own defaults.

    particles: N that are kept at each selection; None: as many as one pass can have within the budget. children: M
        tried for each of them (1: plain SMC).
    group: "global", all compete with all; or "parent", each particle keeps one of its own children.
    strength: of the tilt, in units of the verifier's spread (see scale); inf always keeps the best.
    potential: "difference", "max", "sum" or "reward" (genscale.algorithms.tempering).
    temper: how the strength grows along the run: "constant", "increasing", "adaptive" (keeps the ESS at the share
        `ess`) or "damped" (by the posterior variance).
    scheme: of resampling: "systematic", "ssp", "stratified", "residual", "multinomial" or "killing".
    ess: resample where the effective sample size is at most this share of the particles; 1: always.
    flatten: while weights collapse in the first half of the run, draw by flattened ones (arXiv 2510.05825).
    kernel: of the steps between the first and the last scoring, where copies must part: "ddim(eta)",
        "sde(churn, interpolant)" or "glass(inner, rho)".
    rest: the kernel before and after: "own" is the pipeline's scheduler, "ode", or any of the above.
    rebirth: kernel of the first step of copies, where it is not the same ("" if it is).
    window: fractions of the run between which states are scored. interval: fraction of the run from one scoring to the
        next; 0 scores at every step, 1 only at the end.
    scale: what scores are divided by: "pool", the spread of the first scored pool; a number keeps the law exact.
    gradient: let proposals follow the gradient of the score (genscale.algorithms.guided_proposal): "none", "model", back through the
        denoiser, or "decoder", with its noise held constant, which costs no more NFE than none. The verifiers must be
        differentiable (Refusal else). Exact either way: the weights pay for the difference.
    push: strength of that gradient, where it is not the tilt's. reach: most standard deviations that it moves a step.
    proposal: a function (transition, particles, prediction, step) -> Transition to draw from instead of the kernel's
        own, corrected in the weights.

    A budget that pays for more than one pass is spent on further ones, from fresh noise, and what is left in the end on
    plain candidates.
    """

    particles: int | None = None
    children: int = 1
    group: str = "global"
    strength: float = 10.0
    potential: str = "difference"
    temper: str = "constant"
    scheme: str = "systematic"
    ess: float = 0.5
    flatten: bool = False
    kernel: str | Kernel = "ddim(0.5)"
    rest: str | Kernel = "own"
    rebirth: str | Kernel = ""
    window: tuple[float, float] = (0.2, 0.8)
    interval: float = 0.2
    scale: float | str = "pool"
    gradient: str = NONE
    push: float | None = None
    reach: float = float("inf")
    proposal: Proposal | None = field(default=None, metadata={"python_only": True})

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})

    def __post_init__(self) -> None:
        for option, known in (
            ("potential", POTENTIALS), ("temper", TEMPERS), ("scheme", SCHEMES), ("group", ("global", "parent")),
            ("gradient", THROUGH),
        ):  # fmt: skip
            if getattr(self, option) not in known:
                raise Refusal(
                    f"{option}='{getattr(self, option)}' is unknown: it is one of {', '.join(known)}."
                )
        if (self.particles is not None and self.particles < 1) or self.children < 1:
            raise Refusal(
                f"particles={self.particles} and children={self.children} must be at least 1 (or no particles)."
            )
        if not 0 < self.ess <= 1:
            raise Refusal(f"ess={self.ess} must be a share of the particles in (0, 1]; 1 resamples always.")
        if len(self.window) != 2 or not 0 <= self.window[0] <= self.window[1] <= 1:
            raise Refusal(
                f"window={self.window} must be two increasing fractions of the run, such as 0.2,0.8."
            )
        if not 0 <= self.interval <= 1:
            raise Refusal(f"interval={self.interval} must be a fraction of the run in [0, 1].")
        if not self.strength >= 0:
            raise Refusal(f"strength={self.strength} must be 0 or more; inf keeps the best.")
        if self.scale != "pool" and (isinstance(self.scale, str) or not 0 < self.scale < float("inf")):
            raise Refusal(f"scale={self.scale} must be a number above 0, or pool.")
        if self.scheme == "killing" and self.children > 1:
            raise Refusal("scheme=killing keeps the number of particles, so it needs children=1.")
        if self.strength == float("inf") and self.children == 1 and self.interval < 1:
            raise Refusal(
                "strength=inf keeps the best of each one's children, so it needs children of 2 or more."
            )
        if self.temper == "adaptive" and (self.potential != "difference" or self.ess == 1):
            raise Refusal(
                "temper=adaptive keeps the ESS at the share `ess`: it needs ess below 1 and potential=difference."
            )
        if self.push is None and self.gradient != NONE and self.strength == float("inf"):
            raise Refusal("a gradient is followed with the tilt's strength, and inf is none: give push=100.")
        if not self.reach > 0 or (self.push is not None and not 0 <= self.push < float("inf")):
            raise Refusal(f"push={self.push} must be 0 or more, and reach={self.reach} above 0.")
        if self.proposal is not None and not callable(self.proposal):
            raise Refusal(
                "proposal must be a function (transition, particles, prediction, step) -> Transition."
            )
        self._check_kernels()

    def _check_kernels(self) -> None:
        """Where copies are made, their futures must differ."""
        parse(self.rest)
        kernels = [parse(k) for k in (self.kernel, self.rebirth) if k]
        if self.interval < 1 and all(k.deterministic for k in kernels):
            raise Refusal(
                f"kernel '{self.kernel}' is deterministic, and every branch of an ODE is the same: use "
                "kernel='ddim(0.5)', 'sde(rbf)' or 'glass(4)', or a search over initial noise such as best_of_n."
            )
        if self.interval < 1 and any(isinstance(k, Own) for k in kernels):
            raise Refusal(
                "kernel 'own' cannot be used where states are scored and branched: use kernel='ddim(0.5)' there, "
                "and rest='own' for the steps before and after."
            )
        if any(isinstance(k, Glass) for k in kernels) and (self.rebirth or self._proposes):
            raise Refusal(
                "glass takes several model calls a step: use ddim or sde with rebirth, a gradient or a proposal."
            )
        if bool(self.rebirth) + (self.proposal is not None) + (self.gradient != NONE) > 1:
            raise Refusal("rebirth, gradient and proposal all say how copies step: give one of them.")

    @property
    def _proposes(self) -> bool:
        """Whether steps are drawn from another law than the kernel's."""
        return self.proposal is not None or self.gradient != NONE

    @property
    def steep(self) -> bool:
        """Whether states are scored with their gradient in one question; of children, only those that are kept."""
        return self.gradient != NONE and self.children == 1

    # ---------------------------------------------------------------- the search

    def grid(self, process: Any) -> Any:
        """On second-order schedulers kernels step over the levels at which a step begins."""
        if any(isinstance(k, Glass) and k.inner > 1 for k in map(parse, (self.kernel, self.rest))):
            process.check_off_grid("glass")
        if self.interval < 1 and not self.scoring_steps(process):
            warnings.warn(
                f"a run of {process.model_steps} steps has none to score in window={self.window}, "
                f"interval={self.interval}: this will be best_of_n; take more steps or another window",
                stacklevel=2,
            )
        return process.regridded() if self.interval < 1 else process

    def search(self, process: Process, key: Key) -> Generator[Ask, Any, Population | None]:
        passes: list[Population] = []
        first, unit = 0, None
        try:
            while (size := self.plan(process))[0]:
                one = Pass(self, process, key, first, *size, unit)
                passes.append((yield from one.run()))
                first, unit = one.next_id, one.unit
                if not process.open_ended:
                    break
        except BudgetExhausted:  # of time, in the midst of a pass
            first = one.next_id
        with suppress(BudgetExhausted):
            yield from remainder(process, key, first)
        population = Population.cat(passes) if passes else None
        if population is not None and self.strength == float("inf"):
            return population.of_the_best()
        return population

    def scoring_steps(self, process: Process) -> list[int]:
        """Steps at which states are scored. The clean end always is; the transition that leads there makes the
        clean estimate itself, so its start is not scored a second time."""
        last = process.model_steps - 2
        if self.interval == 1:
            return []
        low, high = (f * process.model_steps for f in self.window)
        if self.interval == 0:
            return [s for s in range(1, last + 1) if low <= s <= high]
        count = int((high - low) / (self.interval * process.model_steps) + 1e-9)
        marks = {round(low + i * self.interval * process.model_steps) for i in range(count + 1)}
        return sorted(s for s in marks if 1 <= s <= last)

    # ---------------------------------------------------------------- cost

    def plan(self, process: Process) -> tuple[int, int]:
        """(particles, children) of the next pass: as asked for, or what the budget allows, first of particles, then of
        the children of one; 0 particles where it allows none."""
        limits = (
            (process.nfe_left, process.nfe(0, 1) * self.children),
            (process.calls_left, process.calls(0, 1) * self.children),
        )
        bounds = [left // max(each, 1) for left, each in limits if left is not None]
        most = self.particles or min(bounds, default=UNLIMITED)
        n = largest(most, lambda n: self._allowed(process, n, self.children))
        if n or self.children == 1:
            return n, self.children
        children = largest(self.children - 1, lambda m: self._allowed(process, 1, m))
        return min(children, 1), children

    def _allowed(self, process: Process, n: int, children: int) -> bool:
        return within(process, self.spend(process, n, children), self.calls(process, n, children))

    def spend(self, process: Process, n: int, children: int, ready: int = 0) -> int:
        """NFE of one pass with n particles, `ready` of which are a path that is known already."""
        scoring, pool = self.scoring_steps(process), n * children - ready
        kernel, rest = self.kernels(process)
        if not scoring:
            return pool * process.nfe(0, process.steps, rest)
        spent = pool * process.nfe(0, scoring[0], rest)
        for i, step in enumerate(scoring):
            call = process.nfe(step, step + 1)
            last = i + 1 == len(scoring)
            until = step + 1 if last else scoring[i + 1]
            spent += pool * (self._slope_nfe(process, step) if self.steep else call)
            pool = n - ready if last else pool
            if self.gradient == NONE:
                spent += pool * (process.nfe(step, until, kernel) - call)
            else:
                spent += pool * sum(self._slope_nfe(process, s) for s in range(step + 1, until))
                spent += 0 if self.steep else n * self._slope_nfe(process, step)
        return spent + pool * process.nfe(scoring[-1] + 1, process.steps, rest)

    def kernels(self, process: Process) -> tuple[Kernel, Kernel | None]:
        """(kernel, rest) on this process; None is the pipeline's own scheduler, where that can step."""
        return parse(self.kernel), outside(process, self.rest, branched=self.interval < 1)

    def calls(self, process: Process, n: int, children: int) -> int:
        """Verifier calls of one pass with n particles."""
        steps, pool = self.scoring_steps(process), n * children
        previews = len(steps) * pool
        if self.gradient != NONE and steps:
            previews += pool * (steps[-1] - steps[0] + 1 - len(steps)) + (0 if self.steep else n * len(steps))
        return process.calls(previews, n if steps else pool)

    def _slope_nfe(self, process: Process, step: int) -> int:
        return process.gradient_nfe(step, through=self.gradient)

    def cost(self, process: Process) -> int | None:
        if process.open_ended:
            return None
        return self.spend(process, self.particles or UNLIMITED, self.children)


def outside(process: Process, rest: str | Kernel, branched: bool = True) -> Kernel | None:
    """The kernel outside a window; None is the pipeline's own scheduler, where that can step.

    branched: another kernel steps in between, so the scheduler must be able to go on from latents it did not make.
    """
    kernel = parse(rest)
    if not isinstance(kernel, Own):
        return kernel
    return None if process.own_steps and (process.own_restarts or not branched) else parse("ode")
