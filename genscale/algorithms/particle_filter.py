"""The particle filter: sequential Monte Carlo along the reverse process (Feynman-Kac steering).

Target: p(x0) exp(strength R(x0)) / Z, p being the law of the base process and R the verifier's score (Singhal et
al. 2025, arXiv 2501.06848; Del Moral 2004). At scoring steps the clean estimates of the *current* states are
decoded and judged, log-weights are updated by a potential, and particles are resampled; the next transition starts
from the predictions that were made for scoring, so scoring costs no model call. The published methods are presets,
in samplers/.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from genscale.algorithms.budget_planning import CANDIDATES_WITHOUT_BUDGET, largest, payable, within
from genscale.algorithms.guided_proposal import NONE
from genscale.algorithms.particle_options import ParticleOptions
from genscale.algorithms.particle_pass import Pass
from genscale.algorithms.passes import repeat_passes
from genscale.diffusion.kernels import Glass, parse
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.population import Population
from genscale.protocol.queries import Query


@dataclass(frozen=True)
class ParticleFilter(ParticleOptions):
    """Sequential Monte Carlo along the reverse process, with the options of `ParticleOptions`."""

    # ---------------------------------------------------------------- the search

    def grid(self, process: Process) -> Process:
        """On second-order schedulers kernels step over the levels at which a step begins."""
        if any(isinstance(k, Glass) and k.inner > 1 for k in map(parse, (self.kernel, self.rest))):
            process.check_off_grid("glass")
        if self.interval < 1 and not self.scoring_steps(process):
            warnings.warn(
                f"a run of {process.model_steps} steps has none to score in window={self.window}, "
                f"interval={self.interval}: this will be best_of_n; take more steps or another window",
                stacklevel=2,
            )
        return process.regridded() if self.interval < 1 else process

    def search(self, process: Process, key: Key) -> Generator[Query, Any, Population | None]:
        def begin(first: int, before: Pass | None) -> Pass | None:
            n, children = self.plan(process)
            unit = None if before is None else before.unit
            return Pass(self, process, key, first, n, children, unit) if n else None

        passes: list[Population] = yield from repeat_passes(process, key, begin)
        population = Population.cat(passes) if passes else None
        if population is not None and self.strength == float("inf"):
            return population.of_the_best()
        return population

    # ---------------------------------------------------------------- cost

    def plan(self, process: Process) -> tuple[int, int]:
        """(particles, children) of the next pass: as given, or the most that the budget allows, first of particles,
        then of children of one particle; 0 particles where it allows none."""
        paid = payable(process, process.nfe(0, 1) * self.children, process.calls(0, 1) * self.children)
        most = self.particles or (CANDIDATES_WITHOUT_BUDGET if paid is None else paid)
        n = largest(most, lambda n: self._allowed(process, n, self.children))
        if n or self.children == 1:
            return n, self.children
        children = largest(self.children - 1, lambda m: self._allowed(process, 1, m))
        return min(children, 1), children

    def _allowed(self, process: Process, n: int, children: int) -> bool:
        return within(process, self.spend(process, n, children), self.calls(process, n, children))

    def spend(self, process: Process, n: int, children: int, ready: int = 0) -> int:
        """NFE of one pass with n particles, `ready` of which are a known path."""
        scoring, pool = self.scoring_steps(process), n * children - ready
        kernel, rest = self.kernels(process)
        if not scoring:
            return pool * process.nfe(0, process.steps, rest)
        spent = pool * process.nfe(0, scoring[0], rest)
        for i, step in enumerate(scoring):
            call = process.nfe(step, step + 1)
            last = i + 1 == len(scoring)
            until = step + 1 if last else scoring[i + 1]
            spent += pool * (self._slope_nfe(process, step) if self.steep else call)
            pool = n - ready if last else pool
            if self.gradient == NONE:
                spent += pool * (process.nfe(step, until, kernel) - call)
            else:
                spent += pool * sum(self._slope_nfe(process, s) for s in range(step + 1, until))
                spent += 0 if self.steep else n * self._slope_nfe(process, step)
        return spent + pool * process.nfe(scoring[-1] + 1, process.steps, rest)

    def calls(self, process: Process, n: int, children: int) -> int:
        """Verifier calls of one pass with n particles."""
        steps, pool = self.scoring_steps(process), n * children
        previews = len(steps) * pool
        if self.gradient != NONE and steps:
            previews += pool * (steps[-1] - steps[0] + 1 - len(steps)) + (0 if self.steep else n * len(steps))
        return process.calls(previews, n if steps else pool)

    def _slope_nfe(self, process: Process, step: int) -> int:
        return process.gradient_nfe(step, through=self.gradient)

    def cost(self, process: Process) -> int | None:
        if process.open_ended:
            return None
        return self.spend(process, self.particles or CANDIDATES_WITHOUT_BUDGET, self.children)
