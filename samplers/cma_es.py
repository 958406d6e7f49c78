"""CMA-ES on a few directions of the initial noise.

Hansen & Ostermeier 2001; the strategy itself is that of the package `cmaes` (Nomura & Shibata 2024, arXiv 2402.01373),
which follows Hansen's tutorial (arXiv 1604.00772). A covariance of all the noise cannot be learned or stored (its size
is squared), so the search is on a few random directions, as `snes` does it; there it also learns how they go together.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from genscale.errors import Refusal
from genscale.key import Key
from genscale.protocol import Ask, Process
from genscale.subspace import Climb


@dataclass(frozen=True)
class CmaEs:
    """Learn mean and covariance of the noise along a few random directions, by ranks of the scores.

    population: candidates a generation; None is 4 + floor(3 ln dimensions), as published. dimensions: random directions
    in a basis (ours). share: of the noise's variance that the directions have at first; 0 leaves the pipeline's own
    noise as it is, 1 leaves nothing of it (ours: 0.5 is an angle of 45 degrees). generations: on a basis before the
    next is drawn through the best noise so far (ours). rounds: generations in all; None means until the budget ends the
    search (4 without one).

    Needs the package cmaes. Cost in NFE: (1 + rounds * population) f, f being the evaluations of one candidate.
    """

    population: int | None = None
    dimensions: int = 16
    share: float = 0.5
    generations: int = 8
    rounds: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def __post_init__(self) -> None:
        self._climb.check("cma_es")

    @property
    def _climb(self) -> Climb:
        population = self.population
        if population is None:
            population = 4 + int(3 * math.log(max(self.dimensions, 1)))
        return Climb(population, self.dimensions, self.share, self.generations, self.rounds)

    def search(self, process: Process, key: Key) -> Generator[Ask, Any, None]:
        try:
            import cmaes  # noqa: F401
        except ImportError:
            raise Refusal(
                "cma_es needs the package cmaes: pip install 'genscale[cmaes]', or use snes."
            ) from None
        yield from self._climb.search(process, key, _Cma)

    def cost(self, process: Process) -> int | None:
        return self._climb.cost(process)


class _Cma:
    """The package's strategy, seeded from a key, climbing instead of descending."""

    def __init__(self, dimensions: int, population: int, key: Key) -> None:
        from cmaes import CMA

        seed = int(float(key.uniform(1)) * 2**32)
        self.cma = CMA(mean=np.zeros(dimensions), sigma=1.0, population_size=population, seed=seed)

    def ask(self) -> Tensor:
        return torch.from_numpy(np.stack([self.cma.ask() for _ in range(self.cma.population_size)]))

    def tell(self, z: Tensor, totals: Tensor) -> None:
        self.cma.tell([(point.numpy(), -float(total)) for point, total in zip(z, totals, strict=True)])
