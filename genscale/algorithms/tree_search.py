"""Tree search over denoising states: select, expand, roll out and back up, for many rollouts in one batch.

Diffusion Tree Sampling and Search (Jain et al. 2025, arXiv 2506.20701, section 4). The rollouts of a wave are selected
one after the other, and each counts as a visit at once ("virtual visits"), so that they spread over the tree. The
noisiest rollouts start first and the others join at their level, so a single prompt fills a batch. All states of a
rollout at branching levels enter the tree together with the model's prediction, so another child of such a state needs
no new model call there.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from genscale.algorithms.leftover_budget import spend_leftover_budget
from genscale.algorithms.option_checks import check_options
from genscale.algorithms.passes import Numbered
from genscale.algorithms.preview_steps import step_at
from genscale.algorithms.search_tree import Node, Tree, Widening, probabilities
from genscale.algorithms.tempering import unit_of
from genscale.algorithms.transition_kernels import outside
from genscale.algorithms.tree_policies import WIDENINGS, Progressive, Sample, Select, Thompson, Uct, Widen
from genscale.diffusion.kernels import Glass, Kernel, Own, parse
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.numerics.thompson import Belief
from genscale.protocol.answers import Prediction, Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate, Particles, branch, cat
from genscale.protocol.particles import draw as fresh
from genscale.protocol.population import Population
from genscale.protocol.queries import Denoise, Query, Score, Solve

ROLLOUTS = 64  # number of rollouts if neither the user nor a budget sets it


@dataclass(frozen=True)
class TreeState:
    """The state of a node: its latents (one row) and the model's prediction there."""

    particles: Particles
    prediction: Prediction


@dataclass(frozen=True)
class TreeSearch:
    """The fields that all presets of tree search share; each preset explains its own defaults.

    rollouts: number of rollouts. None: until the budget ends, 64 without a budget.
    levels: fractions of the run, in (0, 1), at which states are kept and branched.
    policy: how a child is selected: "sample", with probability proportional to exp(strength v); "uct", the largest
        v + explore sqrt(log N / N_child); or "thompson", the largest draw from the posteriors of the mean scores.
    strength: factor of scores in the soft maximum of the backup (and in "sample"), for scores divided by `scale`; inf
        backs up the maximum.
    explore: factor of the bonus of "uct", for values normalised to [0, 1].
    widen: when a node gets another child: (C, a) allows C visits^a children; "practical" is (1, 0.5), and "paper" is
        (2, 0.8). "thompson" compares a draw for a new child with a draw for the existing ones.
    prior: prior (m, kappa, nu, tau^2) of "thompson" for scores in [0, 1]: mean m with the weight of kappa samples, and
        variance tau^2 with the weight of nu samples.
    root: the same as `widen` for the root alone, which decides the number of fresh noises. None: as `widen`.
    wave: number of rollouts that are selected at a time.
    kernel: the stochastic kernel between levels, which makes children differ: "ddim(eta)" or "sde(churn, interpolant)".
    rest: the kernel before the first level and from one step after the last level; "own" is the pipeline's scheduler.
    scale: what scores are divided by: "pool", the standard deviation of the scores of the first wave; or a number.
    """

    rollouts: int | None = None
    levels: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    policy: str = "uct"
    strength: float = 1.0
    explore: float = 1.0
    widen: tuple[float, float] | str = "practical"
    prior: tuple[float, float, float, float] = (0.0, 1.0, 1.0, 0.1)
    root: tuple[float, float] | str | None = None
    wave: int = 8
    kernel: str | Kernel = "ddim(1)"
    rest: str | Kernel = "own"
    scale: float | str = "pool"

    needs: ClassVar[frozenset[str]] = frozenset({"noise", "schedule"})
    size_option: ClassVar[str] = "rollouts"
    keeps_states: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self, rollouts=1, wave=1)
        if list(self.levels) != sorted(set(self.levels)) or not all(0 <= f < 1 for f in self.levels):
            raise UsageError(f"levels={self.levels} must be increasing fractions of the run in [0, 1).")
        if self.policy not in ("sample", "uct", "thompson"):
            raise UsageError(f"policy='{self.policy}' is unknown: it is sample, uct or thompson.")
        if not self.strength >= 0 or not 0 <= self.explore < math.inf:
            raise UsageError(f"strength={self.strength} and explore={self.explore} must be 0 or more.")
        self._check_widening()
        if self.scale != "pool" and (isinstance(self.scale, str) or not 0 < self.scale < float("inf")):
            raise UsageError(f"scale={self.scale} must be a number above 0, or pool.")
        parse(self.rest)
        kernel = parse(self.kernel)
        if isinstance(kernel, Own | Glass) or kernel.deterministic:
            raise UsageError(
                f"kernel '{self.kernel}' leaves nothing to branch: every branch of an ODE is the same; use "
                "kernel='ddim(0.5)' or 'sde(rbf)', or a search over initial noise such as best_of_n."
            )

    def _check_widening(self) -> None:
        for name, given in (("widen", self.widen), ("root", self.widen if self.root is None else self.root)):
            numbers = WIDENINGS.get(given) if isinstance(given, str) else given
            good = numbers is not None and len(numbers) == 2 and numbers[0] > 0 and 0 <= numbers[1] <= 1
            if not good and given != "thompson":
                raise UsageError(
                    f"{name}={given} must be C > 0 and a power in [0, 1], such as 1,0.5, or "
                    f"{', '.join(WIDENINGS)} or thompson."
                )
        if len(self.prior) != 4 or not all(map(math.isfinite, self.prior)) or min(self.prior[1:]) <= 0:
            raise UsageError(f"prior={self.prior} must be m and three numbers above 0, such as 0,1,1,0.1.")

    @property
    def selecting(self) -> Select:
        if self.policy == "thompson":
            return Thompson(Belief(*self.prior))
        return Uct(self.explore) if self.policy == "uct" else Sample()

    @property
    def widening(self) -> Widen:
        return self._widening(self.widen)

    @property
    def widening_of_root(self) -> Widen:
        return self._widening(self.widen if self.root is None else self.root)

    def _widening(self, given: tuple[float, float] | str) -> Widen:
        if given == "thompson":
            return Thompson(Belief(*self.prior))
        return Progressive(Widening(*(WIDENINGS[given] if isinstance(given, str) else given)))

    def grid(self, process: Process) -> Process:
        """On second-order schedulers kernels step over the levels at which a step begins."""
        return process.regridded()

    def branch_steps(self, process: Process) -> list[int]:
        """The steps of the levels. There is none in the last two steps, after which no noise is drawn."""
        steps = process.model_steps
        return sorted({s for f in self.levels if 1 <= (s := step_at(process, f)) <= steps - 2})

    def search(self, process: Process, key: Key) -> Generator[Query, Any, Population | None]:
        run = Growth(self, process, key)
        with suppress(BudgetExhausted):
            yield from run.grow()
        with suppress(BudgetExhausted):
            yield from spend_leftover_budget(process, key, run.next_id)
        return run.population()

    def cost(self, process: Process) -> int | None:
        """None: the cost is not known in advance. A rollout costs less the later it branches, which depends on the
        scores."""
        return None


class Growth(Numbered):
    """The tree of one search, which rollouts extend."""

    def __init__(self, spec: TreeSearch, process: Process, key: Key) -> None:
        super().__init__()
        self.spec, self.process, self.key = spec, process, key
        self.steps = spec.branch_steps(process)
        self.kernel, self.rest = parse(spec.kernel), outside(process, spec.rest)
        self.done, self.unit = 0, None if spec.scale == "pool" else float(spec.scale)
        self.tree = Tree(spec.strength / (self.unit or 1.0))
        self.select, self.widen, self.widen_root = spec.selecting, spec.widening, spec.widening_of_root

    # ---------------------------------------------------------------- the loop

    def grow(self) -> Generator[Query, Any, None]:
        limit = self.spec.rollouts
        if limit is None and not self.process.open_ended:
            limit = ROLLOUTS
        while limit is None or self.done < limit:
            n = self.spec.wave if limit is None else min(self.spec.wave, limit - self.done)
            starts = self._select(n)
            if not starts:
                return
            yield from self._roll_out(starts)
            self.done += len(starts)

    def _select(self, n: int) -> list[Node]:
        """The new children, at most n, from which rollouts start; fewer if the budget does not pay for n rollouts."""
        starts: list[Node] = []
        nfe, calls = self.process.nfe_left, self.process.calls_left
        for i in range(n):
            node = self._descend(self.key.fold("select", self.done + i))
            price, judged = self._price(node), self.process.calls(0, 1)
            if (nfe is not None and price > nfe) or (calls is not None and judged > calls):
                break
            nfe, calls = nfe if nfe is None else nfe - price, calls if calls is None else calls - judged
            self.tree.visit(node)
            child = Node(node.level + 1, node, visits=1)
            node.children.append(child)
            starts.append(child)
        return starts

    def _descend(self, key: Key) -> Node:
        """Descend from the root to a node that gets a new child. States of unfinished rollouts are skipped."""
        tree, last = self.tree, len(self.steps)
        node = tree.root
        while node.level < last:
            own = key.fold(node.level + 1)
            widen = self.widen_root if node is tree.root else self.widen
            if not node.ready or widen.wider(node, tree, own):
                break
            node = self.select.pick(node.ready, tree, own)
        return node

    def _price(self, node: Node) -> int:
        """NFE of a rollout from a node, whose prediction is known unless it is the root."""
        process, steps = self.process, self.steps
        if not steps:
            return process.nfe(0, process.steps, self.rest)
        spent = process.nfe(0, steps[0], self.rest) if node.level < 0 else 0
        first = max(node.level, 0)
        spent += process.nfe(steps[first], steps[-1] + 1, self.kernel)
        spent += process.nfe(steps[-1] + 1, process.steps, self.rest)
        return spent - (process.nfe(steps[first], steps[first] + 1) if node.level >= 0 else 0)

    # ---------------------------------------------------------------- rollouts

    def _roll_out(self, starts: Sequence[Node]) -> Generator[Query, Any, None]:
        """Run new children to the end. The noisiest start first, and others join at their level."""
        steps, live = self.steps, list[Node]()
        for level in range(len(steps)):
            born = [n for n in starts if n.level == level]
            particles = yield from self._reach(level, live, born)
            live += born
            if not live:
                continue
            prediction: Prediction = yield Denoise(particles)
            self._drop(live, len(prediction))
            for i, node in enumerate(live):
                node.state = TreeState(replace(particles[[i]], x0=None), prediction[[i]])
                node.label = particles.candidates[i].id
                self.tree.open(node)
            live = [self._descendant(n) for n in live]
        born = [n for n in starts if n.level == len(steps)]
        particles = yield from self._reach(len(steps), live, born)
        yield from self._judge([*live, *born], particles)

    def _reach(self, level: int, live: list[Node], born: list[Node]) -> Generator[Query, Any, Any]:
        """The particles of all rollouts, running and new, at the step of a level (or at the clean end)."""
        steps, process = self.steps, self.process
        end = level == len(steps)
        if level == 0 or not steps:
            if born:
                start = process.start([fresh(self.key, self.number()) for _ in born])
                return (yield Solve(start, None if end else steps[0], self.rest))
            return None
        movers = [*live, *born]
        if not movers:
            return None
        states = [n.parent.state for n in movers if n.parent is not None]
        candidates = [
            self._branch(s, steps[level - 1], n in born) for s, n in zip(states, movers, strict=True)
        ]
        before = replace(cat([s.particles for s in states]), candidates=tuple(candidates), x0=None)
        moved = process.move(before, Prediction.cat([s.prediction for s in states]), self.kernel)
        if end:
            return (yield Solve(moved, None, self.rest))
        return (yield Solve(moved, steps[level], self.kernel))

    def _branch(self, state: TreeState, step: int, born: bool) -> Candidate:
        """The candidate of a child; a rollout that only continues keeps its parent's."""
        parent = state.particles.candidates[0]
        if not born:
            return parent
        return branch(self.key, self.number(), parent, step)

    def _descendant(self, node: Node) -> Node:
        child = Node(node.level + 1, node, visits=1)
        node.children.append(child)
        return child

    def _judge(self, live: list[Node], particles: Particles) -> Generator[Query, Any, None]:
        self._drop(live, len(particles))
        scores: Scores = yield Score(particles)
        self._drop(live, len(scores))
        totals = scores.total
        if self.unit is None and len(scores.alive) > 1:
            self.unit = unit_of(totals, self.spec.scale)
            self.tree.retune(self.spec.strength / self.unit)
        alive = set(scores.alive)
        for i, (node, total, candidate) in enumerate(
            zip(live, totals.tolist(), particles.candidates, strict=False)
        ):
            if i not in alive:
                self.tree.remove(node)
                continue
            node.state, node.label = candidate, candidate.id
            self.tree.finish(node, total)

    def _drop(self, live: list[Node], n: int) -> None:
        """Remove rollouts that a budget cut off from the tree."""
        for node in live[n:]:
            self.tree.cut(node)
        del live[n:]

    # ---------------------------------------------------------------- answers

    def population(self) -> Population | None:
        """The finished samples, weighted by the probability that a Boltzmann descent ends there; None if there are
        none."""
        root, strength = self.tree.root, self.tree.strength
        leaves = root.leaves()
        if not leaves:
            return None
        totals = torch.tensor([leaf.reward for leaf in leaves], dtype=torch.float64)
        chance = probabilities(root, strength)
        log_w = torch.tensor([chance[leaf] for leaf in leaves], dtype=torch.float64).log()
        if not math.isinf(strength):
            # The mean weight is the tree's own estimate of Z. It is biased, since the scores choose where the tree
            # grows, and is not claimed: E[estimate] / Z is 0.73 with the defaults of dts on a mixture on the line.
            log_w += strength * self.tree.value[root] + math.log(len(leaves))
        noises = {node: child.label for child in root.children for node in child.leaves()}
        ancestors = tuple(noises[leaf] for leaf in leaves)
        return Population(tuple(leaf.state for leaf in leaves), log_w, totals, ancestors=ancestors)
