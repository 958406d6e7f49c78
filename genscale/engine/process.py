"""The reverse process of one prompt: the Process that samplers see, and the steps that the engine takes with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from genscale.diffusion.kernels import Kernel, Transition, ddim_step
from genscale.diffusion.mixture_arithmetic import total
from genscale.diffusion.mixtures import Mix, MixtureContext
from genscale.diffusion.noise_schedule import NoiseSchedule
from genscale.diffusion.prediction import View
from genscale.engine import kernel_steps
from genscale.engine.grid import Place, restart_grid, timed_grid
from genscale.engine.holding import DEVICE, Holding
from genscale.engine.memory_check import check_memory
from genscale.engine.origins import Origins
from genscale.engine.own_path import OwnPath
from genscale.engine.prior import Prior
from genscale.engine.search_view import SearchView
from genscale.engine.step_noise import StepNoise, kernel_key, start_key
from genscale.errors import UsageError
from genscale.protocol.answers import Prediction
from genscale.protocol.interfaces import Solver
from genscale.protocol.particles import OWN, Candidate, Particles, arm_of, cat
from genscale.protocol.queries import BACKWARD

TOGETHER = 16  # rows that are moved together


@dataclass(frozen=True)
class PromptProcess(SearchView):
    """The process of one prompt, made of tensors, a solver and numbers (implements `protocol.interfaces.Process`).

    evaluations: NFE of one row at each step [steps].
    prior: initial latents as a function of noise. solver: one step of the pipeline's own scheduler.
    view: noise levels, and what the model output means; a string instead says why they cannot be read.
    own_draw: (step, draw) -> [*latent], the noise that the pipeline's own run uses inside solver steps. further_draw:
        (image, step, draw) -> that of the prompt's image 1, 2, ... (`prior.further`).
    restarts: steps at which a solve may begin, not between the two calls of a second-order step; empty: all.
    places: where the steps lie on the pipeline's grid, if this is another grid (see `regridded`); the pipeline's own
        scheduler cannot step on it.
    first_sigma: std of the noise at the pipeline's first level.
    off_grid: why the model cannot be called between the levels of its grid; None if it can.
    own_restarts: whether the scheduler can begin in the middle of a run without its memory.
    of_branch: step of the pipeline's grid -> NFE of one branch of classifier-free guidance; None without branches.
    mix: what predictions are combined from; None: the pipeline's own.
    own_grid: (view, model calls) of the pipeline's grid, if this is another.
    own_path: which latents are the pipeline's own, and the ids of what leaves them.
    origins: learns where candidates begin, for pipelines whose loop must know it; None for others.
    arms: NFE of a whole candidate of each configuration of the call; empty where there is only one.
    together: see Process. remembers: the model has caches, so no state of an earlier run can be continued.
    hold: where latents wait between model calls, one of `holding.PLACES`.
    The other fields are those of SearchView.
    """

    evaluations: tuple[int, ...]
    prior: Prior
    solver: Solver
    view: View | str
    own_draw: Callable[[int, int], Tensor] | None = None
    further_draw: Callable[[int, int, int], Tensor] | None = None
    restarts: tuple[int, ...] = ()
    places: tuple[Place, ...] | None = None
    first_sigma: float = 1.0
    off_grid: str | None = "its noise levels cannot be read"
    own_restarts: bool = True
    of_branch: Callable[[int], int] | None = None
    mix: Mix | None = None
    own_grid: tuple[View, int] | None = None
    own_path: OwnPath = field(default_factory=OwnPath, compare=False)
    origins: Origins | None = field(default=None, compare=False)
    arms: tuple[int, ...] = ()
    together: int | None = None
    remembers: bool = False
    hold: str = DEVICE

    @property
    def steps(self) -> int:
        return len(self.evaluations)

    @property
    def model_steps(self) -> int:
        return self.steps

    @property
    def own_steps(self) -> bool:
        return self.places is None

    @property
    def schedule(self) -> NoiseSchedule:
        return self._view().schedule

    @property
    def holding(self) -> Holding:
        return Holding(self.hold, self.prior.own.device)

    def weight_sum(self, step: int) -> float | None:
        weights = self.mix_weights(step)
        return None if weights is None else total(weights)

    def mix_weights(self, step: int) -> tuple[float, ...] | None:
        if self.mix is None:
            return None
        view, steps = self.own_grid or (self.view, self.model_steps)
        place = Place(step) if self.places is None else self.places[step]
        return self.mix.weights(MixtureContext.at(view, place.step, steps, place.time))

    def _view(self) -> View:
        if isinstance(self.view, str):
            raise UsageError(self.view)
        return self.view

    def nfe(self, start: int = 0, stop: int | None = None, kernel: Kernel | None = None) -> int:
        if kernel is None:
            return sum(self.evaluations[start:stop])
        stop = self.steps if stop is None else stop
        return sum(self.evaluations[i] * self.model_calls_of(i, kernel) for i in range(start, stop))

    def model_calls_of(self, step: int, kernel: Kernel) -> int:
        """Model calls of the transition that begins at a step."""
        return kernel.calls(self.schedule.level(step))

    def branch_nfe(self, step: int) -> int:
        if self.of_branch is None:
            raise UsageError("this model has no branches of classifier-free guidance to ask for.")
        return self.of_branch(self.place(step))

    def price(
        self, particles: Particles, until: int | None, kernel: Kernel | None, branch: str | None = None
    ) -> int:
        """NFE that one row still takes to step `until`; None: of one model call, or of one `branch` of it."""
        step = particles.step
        if self.arms and step < self.steps:
            return self.arms[arm_of(particles.candidates[0])]
        if branch is not None:
            return self.branch_nfe(step)
        if until is None:
            return self.nfe(step, step + 1)
        return self.nfe(step, until, kernel) - particles.inner * self.nfe(step, step + 1)

    def gradient_nfe(
        self, step: int, calls: Sequence[int] = (), through: str = "model", each: bool = False
    ) -> int:
        forwards = sum(self.evaluations[i] for i in (step, *calls))
        if through == "decoder":
            return forwards
        again = forwards if calls else 0
        return forwards + self.gradient_passes(each) * (again + BACKWARD * forwards)

    def gradient_passes(self, each: bool) -> int:
        """Backward passes of a Gradient: one, or with `each` one for every search verifier."""
        return max(self.judges[0], 1) if each else 1

    def check_off_grid(self, what: str) -> None:
        if self.off_grid:
            raise UsageError(f"{what} is not possible here: {self.off_grid}.")

    def regridded(self, times: Sequence[float] | None = None) -> PromptProcess:
        if times is None and not self.restarts:
            return self
        view, calls = self._view(), self.model_steps
        levels = view.schedule
        if times is None:
            places, schedule = restart_grid(levels, self.restarts, calls)
        else:
            self.check_off_grid("a time grid of its own")
            places, schedule = timed_grid(levels, times, calls, self.nearest)
        return replace(
            self,
            evaluations=tuple(self.evaluations[p.step] for p in places),
            view=replace(view, schedule=schedule),
            restarts=(),
            places=places,
            own_grid=self.own_grid or (view, calls),
            first_sigma=levels.level(0).sigma,
        )

    def noise(self, candidate: Candidate) -> Tensor:
        if (latents := self.prior.given(candidate)) is not None:
            return self.prior.noise_behind(latents)
        return start_key(candidate).normal(tuple(self.prior.own.shape))

    def injected(self, candidate: Candidate, step: int) -> Tensor:
        return kernel_key(candidate, step).normal(tuple(self.prior.own.shape))

    def to_noise(self, gradient: Tensor) -> Tensor:
        return gradient.cpu().float() * self._at_first_level(self.prior.on_host[1].float())

    def start(self, candidates: Sequence[Candidate], noise: Tensor | None = None) -> Particles:
        if noise is not None:
            candidates = self.own_path.leave(candidates, 0, "noise")
        if self.origins is not None:
            self.origins.begin(candidates, noise)
        given = [self.prior.given(c) if noise is None else None for c in candidates]
        if self.prior.refusal and any(
            x is None and c.id != OWN for x, c in zip(given, candidates, strict=True)
        ):
            raise UsageError(self.prior.refusal)
        check_memory(len(candidates), self.prior.own)
        if noise is None:
            further = (self.nfe_left or 0) // max(self.nfe(), 1) - len(candidates)  # these are not paid yet
            x = self.draws.initial(candidates, given, max(further, 0), self.holding)
        else:
            x = self.prior.latents(noise, self.holding)
        return self.own_path.record(Particles(self._at_first_level(x), 0, tuple(candidates)))

    def _at_first_level(self, x: Tensor) -> Tensor:
        """Initial latents [n, *latent] of the pipeline's first noise level, rescaled to the first level of this grid.

        They are taken to be pure noise, so only their std changes.
        """
        place = None if self.places is None else self.places[0]
        if place is None or place.time is None:
            return x
        return x * (self.schedule.level(0).sigma / self.first_sigma)

    def nearest(self, time: float) -> int:
        times = self.schedule.linear_time
        allowed = self.restarts or range(self.model_steps)
        return min(allowed, key=lambda i: abs(float(times[i]) - time))

    def renoise(self, particles: Particles, step: int, candidates: Sequence[Candidate]) -> Particles:
        candidates = self.own_path.leave(candidates, step, "renoise", "renoised")
        noise = self.draws.of_renoising(candidates, step, particles.x.device)
        x = self.schedule.renoise(particles.x.float(), particles.step, step, noise).to(particles.x.dtype)
        return Particles(x, step, tuple(replace(c, step=step) for c in candidates))

    # ---- model calls and steps

    def model_input(self, particles: Particles, kernel: Kernel | None) -> tuple[Tensor, float | None]:
        """Input of the next model call: latents [n, *latent], and their linear time if it is not that of the step."""
        step = particles.step
        time = None if self.places is None else self.places[step].time
        if not particles.inner:
            return particles.x, time
        level, x = kernel_steps.inner_input(self.schedule, particles, kernel)
        return x, level.time

    def place(self, step: int) -> int:
        """The pipeline's step that is nearest to a step of this grid."""
        return step if self.places is None else self.places[step].step

    def advance(
        self, particles: Particles, output: Tensor, x: Tensor, preview: bool, kernel: Kernel | None = None
    ) -> Particles:
        """One step after a model call, with a kernel or (None) the pipeline's own scheduler.

        output: of the model, [n, ...]. x: [n, *latent], the latents that the call saw; the pipeline's loop may have
        edited them. preview: also keep the clean estimate, where the noise levels can be read.
        """
        if kernel is not None:
            level, given = self.schedule.level(particles.step), particles.x
            if particles.inner:
                level, given = kernel_steps.inner_input(self.schedule, particles, kernel)
            prediction = Prediction(*self._view().pair(level, output, _as_seen(given, x)))
            return self._step(replace(particles, x=_as_seen(particles.x, x)), prediction, kernel, preview)
        if self.places is not None:
            raise TypeError(
                "on another grid than its own, the pipeline's scheduler cannot step: give a kernel"
            )
        seen = replace(particles, x=x)

        def draw(j: int) -> Tensor:
            return self.draws.of_solver(particles.candidates, particles.step, j, x.device)

        new, memory = self.solver.step(seen, output, draw)
        x0 = None
        if preview and isinstance(self.view, View):
            x0 = self.view.clean_and_noise(particles.step, output, x)[0]
        caches = particles.stepped_caches
        return Particles(new, particles.step + 1, particles.candidates, memory, x0, caches=caches)

    def arrived(self, particles: Particles) -> Particles:
        """The particles where they wait; at the clean end without the memory of solver and caches: no step follows."""
        ended = particles.step == self.steps
        return self.holding.aside(replace(particles, memory=None, caches=()) if ended else particles)

    def predict(self, particles: Particles, output: Tensor, x: Tensor) -> Prediction:
        """The clean and noise estimates that follow from a model output [n, ...] at the latents `x`."""
        return Prediction(*self._view().clean_and_noise(particles.step, output, _as_seen(particles.x, x)))

    def move(self, particles: Particles, prediction: Prediction, kernel: Kernel) -> Particles:
        particles = self.off_path(particles, repr(kernel))
        parts = [slice(i, i + TOGETHER) for i in range(0, len(particles), TOGETHER)]  # for less work space
        return cat([self._step(particles[s], prediction[s], kernel, preview=False) for s in parts])

    def off_path(self, particles: Particles, how: str) -> Particles:
        """The particles, candidate 0 with a new id: at this step they leave the pipeline's own path."""
        candidates = self.own_path.leave(particles.candidates, particles.step, how)
        return particles if candidates == particles.candidates else replace(particles, candidates=candidates)

    def estimate(
        self, particles: Particles, prediction: Prediction, candidates: Sequence[Candidate]
    ) -> Particles:
        end = self.schedule.level(self.model_steps)
        x = ddim_step(prediction.x0, prediction.eps, end, 0.0).mean
        candidates = self.own_path.leave(candidates, self.model_steps, "estimate", "estimate")
        return Particles(x, self.model_steps, candidates, None, prediction.x0)

    def transition(self, particles: Particles, prediction: Prediction, kernel: Kernel) -> Transition:
        return kernel_steps.transition(self.schedule, particles, prediction, kernel, particles.step + 1)

    def take(self, particles: Particles, transition: Transition) -> Particles:
        particles = self.off_path(particles, "transition")
        return kernel_steps.jump(particles, transition, particles.step + 1, lambda: self._noise(particles))

    def leap(
        self, particles: Particles, prediction: Prediction, kernel: Kernel, until: int, noise: Tensor | None
    ) -> Particles:
        """One transition to any later step. noise: [n, *latent]; None: drawn from the candidates' keys."""
        made = kernel_steps.transition(self.schedule, particles, prediction, kernel, until)
        return kernel_steps.jump(
            particles, made, until, lambda: self._noise(particles) if noise is None else noise
        )

    def _step(self, particles: Particles, prediction: Prediction, kernel: Kernel, preview: bool) -> Particles:
        noise = lambda: self._noise(particles)  # noqa: E731
        return kernel_steps.step(self.schedule, particles, prediction, kernel, noise, preview)

    @cached_property
    def draws(self) -> StepNoise:
        return StepNoise(self.prior, self.own_draw, self.further_draw)

    def expect(self, particles: Particles, kernel: Kernel | None) -> None:
        """The model is called at these particles: have the noise of the step behind it made meanwhile."""
        step, candidates = particles.step, particles.candidates
        if kernel is None:
            self.draws.expect(candidates, step, kernel=False)
        elif not kernel.deterministic and particles.inner == 0 and 0 < step < self.steps - 1:
            self.draws.expect(candidates, step, kernel=True)

    def _noise(self, particles: Particles) -> Tensor:
        """The noise of a kernel's transition [n, *latent], from the candidates' own keys."""
        return self.draws.of_kernel(particles.candidates, particles.step, particles.x.device)


def _as_seen(state: Tensor, seen: Tensor) -> Tensor:
    """The state [n, *latent] with the edits of the pipeline's loop, in its own dtype.

    seen: the latents that the model call saw. A pipeline in half precision rounds them; the state keeps its digits.
    """
    if state.dtype == seen.dtype:
        return seen
    return state + (seen - state.to(seen.dtype)).to(state.dtype)
