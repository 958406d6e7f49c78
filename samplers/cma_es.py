"""CMA-ES on a few directions of the initial noise.

Hansen & Ostermeier 2001. The strategy itself is that of the package `cmaes` (Nomura & Shibata 2024, arXiv 2402.01373),
which follows Hansen's tutorial (arXiv 1604.00772). The covariance matrix of all numbers of the noise is too large to be
learned or stored, so the search is on a few random directions, as in `snes`. Unlike `snes` it also learns how these
directions are correlated.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genscale.algorithms.subspace_evolution import Strategy, SubspaceRun
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.interfaces import Process
from genscale.protocol.queries import Query


@dataclass(frozen=True)
class CmaEs(SubspaceRun):
    """CMA-ES on a few random directions of the initial noise: learn mean and covariance from ranks of scores.

    It needs the package `cmaes`.

    Cost in NFE: (1 + rounds * population) f, f being the evaluations of one candidate.
    """

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        try:
            import cmaes  # noqa: F401
        except ImportError:
            raise UsageError(
                "cma_es needs the package cmaes: pip install 'genscale[cmaes]', or use snes."
            ) from None
        yield from super().search(process, key)

    def strategy(self, dimensions: int, population: int, key: Key) -> Strategy:
        return _Cma(dimensions, population, key)


class _Cma:
    """The strategy of the package, seeded from a key. It maximises the scores."""

    def __init__(self, dimensions: int, population: int, key: Key) -> None:
        from cmaes import CMA

        seed = int(float(key.uniform(1)) * 2**32)
        self.cma = CMA(mean=np.zeros(dimensions), sigma=1.0, population_size=population, seed=seed)

    def ask(self) -> Tensor:
        return torch.from_numpy(np.stack([self.cma.ask() for _ in range(self.cma.population_size)]))

    def tell(self, z: Tensor, totals: Tensor) -> None:
        told = [(point.numpy(), -float(total)) for point, total in zip(z, totals, strict=True)]
        # The package needs whole generations: the worst point stands for those that failed.
        worst = max(told, key=lambda pair: pair[1])
        self.cma.tell([*told, *[worst] * (self.cma.population_size - len(told))])
