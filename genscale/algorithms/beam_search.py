"""Beam search over denoising states: at each level of a run score all states, keep the best, and branch them.

A beam is described by the number of initial noises and, for each level, by the number of states that are kept, the
number of children of each, the number of model calls of the look-ahead that scores them, and the bonus for covering one
more cluster. Many noises without branching are early pruning; few states with many children are a greedy search.
Children differ because a stochastic kernel steps from their parent. It reuses the model call that scored the parent, so
branching costs no model call at the level itself.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.budget_planning import CANDIDATES_WITHOUT_BUDGET, largest, payable, within
from genscale.algorithms.option_checks import check_options
from genscale.algorithms.passes import Numbered, repeat_passes
from genscale.algorithms.preview_steps import step_at
from genscale.algorithms.tempering import unit_of
from genscale.algorithms.transition_kernels import outside
from genscale.diffusion.kernels import Glass, Kernel, Own, ddim_step, parse
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.clustering import covering, embedded, kmeans
from genscale.protocol.answers import Prediction, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate, Particles, branch, draw
from genscale.protocol.queries import Denoise, Query, Score, Solve

EVERY = "every"


@dataclass(frozen=True)
class BeamLevel:
    """The settings of one level: its step, and the values of the options of `BeamSearch` there."""

    step: int
    survivors: float
    branch: int
    lookahead: int
    diversity: float

    def ahead(self, process: Process) -> list[int]:
        """Steps at which the look-ahead calls the model; the first is the level itself."""
        left = process.model_steps - self.step
        calls = min(self.lookahead, left)
        return [self.step + j * left // calls for j in range(calls)]


@dataclass(frozen=True)
class BeamSearch:
    """The fields that all presets of beam search share; each preset explains its own defaults. Options of a level can
    be one value for all levels, or one value for each.

    width: number of initial noises of a beam. None: as many as the budget pays for, 16 without a budget.
    levels: increasing fractions of the run, in (0, 1), at which states are scored, kept and branched; "every": all
        steps.
    survivors: how many states of a level are kept. A value below 1 is the share of them, rounded up; a value of at
        least 1 is their number; inf keeps all.
    branch: number of children of each state that is kept. 1: it continues without branching.
    lookahead: number of model calls, spread evenly over the rest of the run, with which the ODE is solved to get the
        clean estimate that is scored. 1: the one-step estimate, whose model call the children need anyway. Each further
        call costs NFE.
    diversity: bonus for covering one more cluster of clean estimates, in standard deviations of the scores of a level.
        The states that maximise the sum of scores and bonuses are kept. There are as many clusters as states are
        kept. 0: the best states are kept.
    kernel: the stochastic kernel between levels, which makes children differ: "ddim(eta)", "sde(churn, interpolant)" or
        "glass(inner, rho)".
    rest: the kernel before the first level and from one step after the last level; "own" is the pipeline's scheduler.

    If the budget pays for more than one beam, further beams start from fresh noise. If it does not pay for a whole
    beam, the beam is narrower, and numbers of `survivors` fall in proportion. The rest is spent on plain candidates.
    """

    width: int | None = None
    levels: str | tuple[float, ...] = (0.5, 0.625, 0.75)
    survivors: float | tuple[float, ...] = 0.125
    branch: int | tuple[int, ...] = 4
    lookahead: int | tuple[int, ...] = 1
    diversity: float | tuple[float, ...] = 0.0
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "own"

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})
    previews_at: ClassVar[str] = "levels"
    size_option: ClassVar[str] = "width"

    def __post_init__(self) -> None:
        check_options(self, width=1)
        if self.levels != EVERY and (
            isinstance(self.levels, str)
            or not self.levels
            or list(self.levels) != sorted(set(self.levels))
            or not all(0 < f < 1 for f in self.levels)
        ):
            raise UsageError(
                f"levels={self.levels} must be increasing fractions between 0 and 1, such as 0.5,0.75, or 'every'."
            )
        for option in ("survivors", "branch", "lookahead", "diversity"):
            value = getattr(self, option)
            if isinstance(value, tuple) and (self.levels == EVERY or len(value) != len(self.levels)):
                raise UsageError(
                    f"{option}={value} must be one number, or one for each of levels={self.levels}."
                )
        for keep in _each(self.survivors):
            if not keep > 0 or (1 < keep < math.inf and keep != int(keep)):
                raise UsageError(
                    f"survivors={self.survivors} must be shares below 1, whole numbers from 1 on, or inf."
                )
        for option in ("branch", "lookahead"):
            if any(n < 1 or n != int(n) for n in _each(getattr(self, option))):
                raise UsageError(f"{option}={getattr(self, option)} must be whole numbers of at least 1.")
        if any(not 0 <= d < math.inf for d in _each(self.diversity)):
            raise UsageError(f"diversity={self.diversity} must be 0 or more, and finite.")
        keep = _at(self.survivors, 0)
        if self.width is not None and self.width < keep < math.inf:
            raise UsageError(
                f"survivors={self.survivors} keeps {keep:g} of width={self.width} states: give fewer."
            )
        self._check_kernels()

    def _check_kernels(self) -> None:
        parse(self.rest)
        kernel = parse(self.kernel)
        if kernel.deterministic and (isinstance(kernel, Own) or max(_each(self.branch)) > 1):
            raise UsageError(
                f"kernel '{self.kernel}' leaves nothing to branch: every branch of an ODE is the same; use "
                "kernel='ddim(0.5)', 'sde(rbf)' or 'glass(4)', or branch=1 with kernel='ode'."
            )

    @classmethod
    def sized(cls, n: int) -> dict[str, Any]:
        """Options that follow from `candidates=n`: if `survivors` is a number, it is scaled to the same share of n."""
        if cls.width is None or isinstance(cls.survivors, tuple) or not 1 <= cls.survivors < math.inf:
            return {}
        return {"survivors": max(1, round(cls.survivors * n / cls.width))}

    # ---------------------------------------------------------------- the search

    def grid(self, process: Process) -> Process:
        """On second-order schedulers kernels step over the levels at which a step begins."""
        if any(isinstance(k, Glass) and k.inner > 1 for k in map(parse, (self.kernel, self.rest))):
            process.check_off_grid("glass")
        grid = process.regridded()
        if not self.schedule(grid):
            warnings.warn(
                f"a run of {grid.model_steps} steps has none to branch at levels={self.levels}: this will be "
                "best_of_n; take more steps or other levels",
                stacklevel=2,
            )
        return grid

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        def begin(first: int, before: BeamPass | None) -> BeamPass | None:
            n = self.plan(process)
            return BeamPass(self, process, key, first, n) if n else None

        yield from repeat_passes(process, key, begin)

    def schedule(self, process: Process) -> list[BeamLevel]:
        """The levels, each with its step. There is no level in the last two steps, after which no noise is drawn. If
        several levels fall on the same step, the last one is used."""
        last = process.model_steps - 2
        levels = () if isinstance(self.levels, str) else self.levels
        steps = [step_at(process, f) for f in levels] or list(range(1, last + 1))  # "every"
        made = {
            step: BeamLevel(
                step,
                _at(self.survivors, i),
                int(_at(self.branch, i)),
                int(_at(self.lookahead, i)),
                _at(self.diversity, i),
            )
            for i, step in enumerate(steps)
            if 1 <= step <= last
        }
        return list(made.values())

    def kernels(self, process: Process) -> tuple[Kernel, Kernel | None]:
        """(kernel, rest) for this process. None stands for the pipeline's own scheduler, if that can step here."""
        return parse(self.kernel), outside(process, self.rest, branched=bool(self.schedule(process)))

    def kept(self, level: BeamLevel, pool: int, n: int) -> int:
        """The number of states that a level keeps out of `pool`, in a beam that started with n noises."""
        if level.survivors < 1:
            return math.ceil(level.survivors * pool - 1e-9)
        keep = level.survivors
        if self.width is not None and n < self.width and keep < math.inf:
            keep = max(1, int(keep * n / self.width))
        return int(min(keep, pool))

    # ---------------------------------------------------------------- cost

    def plan(self, process: Process) -> int:
        """The number of noises of the next beam: at most `width`, and as many as the budget pays for; 0 if none."""
        most = payable(process, process.nfe(0, 1), process.calls(1, 0))
        return largest(
            self.width or (CANDIDATES_WITHOUT_BUDGET if most is None else most),
            lambda n: within(process, self.spend(process, n), self.calls(process, n)),
        )

    def pools(self, process: Process, n: int) -> list[int]:
        """The number of states at each level, before any are dropped, and at the end."""
        sizes = [n]
        for level in self.schedule(process):
            sizes.append(self.kept(level, sizes[-1], n) * level.branch)
        return sizes

    def spend(self, process: Process, n: int) -> int:
        """NFE of one beam that begins with n noises."""
        kernel, rest = self.kernels(process)
        levels, pools = self.schedule(process), self.pools(process, n)
        if not levels:
            return n * process.nfe(0, process.steps, rest)
        spent = n * process.nfe(0, levels[0].step, rest)
        for level, until, (before, after) in zip(levels, _ends(levels), pairwise(pools), strict=True):
            calls = [process.nfe(s, s + 1) for s in level.ahead(process)]
            spent += before * sum(calls) + after * (process.nfe(level.step, until, kernel) - calls[0])
        return spent + pools[-1] * process.nfe(levels[-1].step + 1, process.steps, rest)

    def calls(self, process: Process, n: int) -> int:
        """Verifier calls of one beam that begins with n noises."""
        *previews, finals = self.pools(process, n)
        return process.calls(sum(previews), finals)

    def cost(self, process: Process) -> int | None:
        return None if process.open_ended else self.spend(process, self.width or CANDIDATES_WITHOUT_BUDGET)


class BeamPass(Numbered):
    """One beam of n noises. first: id of its first candidate. After `run`, next_id is the first id not used."""

    def __init__(self, spec: BeamSearch, process: Process, key: Key, first: int, n: int) -> None:
        super().__init__(first)
        self.spec, self.process, self.n = spec, process, n
        self.numbers, self.key = key, key.fold("beam", first)

    def run(self) -> Generator[Query, Any, None]:
        process = self.process
        kernel, rest = self.spec.kernels(process)
        levels = self.spec.schedule(process)
        particles: Particles = process.start([draw(self.numbers, self.number()) for _ in range(self.n)])
        if levels:
            particles = yield Solve(particles, levels[0].step, rest)
        for level, until in zip(levels, _ends(levels), strict=True):
            particles = replace(particles, x0=None)  # the prediction has it
            prediction: Prediction = yield Denoise(particles)
            particles = particles[: len(prediction)]
            rows = yield from self._survivors(particles, prediction, level)
            if not rows:  # all failed
                return
            particles = self._children(particles[rows], level.branch)
            prediction = prediction[[row for row in rows for _ in range(level.branch)]]
            moved = process.move(particles, prediction, kernel)
            del prediction, particles  # some latents each, which the next ones need
            particles = yield Solve(moved, until, kernel)
            del moved
        finished: Particles = yield Solve(particles, None, rest)
        yield Score(finished)

    def _survivors(
        self, particles: Particles, prediction: Prediction, level: BeamLevel
    ) -> Generator[Query, Any, list[int]]:
        """The rows that are kept, ascending; none that failed."""
        x0 = yield from self._look_ahead(particles, prediction, level)
        scores: Scores = yield Score(replace(particles[: len(x0)], x0=x0))
        keep, alive = self.spec.kept(level, len(scores), self.n), scores.alive
        if keep >= len(alive):
            return alive
        labels, totals = torch.zeros(len(alive), dtype=torch.long), scores.total[alive]
        if level.diversity > 0:
            labels = kmeans(embedded(x0[alive]), keep, self.key.fold("clusters", level.step))
        chosen = covering(totals, labels, level.diversity * unit_of(totals, "pool"), keep)
        return [alive[i] for i in chosen]

    def _look_ahead(
        self, particles: Particles, prediction: Prediction, level: BeamLevel
    ) -> Generator[Query, Any, Tensor]:
        """The clean estimates [n, *latent] after the look-ahead. Its states get candidate ids of their own."""
        steps = level.ahead(self.process)
        if len(steps) > 1:
            scouts = [
                branch(self.numbers, self.number(), c, level.step, "lookahead") for c in particles.candidates
            ]
        for step in steps[1:]:
            there = self.process.schedule.level(step)
            x = ddim_step(prediction.x0, prediction.eps, there, 0.0).mean
            prediction = yield Denoise(Particles(x, step, tuple(scouts[: len(x)])))
        return prediction.x0

    def _children(self, particles: Particles, children: int) -> Particles:
        """Particles with `children` copies of each: the first keeps its parent's candidate, the others are new."""
        rows = [row for row in range(len(particles)) for _ in range(children)]
        candidates = list[Candidate]()
        for i, row in enumerate(rows):
            parent, copy = particles.candidates[row], i % children > 0
            candidates.append(branch(self.numbers, self.number(), parent, particles.step) if copy else parent)
        return replace(particles[rows], candidates=tuple(candidates), x0=None)


def _ends(levels: Sequence[BeamLevel]) -> list[int]:
    """For each level the step at which the kernel stops: the next level, or one step after the last level."""
    return [*(level.step for level in levels[1:]), levels[-1].step + 1] if levels else []


def _each(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _at(value: float | tuple[float, ...], i: int) -> float:
    return value[i] if isinstance(value, tuple) else value
