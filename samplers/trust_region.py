"""Trust-region search: many local searches around the best noises, each with a radius that adapts to its success.

TRS (2026, arXiv 2603.14504; code NiklasSchweiger/trust-region-noise-search, whose defaults these are), after TuRBO
(Eriksson et al. 2019, arXiv 1910.01465) without its surrogate model.

Differences: proposals are rescaled to the length of their centre's noise, whereas in the public code the length grows.
Pseudorandom numbers take the place of Sobol points, which torch has for at most 21201 dimensions. A region keeps its
radius with its centre, not with its rank. The share of perturbed numbers is drawn for each proposal.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.budget_planning import affordable, rounds_of
from genscale.algorithms.option_checks import check_options
from genscale.errors import UsageError
from genscale.key import Key
from genscale.protocol.answers import Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import Candidate, draw
from genscale.protocol.queries import Query, Score, Solve

WARMUP = 80  # published, of 400 evaluations
LEAST, MOST = 0.1, 0.9  # share of the numbers that a proposal perturbs, published


@dataclass(frozen=True)
class TrustRegion:
    """Trust-region search: perturb the best noises within boxes that grow on success and shrink on failure.

    regions: number of noises that are searched around, which are the best of all so far. 15 by default.
    batch: proposals in each round, divided among the regions, starting with the best. 20 by default.
    warmup: candidates before the first round, which are candidate 0 and fresh noises. None, the default, means a fifth
        of all that rounds or budget allow, as published, but at most the published 80.
    side: length of the sides of a region's box at first, in units of the noise's standard deviation. 0.8 by default.
    shortest, longest: bounds of these sides. 0.05 and 2.4 by default.
    factor, patience: sides are multiplied by `factor` after `patience` rounds in a row that improved on the centre of
        the region, and divided by it after as many that did not. A region that fails at its shortest sides begins again
        at `side`. 1.5 and 3 by default.
    rounds: rounds after the warm-up. None, the default, continues until the budget ends the search (4 rounds without a
        budget).

    Cost in NFE: (warmup + rounds * batch) f, f being the evaluations of one candidate.
    """

    regions: int = 15
    batch: int = 20
    warmup: int | None = None
    side: float = 0.8
    shortest: float = 0.05
    longest: float = 2.4
    factor: float = 1.5
    patience: int = 3
    rounds: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})
    size_option: ClassVar[str] = "batch"

    def __post_init__(self) -> None:
        check_options(self, regions=1, batch=1, patience=1, warmup=1, rounds=0)
        if not 0 <= self.shortest <= self.side <= self.longest < math.inf:
            raise UsageError(
                f"side={self.side} must be between shortest={self.shortest} and longest={self.longest}."
            )
        if not 1 < self.factor < math.inf:
            raise UsageError(f"factor={self.factor} must be above 1.")

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        rounds = rounds_of(process, self.rounds)
        warmup = self._warmup(process, rounds)
        begun = [draw(key, i) for i in range(warmup)]
        finished = yield Solve(process.start(begun))
        scores: Scores = yield Score(finished)
        at = scores.ranking()[: self.regions]
        regions = [Region(begun[i], process.noise(begun[i]), self.side) for i in at]
        best, done, first = scores[at], 0, warmup
        while rounds is None or done < rounds:
            if regions:
                homes = [regions[j % len(regions)] for j in range(self.batch)]
                candidates = [self._near(key, first + j, home) for j, home in enumerate(homes)]
                noise = [
                    _perturbed(process, c, home.noise) for c, home in zip(candidates, homes, strict=True)
                ]
            else:  # all candidates so far have failed
                candidates = [draw(key, first + j) for j in range(self.batch)]
                noise = [process.noise(c) for c in candidates]
            finished = yield Solve(process.start(candidates, torch.stack(noise)))
            scores = yield Score(finished)
            pool = Scores.cat([best, scores])
            regions = self._learned(regions, pool.total.tolist())
            places = regions or [Region(c, z, self.side) for c, z in zip(candidates, noise, strict=True)]
            born = [places[j % len(places)].moved(candidates[j], noise[j]) for j in range(len(scores))]
            at = pool.ranking()[: self.regions]  # the centres come first, so they stay where scores are equal
            regions, best = [[*regions, *born][i] for i in at], pool[at]
            first, done = first + self.batch, done + 1

    def _warmup(self, process: Process, rounds: int | None) -> int:
        if self.warmup is not None:
            return self.warmup
        n = affordable(process)
        fifths = [WARMUP]
        if n is not None:
            fifths.append(-(-n // 5))
        if rounds is not None:
            fifths.append(-(-rounds * self.batch // 4))
        return max(1, min(fifths))

    def _near(self, key: Key, i: int, home: Region) -> Candidate:
        own = key.fold("candidate", i)
        share = LEAST + (MOST - LEAST) * float(own.fold("share").uniform(1))
        return Candidate(
            i, "neighbour", own.path, home.centre.id, details={"side": home.side, "share": share}
        )

    def _learned(self, regions: list[Region], totals: list[float]) -> list[Region]:
        """The regions after a round. totals: the scores of their centres, then those of the proposals in turn."""
        k = len(regions)
        return [
            self._after(region, max(totals[k + r :: k]) > totals[r]) if totals[k + r :: k] else region
            for r, region in enumerate(regions)
        ]

    def _after(self, region: Region, success: bool) -> Region:
        """The published rule: `patience` successes in a row grow a region, and as many failures shrink it."""
        wins, losses = (region.wins + 1, 0) if success else (0, region.losses + 1)
        side = region.side
        if wins == self.patience:
            side, wins = min(side * self.factor, self.longest), 0
        if losses == self.patience:
            side, losses = (self.side if side == self.shortest else max(side / self.factor, self.shortest)), 0
        return replace(region, side=side, wins=wins, losses=losses)

    def cost(self, process: Process) -> int | None:
        rounds = rounds_of(process, self.rounds)
        return (
            None if rounds is None else (self._warmup(process, rounds) + rounds * self.batch) * process.nfe()
        )


@dataclass(frozen=True)
class Region:
    """A noise that is searched around, and its box.

    side: length of the sides of the box. wins, losses: rounds in a row that improved on the centre, or did not.
    """

    centre: Candidate
    noise: Tensor  # [*latent]
    side: float
    wins: int = 0
    losses: int = 0

    def moved(self, centre: Candidate, noise: Tensor) -> Region:
        return replace(self, centre=centre, noise=noise)


def _perturbed(process: Process, candidate: Candidate, centre: Tensor) -> Tensor:
    """A point of the box around a centre, rescaled to the centre's length; the centre itself for a side of 0."""
    side, share = candidate.details["side"], candidate.details["share"]
    if side == 0:
        return centre
    even = torch.special.ndtr(process.noise(candidate).double()) - 0.5  # uniform in [-1/2, 1/2]
    chosen = Key(candidate.key).fold("chosen").uniform(centre.numel()).view(centre.shape) < share
    base = centre.double()
    y = base + side * even * chosen
    kept: Tensor = y * (base.norm() / y.norm())
    return kept.to(centre.dtype)
