"""Sequential Monte Carlo with tempering: the defaults that research and our own measurements favour."""

from __future__ import annotations

from dataclasses import dataclass

from genscale.kernel import Kernel
from genscale.particle_filter import ParticleFilter


@dataclass(frozen=True)
class Smc(ParticleFilter):
    """Tempered SMC for p(x0) exp(strength R(x0)) (Del Moral, Doucet & Jasra 2006; research notes on particles,
    section 12).

    Not one paper's scheme but the union of what holds up: the difference potential, growing strength (DAS), systematic
    resampling when the ESS falls to half, weights that are never dropped, entropic flattening early, and noise only
    while copies have to part.
    strength: 10, of FK steering. temper: "increasing", of DAS. kernel: ddim(0.5), the level of Flow-GRPO.

    Cost in NFE: N f(0, T), as N candidates of best_of_n; scores: N at each scoring step, and N at the end.
    """

    temper: str = "increasing"
    flatten: bool = True
    kernel: str | Kernel = "ddim(0.5)"
