"""Spectral evolution search: the cross-entropy method on the low Haar band of the initial noise.

"Spectral Evolution Search" (2026, arXiv 2602.03208; code yjy415/Spectral-Evolution-Search and DiffSynth-Studio). The
coarse structure of the noise determines that of the image, while its fine structure has little effect, so only the
low-frequency band is searched. The high-frequency bands stay those of the pipeline's own noise.

Differences: candidate 0 is the pipeline's own noise and belongs to the first generation. The search distribution begins
as a standard normal (the authors' code centres it at the own noise with unit variance, which is too wide). The paper
penalises the length of the low band, in units of one particular reward; here the lengths in later generations are
limited to those that standard normal bands have. A generation is one batch.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from genscale.algorithms.budget_planning import rounds_of
from genscale.algorithms.option_checks import check_options
from genscale.errors import UsageError
from genscale.key import Key
from genscale.numerics.haar import Plane
from genscale.protocol.answers import Scores
from genscale.protocol.interfaces import Process
from genscale.protocol.particles import OWN, Candidate, cat, draw
from genscale.protocol.queries import Query, Score, Solve

ROUNDS = 3  # generations where no number and no budget is given: the published budget of 30 candidates
HALVINGS = 14  # of 16,384 values, the largest side of an image
FLOOR = 1e-7  # variance that remains where all elites agree, as published
SHELL = 2.0  # 995 of 1000 vectors of k standard normal numbers have a length within 2 of sqrt(k)


@dataclass(frozen=True)
class CemLowfreq:
    """Cross-entropy method on the low-frequency part of the initial noise.

    The low-frequency part is drawn from a normal distribution that is fitted to the best candidates so far.

    population: candidates in each generation. 10 by default, published.
    elites: how many of the best candidates of all generations give the mean and the variance. 5 by default, published.
    level: how often height and width are halved. 4 by default, published for latents of 128 x 128, makes the searched
        space 256 times smaller. Smaller latents are halved less often, so that at least one number is left in each
        channel.
    spread: share of fresh noise in the low band of the first generation, which is sqrt(1 - spread^2) own + spread fresh
        and standard normal for every value. 1 by default, published; 0 leaves the pipeline's own noise as it is.
    rounds: number of generations. None, the default, continues until the budget ends the search (3 without one, the
        published budget of 30 candidates).
    rows: number of rows of the grid from which packed latents [tokens, channels] were made, such as those of Flux
        (there, image height / 16). With None, a square number of tokens is taken as a square grid, and for any other
        number the low frequencies are along the sequence of tokens.

    Cost in NFE: rounds * population f, f being the evaluations of one candidate.
    """

    population: int = 10
    elites: int = 5
    level: int = 4
    spread: float = 1.0
    rounds: int | None = None
    rows: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"noise"})
    size_option: ClassVar[str] = "population"

    def __post_init__(self) -> None:
        check_options(self, population=2, elites=1, level=0, rounds=1, rows=1)
        if self.level > HALVINGS:
            raise UsageError(
                f"level={self.level} halves more than any latents allow: give {HALVINGS} at most."
            )
        if self.elites > self.population:
            raise UsageError(
                f"cem_lowfreq needs no more elites than its population, not {self.elites} of {self.population}."
            )
        if not 0 <= self.spread <= 1:
            raise UsageError(f"spread={self.spread} must be between 0 and 1.")

    @classmethod
    def sized(cls, n: int) -> dict[str, Any]:
        """Half of the candidates are elites, as published."""
        return {"elites": max(1, n // 2)}

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        own = draw(key, OWN)
        noise = process.noise(own).double()
        plane = Plane.of(noise.shape, self.rows)
        low, high = plane.split(noise, self.level)
        mean, std = math.sqrt(1 - self.spread**2) * low, torch.full_like(low, self.spread)
        elite, done, rounds, lost_own = _Elite(), 0, rounds_of(process, self.rounds, ROUNDS), False
        while rounds is None or done < rounds:
            ids = range(max(1, done * self.population), (done + 1) * self.population)
            fresh = [self._drawn(key, i, done, elite, lost_own) for i in ids]
            white = torch.stack([plane.split(process.noise(c).double(), self.level)[0] for c in fresh])
            bands = mean + std * white
            if done > 0:
                bands = _on_shell(bands, float(low.norm()))
            start = process.start(fresh, torch.stack([plane.join(b, high) for b in bands]).float())
            if done == 0:
                start, bands = cat([process.start([own]), start]), torch.cat([low[None], bands])
            finished = yield Solve(start)
            scores: Scores = yield Score(finished)
            elite = elite.with_(finished.candidates, bands, scores, self.elites)
            if elite.candidates:
                mean = elite.bands.mean(0)
            else:  # all have failed: begin again from another noise
                low, high = plane.split(
                    process.noise(draw(key.fold("fresh", done), OWN + 1)).double(), self.level
                )
                mean = math.sqrt(1 - self.spread**2) * low
            lost_own = lost_own or (done == 0 and 0 not in scores.alive)
            if len(elite.bands) > 1:
                std = (elite.bands.var(0) + FLOOR * self.spread**2).sqrt()
            done += 1

    def _drawn(self, key: Key, i: int, generation: int, elite: _Elite, lost_own: bool) -> Candidate:
        """A candidate with the high bands of the pipeline's own noise; its details name the elites.

        Its parent is the pipeline's own candidate or, if that failed (lost_own), the best elite, if there is one.
        """
        parent: int | None = OWN
        if lost_own:
            parent = elite.candidates[0].id if elite.candidates else None
        learned = {f"elite{j}": c.id for j, c in enumerate(elite.candidates)}
        details = {"generation": generation, "level": self.level, "spread": self.spread, **learned}
        return Candidate(i, "neighbour", key.fold("candidate", i).path, parent, details=details)

    def cost(self, process: Process) -> int | None:
        rounds = rounds_of(process, self.rounds, ROUNDS)
        return None if rounds is None else rounds * self.population * process.nfe()


@dataclass(frozen=True)
class _Elite:
    """The best of all generations so far, best first, with their low bands."""

    candidates: tuple[Candidate, ...] = ()
    bands: Tensor = field(default_factory=lambda: torch.empty(0))
    scores: Scores | None = None

    def with_(self, candidates: Sequence[Candidate], bands: Tensor, scores: Scores, n: int) -> _Elite:
        """The best n of these and of newly scored candidates. New candidates that have no score are left out."""
        bands, candidates = bands[: len(scores)], candidates[: len(scores)]
        if self.scores is not None:  # the old come first, so they stay where scores are equal
            scores, bands = Scores.cat([self.scores, scores]), torch.cat([self.bands, bands])
        known, keep = (*self.candidates, *candidates), scores.ranking()[:n]
        return _Elite(tuple(known[i] for i in keep), bands[keep], scores[keep])


def _on_shell(bands: Tensor, own: float) -> Tensor:
    """Low bands [n, *band] with lengths limited to those of standard normal bands; the length `own` is allowed too."""
    k = bands[0].numel()
    least, most = min(own, max(0.0, math.sqrt(k) - SHELL)), max(own, math.sqrt(k) + SHELL)
    length = bands.flatten(1).norm(dim=1).view(-1, *[1] * (bands.ndim - 1))
    kept: Tensor = bands * (length.clamp(least, most) / length.clamp(min=torch.finfo(torch.float64).tiny))
    return kept
