"""Evolutionary search (EvoSearch): generations of mutants of the best noises and intermediate states.

He et al. 2025, "Scaling Image and Video Generation via Test-Time Evolutionary Search" (arXiv 2505.17618). Each
generation belongs to a noise level. Its parents are chosen among the states of all earlier candidates at that level, by
the score of the clean sample that each state led to. The mutants of these parents run from that level to the end. There
is no crossover.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.budget_planning import within
from genscale.algorithms.option_checks import check_options
from genscale.algorithms.passes import Numbered, repeat_passes
from genscale.algorithms.preview_steps import step_at
from genscale.diffusion.kernels import Kernel, Own, parse
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.noise_sphere import mix
from genscale.protocol.answers import Prediction, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate, Particles, cat, draw
from genscale.protocol.queries import Denoise, Query, Score, Solve

RULES = ("exchange", "paper")


@dataclass(frozen=True)
class Evolution:
    """Evolutionary search: mutate the best initial noises first, then the best intermediate states.

    levels: fractions of the run at which generations begin, in an order that does not decrease. Equal fractions are
        several generations at one level. The default (0, 0.4, 0.6, 0.8) gives steps 0, 20, 30 and 40 of 50, as in the
        paper's code for SD 2.1. An empty tuple means no evolution, which is best_of_n.
    start: number of founders, which are fresh noises. 42 by default, k_start in the paper's code.
    sizes: number of places in each generation. (26, 26, 26, 30) by default, as in the paper's code; a single number
        holds for all generations.
    elites: places of each generation that are kept for the best candidates so far. 5 by default, as in the paper's
        code.
    tournament: number of entrants in the tournament that chooses a parent. 3 by default; 1 chooses at random.
    mutation: share b of fresh noise in a mutant. 0.2 by default, as in the paper's code (0.3 in the paper's text). With
        0, children are copies, which diverge from their parents only on a stochastic kernel.
    mutation_rule: how states below the initial noise are mutated. "exchange", the default, is x' = alpha x0 + sigma
        (sqrt(1 - b^2) eps + b z), which stays at its noise level. "paper" is x' = x + s z, where s is the std of the
        kernel's next step; such a mutant is noisier than the model is told.
    kernel: the kernel of all runs, "ddim(1)" by default, as published for SD 2.1. "own" is the pipeline's scheduler,
        which can evolve initial noises only (all `levels` 0).

    Differences, each a fix of the public code: a state is kept as it was before the step of its level, not after it.
    Elites keep their result and are not run again with other noise. (They compete like every other ancestor, so
    `elites` only leaves fewer places for mutants.) Tournaments are drawn as in the paper, whereas the code takes the
    best of a random 90 % of the population. Mutants keep their noise level. Mutation acts on the initial noise only at
    the first step, in whichever generation that is. All randomness is drawn from keys.

    Cost in NFE: start f(0, T) + sum over generations g of (sizes_g - elites) f(s_g, T), f(a, b) being the evaluations
    of one candidate from step a to step b. Scores: one for each founder and mutant, at the end. A smaller budget
    shrinks all populations in proportion; a larger one pays for further runs from fresh noise, and the rest is spent on
    plain candidates.
    """

    levels: tuple[float, ...] = (0.0, 0.4, 0.6, 0.8)
    start: int = 42
    sizes: int | tuple[int, ...] = (26, 26, 26, 30)
    elites: int = 5
    tournament: int = 3
    mutation: float = 0.2
    mutation_rule: str = "exchange"
    kernel: str | Kernel = "ddim(1)"

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})
    keeps_states: ClassVar[bool] = True
    size_option: ClassVar[str] = "start"

    def __post_init__(self) -> None:
        if isinstance(self.mutation, int | float) and not 0 <= self.mutation <= 1:
            raise UsageError(f"mutation={self.mutation} must be a share of fresh noise in [0, 1].")
        check_options(self, start=1, tournament=1, elites=0)
        if list(self.levels) != sorted(self.levels) or not all(0 <= f < 1 for f in self.levels):
            raise UsageError(
                f"levels={self.levels} must be fractions of the run in [0, 1) that do not decrease, such as 0,0.4,0.6."
            )
        if self.levels and len(self._sizes) != len(self.levels):
            raise UsageError(
                f"sizes={self.sizes} must be one number, or as many as there are levels ({len(self.levels)})."
            )
        if self.levels and min(self._sizes) <= self.elites:
            raise UsageError(
                f"elites={self.elites} leave no place for mutants in generations of {min(self._sizes)}: use fewer "
                "elites or larger sizes."
            )
        if self.mutation_rule not in RULES:
            raise UsageError(
                f"mutation_rule='{self.mutation_rule}' is unknown: it is one of {', '.join(RULES)}."
            )
        self._check_kernel()

    @classmethod
    def sized(cls, n: int) -> dict[str, Any]:
        """Later generations and elites in the published proportion to the founders, 26 and 5 of 42."""
        elites = n * 5 // 42
        return {"sizes": max(elites + 1, round(n * 26 / 42)), "elites": elites}

    def _check_kernel(self) -> None:
        """Checks that children and their parents can differ on the kernel."""
        kernel, below = parse(self.kernel), any(f > 0 for f in self.levels)
        if below and isinstance(kernel, Own):
            raise UsageError(
                "kernel 'own' cannot continue from states between the noise and the end: use kernel='ddim(1)' or "
                "'ode', or levels=0 to evolve the initial noise only."
            )
        if below and kernel.deterministic and (self.mutation == 0 or self.mutation_rule == "paper"):
            raise UsageError(
                f"kernel '{self.kernel}' is deterministic, and every branch of an ODE is the same: use mutation > 0 "
                "with mutation_rule='exchange', or a kernel that draws noise, such as 'ddim(1)'."
            )

    @property
    def _sizes(self) -> tuple[int, ...]:
        return (self.sizes,) * len(self.levels) if isinstance(self.sizes, int) else self.sizes

    # ---------------------------------------------------------------- the search

    def grid(self, process: Process) -> Process:
        """On second-order schedulers kernels step over the levels at which a step begins."""
        return process if isinstance(parse(self.kernel), Own) else process.regridded()

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        def begin(first: int, before: _Run | None) -> _Run | None:
            schedule = self.plan(process)
            return None if schedule is None else _Run(self, schedule, process, key, first)

        yield from repeat_passes(process, key, begin)

    # ---------------------------------------------------------------- cost

    def plan(self, process: Process) -> Schedule | None:
        """The largest run that the budget pays for, with all populations in proportion; None where no mutant fits."""
        whole = self._whole(process)
        for places in range(whole.places, 0, -1):
            schedule = whole.shrunk(places)
            if self._allowed(process, schedule):
                return schedule if schedule.generations or not whole.generations else None
        return None

    def _whole(self, process: Process) -> Schedule:
        last, sizes = process.model_steps - 1, self._sizes if self.levels else ()
        steps = [min(step_at(process, f), last) for f in self.levels]
        return Schedule(self.start, tuple((s, k - self.elites) for s, k in zip(steps, sizes, strict=True)))

    def _allowed(self, process: Process, schedule: Schedule) -> bool:
        return within(process, self._spend(process, schedule), process.calls(0, schedule.places))

    def _spend(self, process: Process, schedule: Schedule) -> int:
        kernel = stepping(self.kernel)
        each = (n * process.nfe(step, None, kernel) for step, n in schedule.generations)
        return schedule.founders * process.nfe(0, None, kernel) + sum(each)

    def cost(self, process: Process) -> int | None:
        return None if process.open_ended else self._spend(process, self._whole(process))


def stepping(kernel: str | Kernel) -> Kernel | None:
    """The kernel that runs are solved on; None is the pipeline's own scheduler."""
    parsed = parse(kernel)
    return None if isinstance(parsed, Own) else parsed


def winner(ranking: Sequence[int], entrants: int, key: Key) -> int:
    """The best of `entrants` distinct places of a ranking (best first). All places are equally likely to enter."""
    places = torch.argsort(key.uniform(len(ranking)))[:entrants]
    return ranking[int(places.min())]


@dataclass(frozen=True)
class Schedule:
    """Number of founders, then for each generation its step and its number of mutants."""

    founders: int
    generations: tuple[tuple[int, int], ...]

    @property
    def places(self) -> int:
        return self.founders + sum(n for _, n in self.generations)

    def shrunk(self, places: int) -> Schedule:
        """The same schedule in proportion, with about `places` places in all, less generations without a place."""

        def share(n: int) -> int:
            return (2 * n * places + self.places) // (2 * self.places)  # integer rounding to the nearest

        generations = tuple((step, share(n)) for step, n in self.generations if share(n) > 0)
        return Schedule(max(1, share(self.founders)), generations)


@dataclass(frozen=True)
class Member:
    """The state of one candidate at a level, before the step there.

    noise: standard normal [*latent], set at the first step only. prediction: the model's prediction, set at later steps
        only.
    """

    particles: Particles
    noise: Tensor | None = None
    prediction: Prediction | None = None

    def of(self, candidate: Candidate) -> Member:
        """The state under the candidate that finished from it. On a kernel, candidate 0 has another id when it ends."""
        return replace(self, particles=replace(self.particles, candidates=(candidate,)))


class _Run(Numbered):
    """One evolution from fresh noise. Candidates are numbered from `first`; next_id is the number after the last."""

    def __init__(self, spec: Evolution, schedule: Schedule, process: Process, key: Key, first: int) -> None:
        super().__init__(first)
        self.spec, self.schedule, self.process, self.key = spec, schedule, process, key
        self.kernel = stepping(spec.kernel)
        self.scores: Scores | None = None  # of all candidates so far
        self.states: dict[int, list[Member]] = {}  # step -> states in the same order

    def run(self) -> Generator[Query, Any, None]:
        yield from self._run_to_end(*self._founders(), 0)
        for i, (step, size) in enumerate(self.schedule.generations):
            assert self.scores is not None
            if not self.scores.alive:
                return
            born, noise = self._children(step, size)
            yield from self._run_to_end(born, noise, i + 1)
            later = {s for s, _ in self.schedule.generations[i + 1 :]}
            self.states = {s: states for s, states in self.states.items() if s in later}

    def _founders(self) -> tuple[Particles, list[Tensor]]:
        candidates = [draw(self.key, self.number()) for _ in range(self.schedule.founders)]
        particles, noise = self.process.start(candidates), [self.process.noise(c) for c in candidates]
        return particles, noise

    def _run_to_end(
        self, particles: Particles, noise: list[Tensor], generation: int
    ) -> Generator[Query, Any, None]:
        """Runs to the end and scores, and keeps the states from which this and later generations choose parents."""
        kept: dict[int, list[Member]] = {}
        for step in sorted({step for step, _ in self.schedule.generations[generation:]}):
            particles = yield Solve(particles, step, self.kernel)
            particles = replace(particles, x0=None)
            if step == 0:
                kept[step] = [Member(particles[[i]], noise[i]) for i in range(len(particles))]
                continue
            # The first model call of the next step is made here, because both the mutation and the step use it.
            assert self.kernel is not None
            prediction: Prediction = yield Denoise(particles)
            particles = particles[: len(prediction)]
            kept[step] = [Member(particles[[i]], prediction=prediction[[i]]) for i in range(len(particles))]
            particles = self.process.move(particles, prediction, self.kernel)
        finished = yield Solve(particles, None, self.kernel)
        scores: Scores = yield Score(finished)
        self.scores = scores if self.scores is None else Scores.cat([self.scores, scores])
        named = finished[: len(scores)].candidates  # without candidates that a time budget cut off
        for step, states in kept.items():
            known = [s.of(candidate) for s, candidate in zip(states, named, strict=False)]
            self.states.setdefault(step, []).extend(known)

    def _children(self, step: int, size: int) -> tuple[Particles, list[Tensor]]:
        """Mutants of the winners of tournaments among all states at a step; at the first step their noises too."""
        assert self.scores is not None
        ranking, pool, parents, candidates = self.scores.ranking(), self.states[step], [], []
        b = self.spec.mutation
        for _ in range(size):
            i = self.number()
            chosen = winner(ranking, self.spec.tournament, self.key.fold("tournament", i))
            recipe = pool[chosen].particles.candidates[0]
            # The key contains the whole lineage. A child of the same number under another budget has another key.
            path = Key(recipe.key).fold("mutant", step, i).path
            origin, details = ("mutant", {"mutation": b}) if b else ("branch", {})
            candidates.append(Candidate(i, origin, path, recipe.id, step, details))
            parents.append(pool[chosen])
        copies = replace(cat([p.particles for p in parents]), candidates=tuple(candidates))
        noise = [p.noise for p in parents if p.noise is not None]
        if b == 0:
            return copies, noise
        if step > 0:
            return self._mutated(copies, [p.prediction for p in parents if p.prediction is not None]), noise
        fresh = torch.stack([self.process.noise(c) for c in candidates])
        mixed = mix(torch.stack(noise), b, fresh)
        return self.process.start(candidates, mixed), list(mixed)

    def _mutated(self, copies: Particles, parts: Sequence[Prediction]) -> Particles:
        prediction = Prediction(torch.cat([p.x0 for p in parts]), torch.cat([p.eps for p in parts]))
        shape = prediction.eps.shape[1:]
        z = torch.stack([Key(c.key).fold("mutation").normal(tuple(shape)) for c in copies.candidates])
        z = z.to(prediction.eps)
        if self.spec.mutation_rule == "exchange":
            sigma = self.process.schedule.level(copies.step).sigma
            return replace(copies, x=exchanged(copies.x, prediction, sigma, self.spec.mutation, z))
        assert self.kernel is not None
        std = self.process.transition(copies, prediction, self.kernel).std
        return replace(copies, x=copies.x + std * z)


def exchanged(x: Tensor, prediction: Prediction, sigma: float, share: float, z: Tensor) -> Tensor:
    """Part of the noise in x exchanged for fresh noise: alpha x0 + sigma (sqrt(1 - share^2) eps + share z).

    At pure noise this is `mix`. Below it, eps is the prediction of the model, which is -sigma times the score function,
    so this is a Langevin step at a constant noise level. For x from the marginal law at that level, the mean is kept
    exactly. By Stein's identity the covariance changes by -sigma^2 (1 - sqrt(1 - share^2))^2 (1 - Cov(eps)), which for
    a small share is at most share^4 / 4 of the noise (4e-4 at 0.2).

    The rule of the paper adds noise without taking any away, so that x is noisier than the model is told. Another way
    would be to re-noise along the bridge to the parent's clean sample. It needs no prediction (here the prediction is
    free), but it keeps the marginal only if that sample came from the exact reverse SDE, which holds neither for few
    steps nor for an ODE.
    """
    return x + sigma * (mix(prediction.eps, share, z) - prediction.eps).to(x.device)
