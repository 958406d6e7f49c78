"""How typical finished candidates are for the model, by its own denoiser: a guard against images that fool a verifier.

The negative evidence lower bound of a diffusion model is a weighted denoising error (Ho et al. 2020, arXiv 2006.11239;
Kingma et al. 2021, arXiv 2107.00630, section 5). With lambda = log(alpha^2 / sigma^2),

    -log p(x) <= 1/2 integral E |eps - eps_model(alpha x + sigma eps)|^2 d lambda + constants,

here as a sum over a few noise levels and fixed noises, the same for all candidates, so that what is compared differs in
the candidates alone (as Li et al. 2023, arXiv 2303.16203, compare classes).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genscale.algorithms.arms import Arms
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.protocol.answers import Prediction, Scores
from genscale.protocol.interfaces import Process, Sampler, SamplerHooks
from genscale.protocol.particles import OWN, Candidate, Particles, branch
from genscale.protocol.population import Population
from genscale.protocol.queries import Denoise, Query, Score, Solve

WEIGHTS = ("bound", "simple")
FIRST_ID = 2**31  # of the noised copies: samplers count their candidates from 0


@dataclass(frozen=True, eq=False)
class Typical:
    """A sampler that searches as another one does, and measures how typical each finished candidate is for the model.

    Before clean latents are scored they are noised to a few levels, and the denoiser is asked for that noise. The
    typicality is minus the weighted error, in nats for each number of the latents: higher is more typical. Candidates
    compare that have the same prompt, pipeline and steps. It is a bound from a few noises: differences below its spread
    between ordinary candidates say nothing.

    sampler: what searches. times: the noise levels, as times of the rectified flow sigma / (alpha + sigma) in (0, 1);
        of each the nearest level of the run's own steps is used.
    noises: for each level; every second one is minus the one before, which cancels the odd part of the error.
    weights: "bound": of the integral above, by the trapezoidal rule over the levels that are used. "simple": equal
        ones that add up to 1, the loss that such models are trained with (Ho et al. 2020, eq. 14).
    margin: a candidate that is less typical than candidate 0, the pipeline's own, by more than this is rejected before
        it is scored: the sampler sees it as failed, and it cannot win. With samplers that do not finish candidate 0 the
        first one that they finish stands for it. None: candidates are only measured.

    Cost in NFE: levels x noises for each finished candidate, of the conditional branch alone where the pipeline has
    classifier-free guidance: what the guided prediction bounds is no model's density. They count in the budget, and the
    sampler plans with them. What the budget no longer pays for is neither measured nor rejected.
    """

    sampler: Sampler
    times: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    noises: int = 2
    weights: str = "bound"
    margin: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sampler, Arms):
            raise UsageError("typicality compares candidates of one call: give a sampler without arms.")
        object.__setattr__(self, "times", tuple(float(time) for time in self.times))
        if not self.times or not all(0 < time < 1 for time in self.times):
            raise UsageError(f"times={self.times} must be between 0 (clean) and 1 (noise), both left out.")
        if self.noises < 1:
            raise UsageError(f"noises={self.noises} measure nothing: give at least 1.")
        if self.weights not in WEIGHTS:
            raise UsageError(f"weights '{self.weights}' is unknown: choose one of {', '.join(WEIGHTS)}.")
        if self.margin is not None and not self.margin >= 0:
            raise UsageError(f"margin={self.margin} must be 0 or more nats for each number of the latents.")

    def __getattr__(self, name: str) -> Any:  # the hooks of the sampler
        if name.startswith("_") or name == "sampler":
            raise AttributeError(name)
        return getattr(self.sampler, name)

    @property
    def needs(self) -> frozenset[str]:
        return SamplerHooks.of(self.sampler).needs | {"noise", "schedule"}

    @property
    def independent(self) -> bool:
        return self.margin is None and SamplerHooks.of(self.sampler).independent

    def cost(self, process: Process) -> int | None:
        hook: Any = SamplerHooks.of(self.sampler).cost
        found: int | None = hook(_Priced(process, self._price(process)))
        return found

    def of(self, candidate: Candidate) -> float | None:
        """The typicality of a candidate of the last searches (`entry.candidate`); None: it was not measured."""
        return self._measured.get((candidate.key, candidate.id))

    @property
    def rejected(self) -> list[Candidate]:
        """The candidates that were rejected."""
        return list(self._rejected.values())

    @cached_property
    def _measured(self) -> dict[tuple[tuple[int, ...], int], float]:
        return {}

    @cached_property
    def _rejected(self) -> dict[tuple[tuple[int, ...], int], Candidate]:
        return {}

    def levels(self, process: Process) -> list[tuple[int, float]]:
        """(step, weight) of the levels that are used, noisiest first. UsageError: the run has none to use."""
        schedule = process.schedule
        steps = sorted({process.nearest(time) for time in self.times})
        steps = [i for i in steps if schedule.alpha[i] > 0 and schedule.sigma[i] > 0]
        if not steps:
            raise UsageError(
                f"typicality needs a noise level between noise and image, and this run of {process.model_steps} steps "
                "has none: give more steps."
            )
        if self.weights == "simple" or len(steps) == 1:
            return [(step, 1 / len(steps)) for step in steps]
        gaps = schedule.log_snr[steps].diff()
        widths = torch.zeros(len(steps), dtype=torch.float64)
        widths[:-1] += gaps / 2
        widths[1:] += gaps / 2
        return list(zip(steps, widths.tolist(), strict=True))

    def search(self, process: Process, key: Key) -> Generator[Query, Any, Population | None]:
        made = self.sampler.search(_Priced(process, self._price(process)), key)  # type: ignore[arg-type]
        run = _Run(self, process, key.fold("typicality"))
        try:
            query = next(made)
            while True:
                try:
                    answer = yield from run.answered(query)
                except BudgetExhausted as error:
                    query = made.throw(error)
                else:
                    query = made.send(answer)
        except StopIteration as end:
            found: Population | None = end.value
            return found

    def _price(self, process: Process) -> int:
        """NFE of one measurement."""
        calls = [
            process.nfe(step, step + 1) if _branch(process) is None else process.branch_nfe(step)
            for step, _ in self.levels(process)
        ]
        return self.noises * sum(calls)


class _Priced:
    """A process whose runs to the clean end cost what measuring their result costs, too."""

    def __init__(self, process: Process, price: int) -> None:
        self._process, self._price = process, price

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def nfe(self, start: int = 0, stop: int | None = None, kernel: Any = None) -> int:
        ends = stop is None or stop == self._process.steps
        return self._process.nfe(start, stop, kernel) + ends * self._price


class _Run:
    """The measurements of one search."""

    def __init__(self, spec: Typical, process: Process, key: Key) -> None:
        self.spec, self.process, self.key = spec, process, key
        self.levels, self.branch = spec.levels(process), _branch(process)
        self.copies, self.least = FIRST_ID, -torch.inf
        self.price, self.finished = spec._price(process), 0
        self.combine: Any = None

    def answered(self, query: Query) -> Generator[Query, Any, Any]:
        """The answer of one query of the sampler. BudgetExhausted: the budget does not pay for it."""
        if isinstance(query, Score) and query.particles.step == self.process.steps:
            return (yield from self.scored(query.particles))
        if isinstance(query, Solve) and query.until in (None, self.process.steps):
            query = self.with_room(query)
        return (yield query)

    def with_room(self, query: Solve) -> Solve:
        """A run to the clean end of the first rows only, as many as the budget also pays for measuring.

        A first candidate is finished also where it cannot be measured.
        """
        left = self.process.nfe_left
        each = self.process.nfe(query.particles.step, None, query.kernel)
        if left is None or each == 0:
            return query
        rows = left // (each + self.price)
        if rows == 0 and self.finished:
            raise BudgetExhausted
        return query if rows == 0 else replace(query, particles=query.particles[:rows])

    def scored(self, particles: Particles) -> Generator[Query, Any, Scores]:
        """Measure clean particles, and score those that are typical enough."""
        self.finished += len(particles)
        measured = yield from self.measured(particles)
        gone = set()
        for i, candidate in enumerate(particles.candidates):
            if measured is None:
                break
            place = candidate.key, candidate.id
            self.spec._measured[place] = float(measured[i])
            if self.spec.margin is not None and (candidate.id == OWN or self.least == -torch.inf):
                self.least = float(measured[i]) - self.spec.margin
        if measured is not None:
            gone = {i for i, value in enumerate(measured.tolist()) if value < self.least}
        kept = [i for i in range(len(particles)) if i not in gone]
        if not gone or (not kept and self.combine is None):
            answer: Scores = yield Score(particles)
            self.combine = answer.combine
            return answer
        for i in gone:
            candidate = particles.candidates[i]
            self.spec._rejected[candidate.key, candidate.id] = candidate
        return (yield from self.without(particles, kept))

    def without(self, particles: Particles, kept: Sequence[int]) -> Generator[Query, Any, Scores]:
        """Scores of all particles, of which those that are not kept have failed."""
        answer: Scores | None = None
        if kept:
            answer = yield Score(particles[kept])
            self.combine = answer.combine
        paid = 0 if answer is None else len(answer)
        rows = len(particles) if paid == len(kept) else kept[paid]  # the first ones: so many are paid for
        judges = len(self.process.verifiers)
        raw = torch.full((rows, judges), torch.nan, dtype=torch.float64)
        failed = torch.ones(rows, dtype=torch.bool)
        if answer is not None:
            places = list(kept[:paid])
            raw[places] = answer.raw
            failed[places] = False if answer.failed is None else answer.failed
        return Scores(raw, self.combine, failed)

    def measured(self, particles: Particles) -> Generator[Query, Any, Tensor | None]:
        """Typicalities [n], float64, on the CPU; None: the budget does not pay for them."""
        left = self.process.nfe_left
        if left is not None and left < self.price * len(particles):
            return None
        clean = particles.x.float() / float(self.process.schedule.alpha[-1])
        total = torch.zeros(len(particles), dtype=torch.float64)
        for step, weight in self.levels:
            level = self.process.schedule.level(step)
            for noise in self.noises(clean):
                x = (level.alpha * clean + level.sigma * noise).to(particles.x.dtype)
                candidates = tuple(self.copy(candidate, step) for candidate in particles.candidates)
                try:
                    found: Prediction = yield Denoise(Particles(x, step, candidates), self.branch)
                except BudgetExhausted:
                    return None
                if len(found) < len(particles):  # time runs short
                    return None
                errors = (found.eps.float() - noise).square().flatten(1).mean(1)
                total -= weight / (2 * self.spec.noises) * errors.double().cpu()
        return total

    def noises(self, like: Tensor) -> list[Tensor]:
        """Standard normal [*latent], every second one minus the one before."""
        drawn = [self.key.fold(j // 2).normal(tuple(like.shape[1:])) for j in range(self.spec.noises)]
        return [(-1) ** j * noise.to(like.device) for j, noise in enumerate(drawn)]

    def copy(self, candidate: Candidate, step: int) -> Candidate:
        self.copies += 1
        return branch(self.key, self.copies, candidate, step, "renoised")


def _branch(process: Process) -> str | None:
    """The conditional branch, where the pipeline has classifier-free guidance."""
    try:
        process.branch_nfe(0)
    except UsageError:
        return None
    return "cond"
