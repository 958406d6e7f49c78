"""One pass of the particle filter: from fresh noise to weighted, finished candidates.

Log-weights are never reset. If m particles are drawn out of P with probabilities q, an offspring of i continues with
lw_i - log(P q_i), so the mean of exp(lw) remains an unbiased estimate of Z. This also holds if particles are drawn by
flattened weights, if they are drawn within groups, and if they are not resampled because the ESS is high.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from genscale.algorithms.guided_proposal import NONE, slope_factor, twisted
from genscale.algorithms.particle_options import ParticleOptions
from genscale.algorithms.particle_pool import Path, Pool, ScoredState
from genscale.algorithms.passes import Numbered
from genscale.algorithms.tempering import MERITS, POTENTIALS, joined, tempered, unit_of
from genscale.diffusion.kernels import Kernel, parse
from genscale.errors import BudgetExhausted
from genscale.key import Key
from genscale.numerics.resampling import ess, flatten, normalised, resample, resample_segments
from genscale.protocol.answers import Graded, Prediction, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, branch, cat, draw
from genscale.protocol.population import Population
from genscale.protocol.queries import Denoise, Gradient, Query, Score, Solve

_SAME = 1 + 1e-6  # tolerance: after adaptive tempering the ESS equals its target up to round-off


class Pass(Numbered):
    """One pass with n particles, each with the given number of children.

    first: id of its first candidate. unit: what scores are divided by; None: not known yet. reference: a fixed path
    that particle 0 follows (particle Gibbs). record: whether to keep the paths of all particles. After `run`, next_id,
    unit and paths are set.
    """

    def __init__(
        self, spec: ParticleOptions, process: Process, key: Key, first: int, n: int, children: int = 1,
        unit: float | None = None, *, reference: Path | None = None, record: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(first)
        self.spec, self.process, self.unit = spec, process, unit
        self.n, self.children = n, children
        self.key, self.numbers = key.fold("pass", first), key
        self.reference, self.record = reference, record
        self.strength = 0.0  # reached by tempering
        self.resampled: list[tuple[int, float]] = []
        self.paths: list[Path] = []

    def run(self) -> Generator[Query, Any, Population]:
        kernel, rest = self.spec.kernels(self.process)
        scoring = self.spec.scoring_steps(self.process)
        pool = self._start()
        if scoring:
            pool.particles = yield from self._solve(pool, scoring[0], rest)
        for i, step in enumerate(scoring):
            last = i + 1 == len(scoring)
            try:
                pool, prediction = yield from self._judge(pool, step)
                self._weigh(pool, step)
                rows = pool.continuing(families=self.spec.group == "parent")
                if not rows:  # all have failed
                    return Population.empty()
                if (share := len(rows) / len(pool)) < 1:
                    pool, prediction = pool.take(rows), prediction[rows]
                    pool.log_w = pool.log_w + math.log(share)  # the mean weight counts those without weight
                # Handed over, not kept here: predictions are two latents a particle, and the next ones come soon.
                pools, estimates = [pool], [prediction]
                del pool, prediction
                pool, prediction, copies = self._select(pools.pop(), estimates.pop(), step, last)
                until = step + 1 if last else scoring[i + 1]
                estimates.append(prediction)
                del prediction
                yield from self._run_to(pool, estimates.pop(), copies, until, kernel)
            except BudgetExhausted:
                if self.spec.gradient == NONE:
                    raise
                break  # no time for gradients, but perhaps for the run to the end
        finished = yield from self._solve(pool, None, rest)
        return (yield from self._finish(pool, finished))

    # ---------------------------------------------------------------- moving

    def _start(self) -> Pool:
        held = 0 if self.reference is None else 1
        n = self.n * self.children - held
        candidates = [draw(self.numbers, self.number()) for _ in range(n)]
        particles = self.process.start(candidates)
        if self.reference is not None:  # a placeholder for it until its first scoring step
            particles = cat([particles[[0]], particles])
        zeros, size = torch.zeros(n + held, dtype=torch.float64), n + held
        parents = torch.arange(size) // self.children
        roots = [] if self.reference is None else [self.reference.root]
        roots += [c.id for c in candidates]
        return Pool(particles, parents, zeros, zeros, zeros[:, None][:, :0], [()] * size, roots)

    def _solve(
        self, pool: Pool, until: int | None, kernel: Kernel | None
    ) -> Generator[Query, Any, Particles]:
        """Run all particles to a step. Rows for which the budget ends are dropped; the reference is not moved."""
        if self.reference is None:
            particles: Particles = yield Solve(pool.particles, until, kernel)
            pool.shorten(len(particles))
            return replace(particles, x0=None)  # the predictions that follow have it
        moved: Particles = yield Solve(pool.particles[1:], until, kernel)
        pool.shorten(1 + len(moved))
        # The row of the reference is a placeholder until its next scoring step.
        return cat([moved[[0]], moved])

    def _judge(self, pool: Pool, step: int) -> Generator[Query, Any, tuple[Pool, Prediction]]:
        """Predictions and scores of the current states."""
        held = None if self.reference is None else self.reference.states[pool.rewards.shape[1]]
        asked = pool.particles if held is None else pool.particles[1:]
        if self.spec.steep:
            prediction, scores = yield from self._graded(pool)
        else:
            prediction = yield Denoise(asked)
            asked = asked[: len(prediction)]
            scores = yield Score(replace(asked, x0=prediction.x0))
        asked, totals = replace(asked, x0=None)[: len(scores)], scores.total
        prediction = prediction[: len(scores)]
        if held is not None:
            asked = cat([held.particles, asked])
            prediction = Prediction.cat([held.prediction, prediction])
            totals = torch.cat([torch.tensor([held.total], dtype=totals.dtype), totals])
        pool.shorten(len(asked))
        pool.particles = asked
        if self.unit is None:
            self.unit = unit_of(totals, self.spec.scale)
        pool.rewards = joined(pool.rewards, totals / self.unit)
        if self.record:
            states = [ScoredState(asked[[i]], prediction[[i]], float(t)) for i, t in enumerate(totals)]
            pool.paths = [(*path, state) for path, state in zip(pool.paths, states, strict=True)]
        return pool, prediction

    def _run_to(
        self, pool: Pool, prediction: Prediction, copies: list[int], until: int, kernel: Kernel
    ) -> Generator[Query, Any, None]:
        """Run to the next scoring step; the first model call was already made for this one."""
        spec, step = self.spec, pool.particles.step
        if spec.gradient != NONE and not spec.steep:
            prediction = yield from self._parents_graded(pool)
        while spec.proposal is not None or spec.gradient != NONE:
            self._propose(pool, prediction, kernel)
            if pool.particles.step == until:
                return
            if spec.gradient != NONE:
                prediction, _ = yield from self._graded(pool)
                continue
            prediction = yield Denoise(pool.particles)
            pool.particles = pool.particles[: len(prediction)]
            pool.shorten(len(prediction))
        pool.particles = self._move(pool.particles, prediction, copies, kernel)
        del prediction
        if pool.particles.step < until or pool.particles.inner:
            pool.particles = yield from self._solve(pool, until, kernel)
        assert pool.particles.step > step

    def _move(
        self, particles: Particles, prediction: Prediction, copies: list[int], kernel: Kernel
    ) -> Particles:
        if not self.spec.rebirth or not copies:
            return self.process.move(particles, prediction, kernel)
        born, others = set(copies), [i for i in range(len(particles)) if i not in set(copies)]
        parts = [
            self.process.move(particles[rows], prediction[rows], k)
            for rows, k in ((others, kernel), (sorted(born), parse(self.spec.rebirth)))
            if rows
        ]
        order = [*others, *sorted(born)]
        return cat(parts)[[order.index(i) for i in range(len(order))]]

    def _propose(self, pool: Pool, prediction: Prediction, kernel: Kernel) -> None:
        """Step by the proposal and correct the weights (twisted SMC, Wu et al. 2023, arXiv 2306.17775)."""
        particles = pool.particles
        base = self.process.transition(particles, prediction, kernel)
        asked = base
        if base.std > 0 and self.spec.proposal is not None:
            asked = self.spec.proposal(base, particles, prediction, particles.step)
        elif base.std > 0 and pool.slope is not None:
            asked = twisted(base, self._push(particles.step) * pool.slope, self.spec.reach)
        pool.slope = None
        pool.particles = self.process.take(particles, asked)
        if base.std > 0:
            x = pool.particles.x
            pool.log_w = pool.log_w + (base.log_prob(x) - asked.log_prob(x)).cpu()

    def _push(self, step: int) -> float:
        """The factor of the gradient of the score: the strength at the next step (lambda at t - 1 in DAS), divided by
        the unit of scores. Adaptive tempering chooses that strength only later, so its latest strength is used."""
        spec, unit = self.spec, self.unit or 1.0
        if spec.push is not None:
            return spec.push / unit
        if spec.temper == "adaptive":
            return self.strength / unit
        return self._strength(step + 1) / unit

    def _graded(self, pool: Pool) -> Generator[Query, Any, tuple[Prediction, Scores]]:
        """Predictions, scores and gradients of the current states, in one query and one model call."""
        graded: Graded = yield Gradient(pool.particles, through=self.spec.gradient)
        assert graded.scores is not None
        pool.shorten(len(graded))
        pool.slope = self._slope(graded, pool.particles.step)
        return graded.prediction, graded.scores

    def _slope(self, graded: Graded, step: int) -> Tensor:
        return graded.gradient * slope_factor(self.spec.gradient, self.process.schedule.level(step))

    def _parents_graded(self, pool: Pool) -> Generator[Query, Any, Prediction]:
        """Predictions and gradients of the kept particles only, if particles have several children.

        The gradient of a particle is shared by its children. The model is called again, which costs less than gradients
        of children that are not kept.
        """
        parents = pool.parents.tolist()  # 0 .. k - 1, in order
        first = pool.particles[[parents.index(p) for p in range(parents[-1] + 1)]]
        graded: Graded = yield Gradient(first, through=self.spec.gradient)
        rows = [p for p in parents if p < len(graded)]
        pool.shorten(len(rows))
        pool.slope = self._slope(graded, first.step)[torch.tensor(rows, device=graded.gradient.device)]
        return graded.prediction[rows]

    # ---------------------------------------------------------------- weights

    def _strength(self, step: int) -> float:
        """The strength at a step, for tempering rules that do not depend on the particles."""
        nothing = torch.zeros(0, dtype=torch.float64)
        return tempered(
            self.spec.temper, self.spec.strength, step / self.process.model_steps,
            self.process.schedule.level(step).kappa,
            log_w=nothing, applied=nothing, rewards=nothing, reached=0.0, target=1.0,
        )  # fmt: skip

    def _weigh(self, pool: Pool, step: int) -> None:
        spec = self.spec
        if math.isinf(spec.strength):
            return
        self.strength = tempered(
            spec.temper, spec.strength, step / self.process.model_steps, self.process.schedule.level(step).kappa,
            log_w=pool.log_w, applied=pool.applied_potential, rewards=pool.rewards,
            reached=self.strength, target=spec.ess,
        )  # fmt: skip
        potential = POTENTIALS[spec.potential](pool.rewards, self.strength, pool.applied_potential)
        potential = potential.masked_fill(pool.failed, -math.inf)
        pool.log_w, pool.applied_potential = pool.log_w + potential, pool.applied_potential + potential

    def _select(
        self, pool: Pool, prediction: Prediction, step: int, last: bool
    ) -> tuple[Pool, Prediction, list[int]]:
        """The survivors, each repeated for its children (once after the last scoring), and the rows that are copies."""
        kept = self._survivors(pool, step)
        children = 1 if last else self.children
        if kept is None:  # no resampling
            return pool, prediction, []
        rows, log_w = kept
        rows = [r for r in rows for _ in range(children)]
        chosen = pool.take(rows)
        chosen.log_w = log_w.repeat_interleave(children)
        chosen.parents = torch.arange(len(rows)) // children
        del pool
        candidates, copies, seen = list(chosen.particles.candidates), [], set[int]()
        for i, row in enumerate(rows):
            if row in seen:
                candidates[i] = branch(self.numbers, self.number(), candidates[i], step)
                copies.append(i)
            seen.add(row)
        chosen.particles = replace(chosen.particles, candidates=tuple(candidates))
        return chosen, prediction[rows], copies

    def _survivors(self, pool: Pool, step: int) -> tuple[list[int], Tensor] | None:
        """The ancestor row of each offspring, with their log-weights; None: no resampling."""
        spec, key, size = self.spec, self.key.fold("resample", step), len(pool)
        if math.isinf(spec.strength):
            rows = self._best(pool)
            return rows, pool.log_w[torch.tensor(rows)]
        share = float(ess(pool.log_w)) / size
        if spec.group == "parent" and self.children > 1:
            q = normalised(pool.log_w, pool.parents)
            drawn = resample_segments("multinomial", q, pool.parents, 1, key)
            sizes = torch.bincount(pool.parents)[pool.parents[drawn]]
            self.resampled.append((step, share))
            return drawn.tolist(), pool.log_w[drawn] - (sizes * q[drawn]).log()
        if self.children == 1 and spec.ess < 1 and share > spec.ess * _SAME and self.reference is None:
            return None
        self.resampled.append((step, share))
        weights = flatten(pool.log_w, step / self.process.model_steps) if spec.flatten else pool.log_w
        q = spec.shares(weights)
        m = min(self.n, size)
        if self.record:
            drawn = resample("multinomial", q, m, key)
            if self.reference is not None:  # conditional SMC (Andrieu, Doucet & Holenstein 2010, section 4.3)
                others = resample("multinomial", q, m - 1, key)
                drawn = torch.cat([torch.zeros(1, dtype=torch.long), others])
        else:
            drawn = resample(spec.scheme, q, m, key)
        return drawn.tolist(), pool.log_w[drawn] - (size * q[drawn]).log()

    def _best(self, pool: Pool) -> list[int]:
        merit = MERITS[self.spec.potential](pool.rewards).masked_fill(pool.failed, -math.inf)
        if self.spec.group == "global":
            alive = len(pool) - int(pool.failed.sum())
            order = torch.sort(merit, descending=True, stable=True).indices[: min(self.n, alive)]
            return sorted(order.tolist())
        rows = []
        for parent in range(int(pool.parents.max()) + 1):
            own = (pool.parents == parent).nonzero()[:, 0]
            rows.append(int(own[merit[own].argmax()]))
        return rows

    # ---------------------------------------------------------------- the end

    def _finish(self, pool: Pool, finished: Particles) -> Generator[Query, Any, Population]:
        """Score the finished particles, and apply the rest of exp(strength R) to the weights."""
        held = self.reference
        scores: Scores = yield Score(finished if held is None else finished[1:])
        totals, candidates = scores.total, finished.candidates[: len(scores)]
        if held is not None:
            totals = torch.cat([torch.tensor([held.total], dtype=totals.dtype), totals])
            candidates = (held.candidate, *finished.candidates[1:][: len(scores)])
        pool.shorten(len(totals))
        if not totals.isfinite().any():
            return Population.empty()
        strength, unit = self.spec.strength, self.unit or unit_of(totals, self.spec.scale)
        self.unit = unit
        # With infinite strength only the best particle matters. It is chosen at the end of the whole search.
        log_w = (
            pool.log_w
            if math.isinf(strength)
            else pool.log_w + strength * totals / unit - pool.applied_potential
        )
        log_w = log_w.masked_fill(~totals.isfinite(), -math.inf)
        if self.record:
            self.paths = [
                Path(path, candidate, float(total), root)
                for path, candidate, total, root in zip(
                    pool.paths, candidates, totals, pool.roots, strict=True
                )
            ]
        # The estimate of Z is biased by a unit that comes from the scores of the same particles (z = -3.6 in 400
        # searches of 8), and by copies that step by another kernel, since the scores choose which are copied.
        claims = self.spec.scale != "previews" and not (self.spec.rebirth or self.spec.biased)
        return Population(candidates, log_w, totals, tuple(self.resampled), claims, tuple(pool.roots))
