"""Best of N: draw N initial noises, carry each to the end, keep the one the verifier likes best.

Random search of Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps"
(arXiv 2501.09732, section 3.1). With `prune` it becomes successive halving (Jamieson & Talwalkar 2016, arXiv
1502.07943, algorithm 1) on the scores of the clean estimates: at each of the given fractions of
the run only the better `keep` of the candidates go on.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from genscale.errors import Refusal
from genscale.key import Key
from genscale.particles import Particles, draw
from genscale.protocol import Ask, Process, Score, Solve

UNLIMITED = 16  # candidates when neither the user nor a budget says how many


@dataclass(frozen=True)
class BestOfN:
    """Draw N noises, finish all (or prune early by previews), keep the best.

    candidates: N; None means as many as the budget allows (16 without one). N swept 2 ... 256 in Ma et al.
    prune: increasing fractions of the run in (0, 1) at which the worse candidates are dropped; empty: none.
    keep: share of the candidates that survives each pruning, 0.5 as in successive halving. wave: candidates
    drawn at a time without pruning; it changes when scores are seen, never what they are.

    Cost in NFE: N f(0, T); with pruning at steps s_1 < s_2 < ... it is N f(0, s_1) + ceil(keep N) f(s_1, s_2)
    + ..., f(a, b) being the evaluations of one candidate from step a to step b. Scores: N; with pruning those
    present at each step where some are dropped, and at the end. A budget that pays for fewer makes N smaller.
    """

    candidates: int | None = None
    prune: tuple[float, ...] = ()
    keep: float = 0.5
    wave: int = 16

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def __post_init__(self) -> None:
        if self.candidates is not None and self.candidates < 1:
            raise Refusal(f"best_of_n needs at least 1 candidate, not {self.candidates}.")
        if list(self.prune) != sorted(set(self.prune)) or not all(0 < f < 1 for f in self.prune):
            raise Refusal(
                f"prune={self.prune} must be increasing fractions between 0 and 1, such as 0.3,0.6."
            )
        if not 0 < self.keep <= 1:
            raise Refusal(f"keep={self.keep} must be a share in (0, 1].")
        if self.wave < 1:
            raise Refusal(f"wave={self.wave} must be at least 1.")

    def search(self, process: Process, key: Key) -> Generator[Ask, Any, None]:
        if self.prune:
            yield from self._halving(process, key)
            return
        n, done = self._count(process), 0
        while n is None or done < n:
            wave = self.wave if n is None else min(self.wave, n - done)
            start = process.start([draw(key, done + i) for i in range(wave)])
            finished = yield Solve(start)
            yield Score(finished)
            done += wave

    def _halving(self, process: Process, key: Key) -> Generator[Ask, Any, None]:
        """Pools, since pruning compares candidates with each other; one, unless the budget asks for more."""
        done = 0
        while True:
            n = self._affordable(process)
            particles: Particles = process.start([draw(key, done + i) for i in range(n)])
            for step, survivors in self._rungs(process, n):
                particles = yield Solve(particles, step)
                if step < process.steps:
                    scores = yield Score(particles)
                    particles = particles[sorted(scores.ranking()[:survivors])]
            yield Score(particles)
            done += n
            if self.candidates is not None or not process.open_ended:
                return

    def _rungs(self, process: Process, n: int) -> list[tuple[int, int]]:
        """(step, how many go on from there) where some are dropped, and at last at the end of the process."""
        steps = {min(max(round(f * process.steps), 1), process.steps) for f in self.prune}
        rungs = []
        for step in sorted(steps - {process.steps}):
            survivors = math.ceil(self.keep * n)
            if survivors < n:
                rungs.append((step, survivors))
            n = survivors
        return [*rungs, (process.steps, n)]

    def _count(self, process: Process) -> int | None:
        """How many to draw; None means until the budget ends the search."""
        if self.candidates is None and process.open_ended:
            return None
        return self.candidates or UNLIMITED

    def _affordable(self, process: Process) -> int:
        """The largest pool whose whole pruned run the budget pays for, at most `candidates`; at least 1."""
        most = self.candidates
        if most is None:
            limits = ((process.nfe_left, process.nfe(0, 1)), (process.calls_left, process.calls(1, 0)))
            most = min((left // max(1, each) for left, each in limits if left is not None), default=UNLIMITED)
        low, high = 1, most  # neither cost falls with n
        while low < high:
            middle = (low + high + 1) // 2
            if self._allowed(process, middle):
                low = middle
            else:
                high = middle - 1
        return low

    def _allowed(self, process: Process, n: int) -> bool:
        nfe, calls = process.nfe_left, process.calls_left
        return (nfe is None or self._spend(process, n) <= nfe) and (
            calls is None or self._calls(process, n) <= calls
        )

    def _spend(self, process: Process, n: int) -> int:
        spent, at = 0, 0
        for step, survivors in self._rungs(process, n):
            spent, at, n = spent + n * process.nfe(at, step), step, survivors
        return spent

    def _calls(self, process: Process, n: int) -> int:
        pools = [n, *(survivors for _, survivors in self._rungs(process, n))]  # the last two are the same
        return process.calls(sum(pools[:-2]), pools[-1])

    def cost(self, process: Process) -> int | None:
        n = self._count(process)
        return None if n is None else self._spend(process, n)
