"""Best of N: draw N initial noises, run each to the end, keep the image with the best score.

Random search of Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps" (arXiv
2501.09732, section 3.1). With `prune` it becomes successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943,
algorithm 1) on the scores of the clean estimates: at each of the given fractions of the run, the candidates are ranked
and only the share `survivors` of them continues.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from genscale.algorithms.budget_planning import payable, wave_of
from genscale.algorithms.option_checks import check_options
from genscale.algorithms.preview_steps import check_fractions, steps_of
from genscale.algorithms.successive_halving import Halving
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import draw
from genscale.protocol.queries import Ask, Query, Score, Solve


@dataclass(frozen=True)
class BestOfN:
    """Best of N: run N noises to the end, or prune them early by previews, and keep the best image.

    candidates: N, the number of initial noises. None, the default, means as many as the budget or a stop rule allows
        (16 without either). Ma et al. vary N from 2 to 256.
    prune: increasing fractions of the run in (0, 1) at which the worse candidates are dropped. Empty by default, which
        drops none.
    survivors: share of the candidates that survives each pruning. 0.5 by default, as in successive halving.
    previews: increasing fractions of the run in [0, 1) at which previews are scored and nothing is dropped, for
        `genscale calibrate-verifier`. Empty by default.
    wave: candidates that are started together when nothing is pruned. None, the default, means 16, and 1 where a target
        score or a stop rule can end the search: these are checked after each wave, so that a larger one computes
        candidates in vain. Several prompts fill batches together; of a single prompt waves of 1 leave batches of one
        row, and a larger wave trades NFE for seconds. The size never changes scores.

    Cost in NFE: N f(0, T); with pruning at steps s_1 < s_2 < ... it is N f(0, s_1) + ceil(survivors N) f(s_1, s_2) +
    ..., f(a, b) being the evaluations of one candidate from step a to step b. Scores: N, and N for each of `previews`;
    with pruning those present at each step where some are dropped, and at the end. A budget that pays for fewer makes
    N smaller.
    """

    candidates: int | None = None
    prune: tuple[float, ...] = ()
    survivors: float = 0.5
    wave: int | None = None
    previews: tuple[float, ...] = ()

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def __post_init__(self) -> None:
        check_options(self, wave=1)
        self._halving.check("best_of_n", "prune")
        check_fractions("previews", self.previews, noise=True)
        if self.prune and self.previews:
            raise UsageError(
                "best_of_n scores previews where it prunes already: give prune or previews, not both."
            )

    @property
    def independent(self) -> bool:
        """Whether finished candidates are independent draws. With pruning they are not: only the better ones finish."""
        return not self.prune

    @property
    def asks(self) -> bool:
        """Whether prompts can share a budget. With pruning the size of a pool is planned before it begins."""
        return not self.prune

    @property
    def _halving(self) -> Halving:
        return Halving(self.candidates, self.prune, self.survivors)

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        if self.prune:
            yield from self._halving.search(process, key)
            return
        n, done = self._halving.count(process), 0
        looks = steps_of(self.previews, process)
        while n is None or done < n:
            wave = wave_of(process, self.wave)
            wave = yield Ask(
                process.nfe(), process.calls(len(looks), 1), wave if n is None else min(wave, n - done)
            )
            if looks:  # candidates that the budget does not finish would be previewed in vain
                paid = payable(process, process.nfe(), process.calls(len(looks), 1))
                wave = wave if paid is None else min(wave, max(paid, 1))
                looks = [] if paid == 0 else looks  # the verifier calls left are for finished candidates
            start = process.start([draw(key, done + i) for i in range(wave)])
            for step in looks:
                start = yield Solve(start, step)
                yield Score(start)
            finished = yield Solve(start)
            yield Score(finished)
            done += wave

    def cost(self, process: Process) -> int | None:
        return self._halving.cost(process)
