"""Rollover budget forcing (RBF): one chain that moves on as soon as it improves; the calls it saved go to later steps.

Kim, Yoon, Park & Sung 2025, "Inference-Time Scaling for Flow Models via Stochastic Generation and Rollover Budget
Forcing" (arXiv 2503.19385, section 6, algorithm 1). At every noise level, children of the chain's state are tried one
after the other, each with one model call, until the clean estimate of one of them scores better than all before. This
child is accepted at once, its prediction is the start of the next level, and the unused tries are passed on to later
levels.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from genscale.algorithms.leftover_budget import spend_leftover_budget
from genscale.algorithms.option_checks import check_options, window_of_run
from genscale.algorithms.passes import Numbered
from genscale.algorithms.preview_steps import step_at
from genscale.diffusion.interpolants import rbf_times
from genscale.diffusion.kernels import Ddim, Glass, Kernel, Own, parse
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.protocol.answers import Prediction, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Particles, branch, cat, draw
from genscale.protocol.queries import Denoise, Query, Score, Solve

CALLS = 500  # model calls for each prompt in the paper's main table, used where there is no budget


@dataclass
class LevelState:
    """A particle with its prediction and its score, one row each."""

    particles: Particles
    prediction: Prediction
    score: Scores


@dataclass(eq=False)
class Chain:
    """A chain at the present level.

    best: the highest score so far, which is the threshold.
    saved: tries that are left over from earlier levels.
    tried: children of this level.
    left: tries that remain for this level.
    """

    state: LevelState
    best: Scores
    saved: float = 0.0
    tried: list[LevelState] = field(default_factory=list)
    left: int = 0
    moved: bool = False


@dataclass(frozen=True)
class Rollover:
    """Rollover budget forcing: accept the first child that improves; later steps get the tries that it saved.

    chains: number of chains that are run side by side, fewer where the calls do not suffice. 1 by default (the paper's
        code has 2).
    init: share of the calls that is spent on initial noises. These noises are divided among the chains, and each chain
        starts from its best clean estimate. 0.8 by default (the paper's code has 0.1, which is 25 of 500 calls for each
        of 2 chains).
    window: fractions of the run between which calls are spent on tries. (0.5, 1) by default. The pipeline's own
        scheduler carries initial noises to the start of the window, because earlier previews are not informative
        (`genscale calibrate-steps`). The paper has (0, 1), for a distilled model whose first preview is already an
        image.
    batch: children that are tried at a time. 1 by default, as published. Of a larger batch, the best child is taken if
        it improves.
    tolerance: how much a score must rise to count as better, which allows for noise of the verifier. 0 by default.
    most: largest number of tries for one level, as a multiple of its uniform quota, so that savings are not all spent
        on the last level. 2 by default; inf is the published rule. Calls that remain at the end begin another pass from
        fresh noise.
    calls: model calls for each prompt where there is no budget. 500 by default, as in the paper's main table.
    kernel: "sde(rbf)", the default, is the paper's linear SDE with g = 3 t^2. "sde(rbf, vp)" runs it in the variance
        preserving interpolant. "ode" is the paper's ablation without an SDE, where nothing branches and all calls are
        spent on initial noises.
    levels: "pipeline", the default, is the pipeline's own time grid. "rbf" is the grid of the paper, which calls the
        model only above linear time 0.70 (with 10 steps) and is meant for a distilled model.

    Differences: the defaults of `chains`, `init` and `window` were tuned on the bundled toy flow model, where the
    paper's values lose to best_of_n. The best clean estimate of the whole search takes part in the final choice (the
    authors' code may return less than it has seen). Calls are counted with guidance. `most` and `batch` are additions.

    Cost in NFE: whatever the budget is, or up to `calls` model calls; at least one chain to the end. Scores: one a
    model call within the window.
    """

    chains: int = 1
    init: float = 0.8
    batch: int = 1
    tolerance: float = 0.0
    most: float = 2.0
    calls: int = CALLS
    kernel: str | Kernel = "sde(rbf)"
    levels: str = "pipeline"
    window: tuple[float, float] = (0.5, 1.0)

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})
    size_option: ClassVar[str] = "chains"

    def __post_init__(self) -> None:
        check_options(self, chains=1, batch=1, calls=1)
        if not 0 <= self.init < 1:
            raise UsageError(f"init={self.init} must be a share of the calls in [0, 1).")
        if not self.tolerance >= 0 or not self.most >= 1:
            raise UsageError(
                f"tolerance={self.tolerance} must be 0 or more, and most={self.most} at least 1."
            )
        window_of_run(self.window, "0.5,1")
        if self.levels not in ("pipeline", "rbf"):
            raise UsageError(f"levels='{self.levels}' is unknown: it is pipeline or rbf.")
        if isinstance(parse(self.kernel), Own | Glass):
            raise UsageError(
                f"kernel '{self.kernel}' cannot be used by rollover, whose children take one model call each: use "
                "kernel='sde(rbf)', 'ddim(0.5)', or 'ode' to search initial noises only."
            )

    def grid(self, process: Process) -> Process:
        if self.levels == "pipeline":
            return process.regridded()
        start = process.schedule.level(0).kappa
        return process.regridded(rbf_times(process.model_steps, start).tolist())

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        if not process.open_ended and self.calls < process.model_steps:
            raise UsageError(
                f"calls={self.calls} do not suffice for the {process.model_steps} steps of one chain: give more "
                "calls or fewer steps."
            )
        first, spent = 0, 0
        try:
            while calls := self._calls(process, spent):
                one = _Pass(self, process, key, first, calls)
                yield from one.run()
                first, spent = one.next_id, spent + calls - one.calls
        except BudgetExhausted:  # the time budget ended: finish with the present estimates
            yield from one.end()
            first = one.next_id
        yield from spend_leftover_budget(process, key, first)

    def _calls(self, process: Process, spent: int) -> int:
        """Model calls of the next pass, after `spent` calls; 0 where no chain can reach the end."""
        steps = process.model_steps
        each = max(process.nfe(i, i + 1) for i in range(steps))
        limits = [] if process.nfe_left is None else [process.nfe_left // max(each, 1)]
        if process.calls_left is not None and process.calls(1, 0):
            reserve = process.calls(0, self.chains + 1)  # final states of the chains, and the best estimate
            limits.append((process.calls_left - reserve) // process.calls(1, 0))
        calls = min(limits, default=self.calls if process.open_ended else self.calls - spent)
        return calls if calls >= steps else 0

    def cost(self, process: Process) -> int | None:
        """Not known in advance, because a chain that improves early spends less than its quota (at most `calls`)."""
        return None


class _Pass(Numbered):
    """Chains from fresh noise to the end, within a given number of model calls."""

    def __init__(self, spec: Rollover, process: Process, key: Key, first: int, calls: int) -> None:
        super().__init__(first)
        self.spec, self.process, self.key = spec, process, key
        self.kernel = parse(spec.kernel)
        self.calls = calls
        self.chains: list[Chain] = []
        self.quota = 0.0  # tries of one chain at one level
        steps = process.model_steps
        self.start = min(step_at(process, spec.window[0]), steps - 1)
        self.best: LevelState | None = None

    def run(self) -> Generator[Query, Any, None]:
        yield from self._begin()
        for step in range(self.start, self.process.model_steps - 1):
            yield from self._level(step)
        yield from self.end()

    def _begin(self) -> Generator[Query, Any, None]:
        """Scores initial noises where the window begins. Each chain starts from the best of its share."""
        steps, each = self.process.model_steps, self.start + 1
        n = max(1, min(self.spec.chains, self.calls // steps))
        most = (self.calls - n * (steps - each)) // each
        share = 1.0 if self.kernel.deterministic else self.spec.init
        noises = max(n, min(int(share * self.calls / each), most))
        particles = self.process.start([draw(self.key, self.number()) for _ in range(noises)])
        rest = None if self.process.own_steps else Ddim(0.0)
        particles = yield Solve(particles, self.start, rest)
        self.calls -= self.start * len(particles)
        states = yield from self._judge(particles)
        for i in range(n):
            if own := [s for s in states[i::n] if s.score.alive]:
                state = own[_best([s.score for s in own])]
                self.chains.append(Chain(state, state.score))
        self.quota = self.calls / (max(len(self.chains), 1) * max(steps - each, 1))

    def _level(self, step: int) -> Generator[Query, Any, None]:
        """Moves all chains from one level to the next, side by side."""
        for chain in self.chains:
            chain.tried, chain.moved = [], False
            chain.saved += self.quota
            chain.left = int(min(chain.saved, self.quota * self.spec.most) + 1e-9)
            if self._one_child_is_enough(step):
                chain.left = 1
        while waiting := [c for c in self.chains if not c.moved]:
            children, owners = [], []
            for chain in waiting:
                n = min(self.spec.batch, chain.left)
                chain.left -= n
                chain.saved -= n
                children.append(self._children(chain.state, step, n))
                owners += [chain] * n
            states = yield from self._judge(cat(children))
            for chain, state in zip(owners, states, strict=False):
                chain.tried.append(state)
            for chain in waiting:
                self._accept(chain, step)

    def _accept(self, chain: Chain, step: int) -> None:
        """Takes the best child if it improves, or if no tries are left."""
        scores = [s.score for s in chain.tried]
        if scores and not Scores.cat(scores).alive:
            if chain.left == 0:  # all children failed, so the chain ends
                self.chains.remove(chain)
            return
        winner = _best(scores) if scores else None
        pair = [chain.best, scores[winner]] if winner is not None else [chain.best]
        total = Scores.cat(pair).total
        better = winner is not None and float(total[1] - total[0]) > self.spec.tolerance
        if not better and chain.left > 0:
            return
        chain.moved = True
        if winner is None:  # the time budget ended: the chain continues from its present state
            moved = self._children(chain.state, step, 1)
            chain.state = replace(chain.state, particles=moved)
            return
        chain.state = chain.tried[winner]
        if better:
            chain.best = chain.state.score

    def _one_child_is_enough(self, step: int) -> bool:
        """Whether one child is enough, because all children would be equal or the window has ended."""
        late = step >= step_at(self.process, self.spec.window[1])
        return late or self.kernel.deterministic or self.process.schedule.level(step).alpha == 0

    def _children(self, parent: LevelState, step: int, n: int) -> Particles:
        recipe = parent.particles.candidates[0]
        candidates = [branch(self.key, self.number(), recipe, step) for _ in range(n)]
        rows = [0] * n
        born = replace(parent.particles[rows], candidates=tuple(candidates), x0=None)
        return self.process.move(born, parent.prediction[rows], self.kernel)

    def _judge(self, particles: Particles) -> Generator[Query, Any, list[LevelState]]:
        """Makes one model call for each row and scores the clean estimates."""
        self.calls -= len(particles)
        prediction: Prediction = yield Denoise(particles)
        particles = replace(particles[: len(prediction)], x0=prediction.x0)
        scores: Scores = yield Score(particles)
        states = [LevelState(particles[[i]], prediction[[i]], scores[i : i + 1]) for i in range(len(scores))]
        for state in states:
            if state.score.alive and (
                self.best is None or Scores.cat([self.best.score, state.score]).best() == 1
            ):
                self.best = state
        return states

    def end(self) -> Generator[Query, Any, None]:
        """Scores the clean estimates of the chains at their last level, and the best estimate of all."""
        states = [c.state for c in self.chains]
        best = self.best
        if best is not None and all(best is not s for s in states):
            states.append(best)
        if not states:
            return
        parts = []
        for state in states:
            parent, at = state.particles.candidates[0], state.particles.step
            candidate = branch(self.key, self.number(), parent, at, "estimate")
            parts.append(self.process.estimate(state.particles, state.prediction, [candidate]))
        finished = yield Solve(cat(parts))
        yield Score(finished)


def _best(scores: list[Scores]) -> int:
    return Scores.cat(scores).best()
