"""Best of N with the noise in pairs, z and -z.

Antithetic variates are Hammersley & Morton 1956. That a diffusion model takes negated noise to strongly negatively
correlated images is Jia et al. 2025, "Antithetic Noise in Diffusion Models" (arXiv 2506.06185), where it serves
estimates of means; here it serves a search.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from genscale import Candidate, Key, Process, Score, Solve, UsageError

UNLIMITED = 16  # candidates when neither the user nor a budget says how many
OWN = 0  # the candidate of the pipeline's own noise
Query = Solve | Score


@dataclass(frozen=True)
class Antithetic:
    """Draw noises in pairs z, -z, finish all, keep the best.

    Where the score goes up along some direction of the noise, one of a pair is always on the good side: N candidates
    are then worth the best of N / 2 draws of |z|. On a score that is linear in the noise the best of 2 lies 0.80
    standard deviations above the mean (best_of_n: 0.56), of 4 it is 1.13 (1.03), of 16 1.78 (1.77). Where the score is
    the same for z and -z, half the candidates are wasted: then it is best_of_n of N / 2.

    candidates: N; None means as many as the budget allows (16 without one). pairs: pairs that are drawn at a time;
    it changes when scores are seen, never what they are.

    Cost in NFE: N f, f being the evaluations of one candidate. A budget that pays for fewer makes N smaller, and the
    last pair may lack its second half.
    """

    candidates: int | None = None
    pairs: int = 8

    # What the pipeline must be able to give, of "noise", "schedule", "mix", "branches", "gradient".
    needs: ClassVar[frozenset[str]] = frozenset({"noise"})

    def __post_init__(self) -> None:
        if self.candidates is not None and self.candidates < 1:
            raise UsageError(f"antithetic needs at least 1 candidate, not {self.candidates}.")
        if self.pairs < 1:
            raise UsageError(f"pairs={self.pairs} must be at least 1.")

    def search(self, process: Process, key: Key) -> Generator[Query, Any, None]:
        """Query for runs and scores; when the budget is spent the engine ends the search here, at a yield."""
        total, done = self._total(process), 0
        while total is None or done < total:
            n = 2 * self.pairs if total is None else min(2 * self.pairs, total - done)
            candidates = [self._candidate(key, done + i) for i in range(n)]
            drawn = {c.id: process.noise(c) for c in candidates if c.id % 2 == 0}
            noise = [drawn[c.id] if c.id in drawn else -drawn[c.id - 1] for c in candidates]
            finished = yield Solve(process.start(candidates, torch.stack(noise)))
            yield Score(finished)
            done += n

    def _candidate(self, key: Key, i: int) -> Candidate:
        """The recipe of candidate i, for the archive. Keys are folded by what is drawn, never by a place in a batch."""
        own_key = key.fold("candidate", i).path
        if i % 2 == 0:
            return Candidate(i, "own" if i == OWN else "prior", own_key)
        return Candidate(i, "neighbour", own_key, parent=i - 1, details={"cosine": -1.0})

    def _total(self, process: Process) -> int | None:
        if self.candidates is None and not process.open_ended:
            return UNLIMITED
        return self.candidates

    def cost(self, process: Process) -> int | None:
        """NFE when no budget stops it; None where it runs until the budget ends."""
        total = self._total(process)
        return None if total is None else total * process.nfe()
