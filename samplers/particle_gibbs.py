"""Particle Gibbs: repeated SMC sweeps, each conditioned on one path of the sweep before."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from genscale.algorithms.budget_planning import rounds_of, within
from genscale.algorithms.leftover_budget import spend_leftover_budget
from genscale.algorithms.option_checks import check_options
from genscale.algorithms.particle_filter import ParticleFilter
from genscale.algorithms.particle_pass import Pass
from genscale.algorithms.particle_pool import Path
from genscale.diffusion.kernels import Kernel
from genscale.errors import BudgetExhausted, UsageError
from genscale.key import Key
from genscale.numerics.resampling import resample
from genscale.protocol.interfaces import Process
from genscale.protocol.population import Population
from genscale.protocol.queries import Query


@dataclass(frozen=True)
class ParticleGibbs(ParticleFilter):
    """Particle Gibbs: repeated SMC sweeps, each conditioned on one path of the sweep before.

    Andrieu, Doucet & Holenstein 2010, section 4.3; for language models arXiv 2502.01618. Every sweep runs N particles.
    One of them is a path drawn from the sweep before, which costs nothing because it is already known. The paths drawn
    from the sweeps form a Markov chain that leaves p(x0) exp(strength R(x0)) invariant for any N of 2 or more, whereas
    one pass of SMC reaches this law for large N only. This makes it a way to spend more budget on few particles.

    particles: 4 by default, as in arXiv 2502.01618.
    sweeps: number of sweeps. None, the default, continues until the budget ends the search (4 sweeps without a budget).
    scheme, ess: "multinomial" and 1, which conditional resampling needs.

    The population holds the particles of all sweeps, with equal weight for each sweep.

    Cost in NFE: N f(0, T) for the first sweep and (N - 1) f(0, T) for each further one.
    """

    particles: int | None = 4
    sweeps: int | None = None
    temper: str = "increasing"
    scheme: str = "multinomial"
    ess: float = 1.0
    kernel: str | Kernel = "ddim(0.5)"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, sweeps=1)
        if (self.scheme, self.ess, self.children) != ("multinomial", 1, 1) or self.flatten:
            raise UsageError(
                "particle_gibbs resamples with scheme=multinomial, ess=1, children=1 and no flattening."
            )
        if self.temper == "adaptive" or self.strength == float("inf") or self._proposes:
            raise UsageError(
                "particle_gibbs needs a finite strength, a fixed tempering, and neither gradient nor proposal."
            )
        if self.particles is not None and self.particles < 2:
            raise UsageError(
                f"particles={self.particles} leaves none beside the path that is kept: give at least 2."
            )

    def search(self, process: Process, key: Key) -> Generator[Query, Any, Population | None]:
        populations: list[Population] = []
        reference: Path | None = None
        first, unit, sweep = 0, None, 0
        n = self.plan(process)[0]
        try:
            while n and not self._done(process, sweep, n):
                one = Pass(self, process, key, first, n, unit=unit, reference=reference, record=True)
                population = yield from one.run()
                populations.append(_level(population))
                first, unit, sweep = one.next_id, one.unit, sweep + 1
                if not population.candidates:  # all have failed
                    continue
                chosen = resample("multinomial", population.weights, 1, key.fold("sweep", sweep))
                reference = one.paths[int(chosen)]
        except BudgetExhausted:  # the time budget ended during a sweep
            first = one.next_id
        with suppress(BudgetExhausted):
            if self.sweeps is None or not populations:
                yield from spend_leftover_budget(process, key, first)
        return Population.cat(populations) if populations else None

    def _done(self, process: Process, sweep: int, n: int) -> bool:
        if sweep and n < 2:  # the budget pays for no particle beside the path that is kept
            return True
        if sweep and not within(process, self.spend(process, n, 1, ready=1), self.calls(process, n - 1, 1)):
            return True
        limit = self._sweeps(process)
        return limit is not None and sweep >= limit

    def _sweeps(self, process: Process) -> int | None:
        return rounds_of(process, self.sweeps)

    def cost(self, process: Process) -> int | None:
        sweeps, n = self._sweeps(process), self.particles or 0
        if sweeps is None:
            return None
        return self.spend(process, n, 1) + (sweeps - 1) * self.spend(process, n, 1, ready=1)


def _level(population: Population) -> Population:
    """The population with weights that sum to n: a conditional sweep gives no unbiased estimate of the evidence."""
    weights = population.weights.mul(len(population.candidates)).log()
    return replace(population, log_weights=weights, has_evidence=False)
