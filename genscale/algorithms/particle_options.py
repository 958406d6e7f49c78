"""Options of the particle filter: fields, checks, and the scoring steps and kernels that the options determine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from genscale.algorithms.guided_proposal import NONE, THROUGH
from genscale.algorithms.option_checks import check_options, window_of_run
from genscale.algorithms.preview_steps import step_at, steps_between
from genscale.algorithms.tempering import POTENTIALS, TEMPERS
from genscale.algorithms.transition_kernels import outside
from genscale.diffusion.kernels import Glass, Kernel, Own, Transition, parse
from genscale.errors import UsageError
from genscale.numerics.resampling import SCHEMES, normalised
from genscale.protocol.answers import Prediction
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles

Proposal = Callable[[Transition, Particles, Prediction, int], Transition]
"""(the kernel's transition, particles, prediction, step) -> the transition to draw from instead."""


@dataclass(frozen=True)
class ParticleOptions:
    """The fields that all presets of the particle filter share; each preset explains its own defaults.

    particles: number N of particles that are kept at each resampling. None: as many as the budget pays for in one
        pass. children: number M of children of each particle (1: plain SMC).
    group: which particles compete at resampling: "global", all with all; or "parent", the children of the same
        particle, of which one is kept.
    strength: factor of the score in the target p exp(strength R), for scores divided by `scale`. inf: the best
        particles are always kept.
    potential: how scores change the weights: "difference", "max", "sum" or "reward" (genscale.algorithms.tempering).
    temper: how the strength grows along the run: "constant", "increasing", "adaptive" (as fast as the effective sample
        size allows, which is kept at the share `ess`) or "damped" (by the posterior variance).
    scheme: how particles are resampled: "systematic", "ssp", "stratified", "residual", "multinomial" or "killing".
    ess: particles are resampled if the effective sample size is at most this share of their number. 1: always.
    flatten: whether to resample by more even weights if the weights collapse in the first half of the run
        (arXiv 2510.05825).
    kernel: the stochastic kernel of the steps between the first and the last scoring, which makes copies differ:
        "ddim(eta)", "sde(churn, interpolant)" or "glass(inner, rho)".
    rest: the kernel of the steps before and after: "own" (the pipeline's scheduler), "ode", or any of the above.
    rebirth: the kernel of the first step of copies, if that differs from `kernel`. "": it does not.
    window: fractions of the run, in [0, 1], between which states are scored; that at fraction f by the clean estimate
        of model call round(f T), counted from 0 (genscale.algorithms.preview_steps). interval: fraction of the run
        between two scorings. 0: score at every step; 1: only at the end.
    scale: what scores are divided by: a number, with which the target is exact and a strength means the same in every
        window; or "previews", the standard deviation of the first scores of a pass. Those are previews at the start of
        the window, whose spread changes along the run (docs/particles.md), so that a strength of 10 then is another
        tilt in another window. Without a window (interval=1) they are the final scores.
    gradient: whether proposals follow the gradient of the score (genscale.algorithms.guided_proposal): "none";
        "model", which differentiates through the denoiser; or "decoder", which holds the predicted noise constant and
        costs no more NFE than "none". The verifiers must be differentiable, else UsageError. The target is the same
        with each, because the weights correct for the proposal.
    push: factor of that gradient, if it is not `strength`. reach: largest move of a step, in standard deviations.
    proposal: a function (transition, particles, prediction, step) -> Transition. Steps are drawn from its result
        instead of the transition of the kernel, and the weights correct for the difference.

    If the budget pays for more than one pass, further passes start from fresh noise. The rest is spent on plain
    candidates.
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
    scale: float | str = "previews"
    gradient: str = NONE
    push: float | None = None
    reach: float = float("inf")
    proposal: Proposal | None = field(default=None, metadata={"python_only": True})

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})
    size_option: ClassVar[str] = "particles"

    def __post_init__(self) -> None:
        check_options(self, particles=1, children=1)
        for option, known in (
            ("potential", POTENTIALS), ("temper", TEMPERS), ("scheme", SCHEMES), ("group", ("global", "parent")),
            ("gradient", THROUGH),
        ):  # fmt: skip
            if getattr(self, option) not in known:
                raise UsageError(
                    f"{option}='{getattr(self, option)}' is unknown: it is one of {', '.join(known)}."
                )
        if not 0 < self.ess <= 1:
            raise UsageError(
                f"ess={self.ess} must be a share of the particles in (0, 1]; 1 resamples always."
            )
        window_of_run(self.window, "0.2,0.8")
        if not 0 <= self.interval <= 1:
            raise UsageError(f"interval={self.interval} must be a fraction of the run in [0, 1].")
        if not self.strength >= 0:
            raise UsageError(f"strength={self.strength} must be 0 or more; inf keeps the best.")
        if self.scale != "previews" and (isinstance(self.scale, str) or not 0 < self.scale < float("inf")):
            hint = " (pool was its name)" if self.scale == "pool" else ""
            raise UsageError(f"scale={self.scale} must be a number above 0, or previews{hint}.")
        if self.scheme == "killing" and self.children > 1:
            raise UsageError("scheme=killing keeps the number of particles, so it needs children=1.")
        if self.strength == float("inf") and self.children == 1 and self.interval < 1:
            raise UsageError(
                "strength=inf keeps the best of each one's children, so it needs children of 2 or more."
            )
        if self.temper == "adaptive" and (self.potential != "difference" or self.ess == 1):
            raise UsageError(
                "temper=adaptive keeps the ESS at the share `ess`: it needs ess below 1 and potential=difference."
            )
        if self.push is None and self.gradient != NONE and self.strength == float("inf"):
            raise UsageError(
                "the gradient is multiplied by `strength`, which is infinite here: give push=100."
            )
        if not self.reach > 0 or (self.push is not None and not 0 <= self.push < float("inf")):
            raise UsageError(f"push={self.push} must be 0 or more, and reach={self.reach} above 0.")
        if self.proposal is not None and not callable(self.proposal):
            raise UsageError(
                "proposal must be a function (transition, particles, prediction, step) -> Transition."
            )
        self._check_kernels()

    def _check_kernels(self) -> None:
        """Check that the kernels let copies of a particle differ after their next step."""
        parse(self.rest)
        kernels = [parse(k) for k in (self.kernel, self.rebirth) if k]
        if self.interval < 1 and all(k.deterministic for k in kernels):
            raise UsageError(
                f"kernel '{self.kernel}' is deterministic, and every branch of an ODE is the same: use "
                "kernel='ddim(0.5)', 'sde(rbf)' or 'glass(4)', or a search over initial noise such as best_of_n."
            )
        if self.interval < 1 and any(isinstance(k, Own) for k in kernels):
            raise UsageError(
                "kernel 'own' cannot be used where states are scored and branched: use kernel='ddim(0.5)' there, "
                "and rest='own' for the steps before and after."
            )
        if any(isinstance(k, Glass) for k in kernels) and (self.rebirth or self._proposes):
            raise UsageError(
                "glass takes several model calls a step: use ddim or sde with rebirth, a gradient or a proposal."
            )
        if bool(self.rebirth) + (self.proposal is not None) + (self.gradient != NONE) > 1:
            raise UsageError("rebirth, gradient and proposal all set how copies step: give one of them.")

    @property
    def _proposes(self) -> bool:
        """Whether steps are drawn from a proposal instead of the transition of the kernel."""
        return self.proposal is not None or self.gradient != NONE

    @property
    def steep(self) -> bool:
        """Whether states are scored and differentiated in one query. With several children per particle they are not:
        only the states that are kept are differentiated, after the scoring."""
        return self.gradient != NONE and self.children == 1

    def scoring_steps(self, process: Process) -> list[int]:
        """Steps at which states are scored, besides the clean end, which is always scored. The start of the last
        transition is not one of them, because that transition produces the clean estimate itself."""
        last = process.model_steps - 2
        if self.interval == 1:
            return []
        marks = set(steps_between(process, self.window))
        if self.interval > 0:
            low, high = self.window
            count = int((high - low) / self.interval + 1e-9)
            marks = {step_at(process, low + i * self.interval) for i in range(count + 1)}
        return sorted(s for s in marks if 1 <= s <= last)

    @property
    def biased(self) -> bool:
        """Whether resampling is biased on purpose, so that the particles follow no law that is known."""
        return False

    def shares(self, log_w: Tensor) -> Tensor:
        """The share of the offspring that each particle of log-weights [n] gets on average: float64 [n], of sum 1."""
        return normalised(log_w)

    def kernels(self, process: Process) -> tuple[Kernel, Kernel | None]:
        """(kernel, rest) for this process. None stands for the pipeline's own scheduler, if that can step here."""
        return parse(self.kernel), outside(process, self.rest, branched=self.interval < 1)
