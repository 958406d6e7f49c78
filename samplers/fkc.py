"""Feynman-Kac correctors: weighted particles that sample what a mix of predictions stands for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.budget_planning import CANDIDATES_WITHOUT_BUDGET, affordable
from genscale.algorithms.option_checks import check_options, window_of_run
from genscale.algorithms.passes import Numbered, repeat_passes
from genscale.algorithms.preview_steps import steps_between
from genscale.diffusion.corrector import even_times, increment, subdued
from genscale.diffusion.kernels import Ddim, Glass, Kernel, Own, Sde, parse
from genscale.diffusion.mixture_arithmetic import total
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.resampling import SCHEMES, ess, normalised, resample
from genscale.protocol.answers import Prediction, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, branch, draw
from genscale.protocol.population import Population
from genscale.protocol.queries import Denoise, Query, Score, Solve

NOISE = 5.0  # a run whose first noise-to-signal ratio is at least this counts as one from pure noise
FIRST = 50.0  # noise-to-signal ratio at which even levels begin; no signal can be seen there


@dataclass(frozen=True)
class Fkc:
    """Feynman-Kac correctors: particles whose weights make a mix of predictions sample prod q_i^w_i.

    Skreta et al. 2025, arXiv 2503.02819, algorithm 1. A run of mixed predictions (guidance, autoguidance, products of
    prompts or models, annealing) does not sample the product of the sources' laws that the weights w_i of the mix name.
    Particles with weights W do, up to the steps of the integrator and the number of particles. The weights W change
    along the run by d log W = (|sum w eps|^2 - sum w |eps|^2) d log(alpha / sigma).

    It needs a mix (mix=..., or guide="cfg(5)" in place of the pipeline's own guidance) with weights w that stay the
    same throughout the run. With other mixes each step is still corrected, but the law that is sampled has no closed
    form. No verifier is needed: without one, the first candidate is drawn by the weights; with one, the best of the
    population is picked. For a tilt by a reward use `smc` or `tds`.

    particles: N. None, the default, means as many as one pass can have within the budget.
    kernel: "ddim(churn)" or "sde(churn)". "auto", the default, is ddim(0.5) where the weights of the mix sum to 1, so
        that every churn is right, and ddim(1.5) elsewhere, where the weights collapse with churn below 1. "ode" needs
        ess=0.
    levels: noise levels of the steps. "pipeline" is the pipeline's own grid. "even" has as many levels, at equal
        factors of the noise-to-signal ratio, from 50 down. "auto", the default, is "even" where the weights do not sum
        to 1, because most grids take too few steps at high noise for such mixes.
    scheme: the resampling scheme, "systematic" by default as in the paper.
    ess: particles are resampled where the effective sample size is at most this share of their number. 0.5 by default;
        0 never resamples, and 1 does at every step (as in the paper).
    window: fractions of the run between which particles are resampled. Weights are updated in the whole run.
    temperature: divisor of the increments of the log-weights. 1 by default, which is exact.
    clamp: largest distance of an increment from the mean increment. inf by default, which is exact; the paper's code
        for images has 1 or 2.

    For a latent with d coordinates the log-weights spread like sqrt(d), so that few particles keep any weight. A
    `temperature` above 1 or a finite `clamp` lets more of them keep some, but then the sampled law lies between that of
    the uncorrected mix and the target. The population reports the effective sample size at the end and before each
    resampling.

    Cost in NFE: N f(0, T), each step once for every source of the mix. No verifier calls but N at the end.
    """

    particles: int | None = None
    kernel: str | Kernel = "auto"
    levels: str = "auto"
    scheme: str = "systematic"
    ess: float = 0.5
    window: tuple[float, float] = (0.0, 1.0)
    temperature: float = 1.0
    clamp: float = math.inf

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule", "mix"})
    size_option: ClassVar[str] = "particles"

    def __post_init__(self) -> None:
        check_options(self, particles=1)
        if self.levels not in ("auto", "pipeline", "even"):
            raise UsageError(f"levels='{self.levels}' is unknown: it is auto, pipeline or even.")
        if self.scheme not in SCHEMES:
            raise UsageError(f"scheme='{self.scheme}' is unknown: it is one of {', '.join(SCHEMES)}.")
        if not 0 <= self.ess <= 1:
            raise UsageError(f"ess={self.ess} must be a share of the particles in [0, 1]; 0 resamples never.")
        window_of_run(self.window, "0,1")
        if not self.temperature > 0 or not self.clamp > 0:
            raise UsageError(
                f"temperature={self.temperature} and clamp={self.clamp} must be above 0; 1 and inf are exact."
            )
        kernel = Ddim(0.5) if self.kernel == "auto" else parse(self.kernel)
        if isinstance(kernel, Own | Glass):
            raise UsageError(
                f"kernel '{self.kernel}' has no churn for one call a step: use ddim(1) or sde(1) with fkc."
            )
        if kernel.deterministic and self.ess > 0:
            raise UsageError(
                f"kernel '{self.kernel}' is deterministic, and copies of a particle would stay the same: use "
                "ddim(0.5), or ess=0 to resample never."
            )

    # ---------------------------------------------------------------- the process

    def grid(self, process: Process) -> Process:
        weights = process.mix_weights(0)
        if weights is None:
            raise UsageError(
                "fkc corrects a mix of predictions, and there is none: give mix=... or guide='cfg(5)', or use smc."
            )
        own, even = process.regridded(), self.levels == "even"
        if self.levels == "auto":
            even = total(weights) != 1 and process.off_grid is None
        if not even:
            return own
        steps, first = own.model_steps, min(own.schedule.level(0).kappa, FIRST)
        return process.regridded(even_times(steps, first, own.schedule.level(steps - 1).kappa))

    def stepping(self, process: Process) -> Kernel:
        """The kernel on this process. It raises UsageError or warns where the weights of the mix are unsuitable."""
        weights = [process.mix_weights(i) or () for i in range(process.model_steps)]
        whole = total(weights[0])
        kernel = parse(self.kernel) if self.kernel != "auto" else Ddim(0.5 if whole == 1 else 1.5)
        if whole <= 0:
            raise UsageError(
                f"the weights of the mix sum to {whole:g}, so there is no distribution to start from."
            )
        if whole != 1 and process.schedule.level(0).kappa < NOISE:
            raise UsageError(
                f"the weights of the mix sum to {whole:g}, and the run does not begin at noise: use weights that sum "
                "to 1, more steps, or a start from pure noise."
            )
        if whole != 1 and _churn(kernel) < 1:
            warnings.warn(
                f"the weights of the mix sum to {whole:g}: with churn below 1 few particles keep any weight; use "
                "kernel='ddim(1.5)'",
                stacklevel=2,
            )
        if any(w != weights[0] for w in weights):
            warnings.warn(
                "the weights of the mix change along the run: fkc then corrects each step, but the law that it "
                "samples has no closed form; it is exact for weights that stay the same",
                stacklevel=2,
            )
        return kernel

    # ---------------------------------------------------------------- the search

    def search(self, process: Process, key: Key) -> Generator[Query, Any, Population | None]:
        kernel = self.stepping(process)

        def begin(first: int, before: _Pass | None) -> _Pass | None:
            n = self._size(process)
            return _Pass(self, process, key, first, n, kernel) if n else None

        passes: list[Population] = yield from repeat_passes(process, key, begin)
        return Population.cat(passes) if passes else None

    def _size(self, process: Process) -> int:
        """Particles of the next pass; 0 where the budget pays for none."""
        most = affordable(process)
        wanted = self.particles or (CANDIDATES_WITHOUT_BUDGET if most is None else most)
        return wanted if most is None else min(wanted, most)

    def cost(self, process: Process) -> int | None:
        return None if process.open_ended else (self.particles or CANDIDATES_WITHOUT_BUDGET) * process.nfe()


class _Pass(Numbered):
    """Particles from noise to the clean end, with candidates numbered from `first`."""

    def __init__(self, spec: Fkc, process: Process, key: Key, first: int, n: int, kernel: Kernel) -> None:
        super().__init__(first)
        self.n = n
        self.spec, self.process, self.numbers, self.kernel = spec, process, key, kernel
        self.key = key.fold("pass", first)
        self.resampled: list[tuple[int, float]] = []

    def run(self) -> Generator[Query, Any, Population]:
        process, levels = self.process, self.process.schedule
        particles, log_w = self._start(self.n), torch.zeros(self.n, dtype=torch.float64)
        roots = [c.id for c in particles.candidates]
        for step in range(process.model_steps):
            prediction: Prediction = yield Denoise(particles)
            particles, log_w = particles[: len(prediction)], log_w[: len(prediction)]
            if prediction.rate is None:
                raise UsageError(
                    "fkc needs a mix that is a weighted sum: this one joins its predictions otherwise."
                )
            gain = increment(prediction.rate.cpu(), levels.level(step), levels.level(step + 1))
            log_w = log_w + subdued(gain, self.spec.temperature, self.spec.clamp)
            roots = roots[: len(log_w)]
            if (drawn := self._drawn(log_w, step)) is not None:
                rows, log_w = drawn
                roots = [roots[r] for r in rows]
                particles, prediction = self._copied(particles, rows, step), prediction[rows]
            particles = process.move(particles, prediction, self.kernel)
        finished: Particles = yield Solve(particles)
        return (yield from self._finish(finished, log_w[: len(finished)], roots))

    def _start(self, n: int) -> Particles:
        """Draws from the prior to the power sum w, which is N(0, sigma^2 / sum w)."""
        candidates = [draw(self.numbers, self.number()) for _ in range(n)]
        whole = self.process.weight_sum(0)
        noise = None
        if whole != 1:
            assert whole is not None
            noise = torch.stack([self.process.noise(c) for c in candidates]) / math.sqrt(whole)
        return self.process.start(candidates, noise)

    def _drawn(self, log_w: Tensor, step: int) -> tuple[list[int], Tensor] | None:
        """Rows that continue, repeated for each offspring, and their log-weights; None where nothing is resampled.

        There is no resampling before the last transition, because it draws no noise and copies would stay equal.
        """
        spec, steps, share = self.spec, self.process.model_steps, float(ess(log_w)) / len(log_w)
        inside = step in steps_between(self.process, spec.window)
        if not inside or step + 1 == steps or not (share <= spec.ess or spec.ess == 1) or share == 1:
            return None
        self.resampled.append((step, share))
        q = normalised(log_w)
        drawn = resample(spec.scheme, q, len(log_w), self.key.fold("resample", step))
        return drawn.tolist(), log_w[drawn] - (len(log_w) * q[drawn]).log()

    def _copied(self, particles: Particles, rows: list[int], step: int) -> Particles:
        """The offspring. Each copy is a new candidate and continues with its own noise."""
        chosen, seen = particles[rows], set[int]()
        candidates = []
        for row, candidate in zip(rows, chosen.candidates, strict=True):
            candidates.append(
                branch(self.numbers, self.number(), candidate, step) if row in seen else candidate
            )
            seen.add(row)
        return replace(chosen, candidates=tuple(candidates))

    def _finish(
        self, finished: Particles, log_w: Tensor, roots: Sequence[int]
    ) -> Generator[Query, Any, Population]:
        """Scores in an order drawn by the weights, so that the first is the result where all scores are equal."""
        gumbel = -(-self.key.fold("order").uniform(len(log_w)).double().log()).log()
        order = torch.sort(normalised(log_w).log() + gumbel, descending=True, stable=True).indices.tolist()
        finished, log_w = finished[order], log_w[order]
        scores: Scores = yield Score(finished)
        n, spec = len(scores), self.spec
        log_w = log_w[:n].masked_fill(~scores.total.isfinite(), -math.inf)
        exact = self.process.weight_sum(0) == 1 and spec.temperature == 1 and math.isinf(spec.clamp)
        return Population(
            finished.candidates[:n], log_w, scores.total, tuple(self.resampled), exact,
            tuple(roots[i] for i in order[:n]),
        )  # fmt: skip


def _churn(kernel: Kernel) -> float:
    """Churn of a kernel as a number; inf for the named churns of `sde`, which are not checked."""
    if isinstance(kernel, Ddim):
        return kernel.eta
    assert isinstance(kernel, Sde)
    return math.inf if isinstance(kernel.churn, str) else kernel.churn
